import os

c = get_config()  # noqa: F821

c.JupyterHub.authenticator_class = "generic-oauth"
c.GenericOAuthenticator.login_service = "QR code"
c.GenericOAuthenticator.client_id = "jupyterhub"
c.GenericOAuthenticator.client_secret = os.environ["CLIENT_SECRET"]
c.GenericOAuthenticator.oauth_callback_url = "http://127.0.0.1:3000/hub/oauth_callback"
c.GenericOAuthenticator.authorize_url = "http://localhost:8080/oauth/authorize"
c.GenericOAuthenticator.token_url = "http://localhost:8080/oauth/token"
c.GenericOAuthenticator.userdata_url = "http://localhost:8080/oauth/userinfo"
c.GenericOAuthenticator.scope = ["openid", "profile", "email"]
c.GenericOAuthenticator.username_claim = "sub"
c.GenericOAuthenticator.allow_all = True

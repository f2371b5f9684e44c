import os

AUTHENTICATION_SOURCES = ["oauth2"]
OAUTH2_AUTO_CREATE_USER = True
OAUTH2_CONFIG = [
    {
        "OAUTH2_NAME": "qrlogin",
        "OAUTH2_DISPLAY_NAME": "QR code",
        "OAUTH2_ICON": "fa-qrcode",
        "OAUTH2_BUTTON_COLOR": "#1a7f37",
        "OAUTH2_CLIENT_ID": "pgadmin",
        "OAUTH2_CLIENT_SECRET": os.environ["CLIENT_SECRET"],
        "OAUTH2_SERVER_METADATA_URL": "http://localhost:8080/.well-known/openid-configuration",
        "OAUTH2_AUTHORIZATION_URL": "http://localhost:8080/oauth/authorize",
        "OAUTH2_TOKEN_URL": "http://localhost:8080/oauth/token",
        "OAUTH2_API_BASE_URL": "http://localhost:8080/oauth/",
        "OAUTH2_USERINFO_ENDPOINT": "userinfo",
        "OAUTH2_SCOPE": "openid email profile",
        "OAUTH2_USERNAME_CLAIM": "sub",
        "OAUTH2_CHALLENGE_METHOD": "S256",
        "OAUTH2_RESPONSE_TYPE": "code",
        "OAUTH2_LOGOUT_URL": "http://localhost:8080/oauth/logout"
        "?post_logout_redirect_uri={redirect_uri}&id_token_hint={id_token}",
    }
]

"""A site that logs its users in with Authlib: its pages are "/", "/login" and "/callback", and "/logout" is a form."""

import os
import secrets
from urllib.parse import urlencode

from authlib.integrations.flask_client import OAuth
from flask import Flask, redirect, render_template_string, session, url_for

ISSUER = os.environ.get("ISSUER", "http://localhost:8080")

app = Flask(__name__)
app.secret_key = os.environ.get("COOKIE_SECRET") or secrets.token_hex(32)
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"

oauth = OAuth(app)
oauth.register(
    "qrlogin",
    client_id="site",
    client_secret=os.environ["CLIENT_SECRET"],
    server_metadata_url=f"{ISSUER}/.well-known/openid-configuration",
    client_kwargs={"scope": "openid profile email", "code_challenge_method": "S256"},
)

PAGE = """<!doctype html><title>Site</title>
{% if user %}
<p>You are <b id="user">{{ user.name }}</b>, {{ user.email }}.</p>
<form method="post" action="/logout"><button>Log out</button></form>
{% else %}<a href="/login">Log in</a>{% endif %}"""


@app.get("/")
def home():
    return render_template_string(PAGE, user=session.get("user"))


@app.get("/login")
def login():
    return oauth.qrlogin.authorize_redirect(url_for("callback", _external=True))


@app.get("/callback")
def callback():
    token = oauth.qrlogin.authorize_access_token()
    # Authlib has verified the ID token. The claims of the scopes are in it and in the userinfo response.
    session["user"] = oauth.qrlogin.userinfo(token=token)
    session["id_token"] = token["id_token"]
    return redirect("/")


@app.post("/logout")
def logout():
    end = oauth.qrlogin.load_server_metadata()["end_session_endpoint"]
    query = {"id_token_hint": session.pop("id_token"), "post_logout_redirect_uri": url_for("home", _external=True)}
    session.clear()
    return redirect(f"{end}?{urlencode(query)}")


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "3000")))

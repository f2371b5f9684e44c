"""A site with Flask: users log in with a form or with qrlogin, and approve logins on a page of the site."""

import os
import secrets
import threading
import time
from urllib.parse import urlsplit

import jwt
from flask import Flask, abort, redirect, render_template_string, request, session

QRLOGIN = os.environ.get("LOGIN_URL", "http://localhost:8080")  # `public_url` of qrlogin
SITE = os.environ.get("SITE_URL", "http://localhost:3000")  # the URL of this site
SECRET = os.environ["APP_TOKEN_SECRET"]  # `app_auth.hmac_secret` of qrlogin
PEOPLE = {"ann": "Ann Miller", "bob": "Bob Jones", "li": "李雷"}  # in your database, with hashes of passwords

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Example site</title><main>%s</main></html>"""
HOME = PAGE % """<h1>Hello, <span id="user">{{ session.name }}</span></h1>
<form method="post" action="/logout"><button>Log out</button></form>"""
SCAN = PAGE % """<h1>Log in</h1>
<script type="module" src="{{ qrlogin }}/js/qr-login.js" crossorigin="anonymous"></script>
<qr-login endpoint="{{ qrlogin }}"></qr-login>
<script type="module" src="/static/login.js"></script>
<p><a href="/login">Log in without a phone</a></p>"""
LOGIN = PAGE % """<h1>Log in</h1>
<script type="module" src="{{ qrlogin }}/js/keep-code.js" crossorigin="anonymous"></script>
<form method="post"><input type="hidden" name="next" value="{{ next }}">
<p><label>User <select name="user">{% for id in people %}<option>{{ id }}</option>{% endfor %}</select></label>
<p><label>Password <input name="password" type="password" placeholder="any, in this example"></label>
<p><button>Log in</button></form>"""
APPROVE = PAGE % """
<script type="module" src="{{ qrlogin }}/js/qr-approve.js" crossorigin="anonymous"></script>
<qr-approve endpoint="{{ qrlogin }}" token-url="/approve/token" login-url="/login">
  <p slot="header">You are {{ session.name }}.</p>
</qr-approve>"""
FAILED = PAGE % '<h1>Login failed</h1><a href="/">Try again</a>'
POLICY = (
    f"default-src 'none'; script-src 'self' {QRLOGIN}; img-src data:; form-action 'self'; base-uri 'none'; "
    f"connect-src 'self' {QRLOGIN} {QRLOGIN.replace('http', 'ws', 1)}; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)

app = Flask(__name__)
# The session is a signed cookie. Give a real site a fixed secret, so that a restart keeps the sessions.
app.secret_key = os.environ.get("COOKIE_SECRET") or secrets.token_bytes(32)
app.config.update(SESSION_COOKIE_SAMESITE="Lax", SESSION_COOKIE_SECURE=SITE.startswith("https:"))


@app.before_request
def refuse_other_sites():
    """Browsers send Origin with each POST."""
    if request.method == "POST" and request.headers.get("Origin", SITE) != SITE:
        abort(403)


@app.after_request
def add_headers(response):
    response.headers.update({"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})
    return response


def render(page, **values):
    return render_template_string(page, qrlogin=QRLOGIN, people=PEOPLE, **values)


def begin(user, **claims):
    session.clear()
    session.update(user=user, name=PEOPLE.get(user, user), **claims)


@app.get("/")
def home():
    return render(HOME if "user" in session else SCAN)


@app.get("/login")
def login_form():
    return render(LOGIN, next=request.args.get("next", "/"))


@app.post("/login")
def login():
    user, next_page = request.form.get("user"), request.form.get("next", "")
    if user not in PEOPLE:  # check the password here
        return redirect("/login-failed", 303)
    begin(user, logged_in_at=int(time.time()))
    # Never redirects to another site: the approve page is the only other page.
    return redirect(next_page if next_page.split("#")[0] == "/approve" else "/", 303)


@app.get("/login-failed")
def login_failed():
    return render(FAILED)


@app.post("/logout")
def logout():
    session.clear()
    return redirect("/", 303)


# The phone: `approve.url` of qrlogin is this page, with `#{code}`. The fragment survives the redirect.
@app.get("/approve")
def approve():
    return render(APPROVE) if "user" in session else redirect("/login?next=/approve", 303)


@app.post("/approve/token")
def approve_token():
    if request.headers.get("X-QR-Approve") != "1":
        abort(400)
    if "user" not in session:
        abort(401)
    now = int(time.time())
    claims = {"sub": session["user"], "name": session["name"], "iat": now, "exp": now + 60}
    if "logged_in_at" in session:
        claims["auth_time"] = session["logged_in_at"]
    return {"token": jwt.encode(claims, SECRET, "HS256")}


# The browser with the code: a `web_token` is exchanged once for a session.
keys = jwt.PyJWKClient(f"{QRLOGIN}/.well-known/jwks.json")
used = {}  # the expiry of each exchanged token by its `jti`; in your database
lock = threading.Lock()


def verify(token):
    """Returns the user of a `web_token` that is valid and was not exchanged before, or None."""
    try:
        key = keys.get_signing_key_from_jwt(token).key
        options = {"require": ["sub", "exp", "jti"]}
        decoded = jwt.api_jwt.decode_complete(token, key, ["EdDSA"], issuer=QRLOGIN, audience=QRLOGIN, options=options)
    except jwt.PyJWTError:
        return None
    claims = decoded["payload"]
    if decoded["header"].get("typ") != "qrlogin+jwt":
        return None
    with lock:  # two requests with one token cannot both pass
        for jti in [jti for jti, expiry in used.items() if expiry < time.time()]:
            del used[jti]
        if claims["jti"] in used:
            return None
        used[claims["jti"]] = claims["exp"]
    return claims["sub"]


@app.post("/session")
def exchange():
    user = verify(request.headers.get("Authorization", "")[7:])
    if user is None:
        abort(401)
    begin(user)
    return "", 204


if __name__ == "__main__":
    app.run("localhost", urlsplit(SITE).port or 3000)

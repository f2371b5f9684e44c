"""Logs in with Authlib by the device grant, and then uses its refresh token for each line of the input.

Writes a line for each result. A refresh that fails leaves the token as it is, so that the next one repeats it.
"""

import os
import sys
import time

from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session

ISSUER = os.environ["ISSUER"]
GRANT = "urn:ietf:params:oauth:grant-type:device_code"

session = OAuth2Session("program", scope="openid offline_access", token_endpoint_auth_method="none")
form = {"client_id": session.client_id, "scope": session.scope}
started = session.request("POST", f"{ISSUER}/oauth/device_authorization", data=form, withhold_token=True).json()
while not session.token:
    time.sleep(started["interval"])
    try:
        session.fetch_token(f"{ISSUER}/oauth/token", grant_type=GRANT, device_code=started["device_code"])
    except OAuthError as error:
        if error.error != "authorization_pending":
            raise
print("logged in", flush=True)
for _ in sys.stdin:
    try:
        session.refresh_token(f"{ISSUER}/oauth/token")
        session.get(f"{ISSUER}/oauth/userinfo").raise_for_status()
        print("refreshed", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)

"""A program without a browser that logs its user in with the device grant (RFC 8628).

Authlib has no client for the polling, so the program polls by itself with Authlib's OAuth2Session.
"""

import json
import os
import time

from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session

ISSUER = os.environ.get("ISSUER", "http://localhost:8080")
GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def poll(session, endpoint, started):
    """Polls until the user has decided. Returns the tokens."""
    interval = started.get("interval", 5)
    while True:
        time.sleep(interval)
        try:
            return session.fetch_token(endpoint, grant_type=GRANT, device_code=started["device_code"])
        except OAuthError as error:
            if error.error == "slow_down":
                interval += 5
            elif error.error != "authorization_pending":
                raise


def main():
    session = OAuth2Session("program", scope="openid profile email offline_access", token_endpoint_auth_method="none")
    metadata = session.request("GET", f"{ISSUER}/.well-known/openid-configuration", withhold_token=True).json()
    started = session.request(
        "POST",
        metadata["device_authorization_endpoint"],
        data={"client_id": session.client_id, "scope": session.scope},
        withhold_token=True,
    ).json()
    print(
        f"Open {started['verification_uri']} and type {started['user_code']}, "
        f"or scan {started['verification_uri_complete']}",
        flush=True,
    )
    poll(session, metadata["token_endpoint"], started)
    print(json.dumps(session.get(metadata["userinfo_endpoint"]).json()), flush=True)
    session.refresh_token(metadata["token_endpoint"])
    print(json.dumps(session.get(metadata["userinfo_endpoint"]).json()), flush=True)


main()

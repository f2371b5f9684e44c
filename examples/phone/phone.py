#!/usr/bin/env python3
"""A phone as a script: scans the code of a login, shows which browser asks, and sends the user's decision.

The app token comes from the environment variable APP_TOKEN, because other users of the machine can read a command line.
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request


class Refused(Exception):
    """A response that is not 200, as application/problem+json (RFC 9457)."""


def call(server, path, body):
    """Returns the response of a call of the phone's API, with the app token. Raises Refused."""
    headers = {"Authorization": f"Bearer {os.environ['APP_TOKEN']}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}/v1/qr-login/{path}", json.dumps(body).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        try:
            problem = json.load(error)
            raise Refused(f"{error.code} {problem['code']}: {problem.get('detail') or problem['title']}") from None
        except (ValueError, KeyError):
            raise Refused(f"{error.code} {error.reason}") from None


def show(scanned):
    """Prints the response of scan, which the user needs for the decision."""
    client = scanned["client"]
    for name in ("browser", "os", "ip", "origin", "client_info", "time"):
        if client.get(name):
            # The browser chooses some of these texts. Control characters in them could change the terminal.
            print(f"{name}: {''.join(letter for letter in str(client[name]) if letter.isprintable())}")
    if scanned.get("risk"):
        print(f"different from this phone: {', '.join(scanned['risk'])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", help="the content of the QR code: a URL, or its last part")
    parser.add_argument("--server", default="http://localhost:8080", help="public_url of qrlogin [default: %(default)s]")
    decision = parser.add_mutually_exclusive_group()
    decision.add_argument("--confirm", action="store_true", help="confirm without a question")
    decision.add_argument("--reject", action="store_true", help="reject without a question")
    parser.add_argument("--number", help="the number that the browser shows, with session.number_matching")
    flags = parser.parse_args()
    if not os.environ.get("APP_TOKEN"):
        parser.error("set APP_TOKEN, for example to the output of: qrlogin gen-token --user ann")

    server = flags.server.rstrip("/")
    scanned = call(server, "scan", {"code": flags.code})
    show(scanned)
    answer = "y" if flags.confirm else "n" if flags.reject else input("Log in this browser? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        return call(server, "reject", {"code": flags.code})
    body = {"code": flags.code}
    if numbers := scanned.get("numbers"):
        body["number"] = flags.number or input(f"Which number does the browser show? {' '.join(numbers)} ").strip()
    return call(server, "confirm", body)


if __name__ == "__main__":
    try:
        print(main()["status"])
    except Refused as refusal:
        sys.exit(f"refused: {refusal}")
    except OSError as error:
        sys.exit(f"the server cannot be reached: {getattr(error, 'reason', error)}")
    except (EOFError, KeyboardInterrupt):
        sys.exit("no decision was sent")

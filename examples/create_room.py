"""Creates a room that only people with a token may join, and prints a link for a guest.

usage: PLENUM_SECRET_KEY=<your secret key> python3 examples/create_room.py [<address of Plenum>]
"""

import json
import os
import sys
import urllib.request

URL = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8080"


def call(path, body):
    """Calls the API; raises urllib.error.HTTPError where it says no."""
    request = urllib.request.Request(
        URL + path,
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['PLENUM_SECRET_KEY']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


room = call("/api/v1/room", {"privacy": "private", "maxParticipants": 10})
token = call("/api/v1/token", {"roomName": room["roomName"], "name": "Bob"})
print(f"{URL}/{room['roomName']}?token={token['token']}")

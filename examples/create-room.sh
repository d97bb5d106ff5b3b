#!/usr/bin/env bash
# Creates a room and prints its link.
# usage: PLENUM_SECRET_KEY=<your secret key> examples/create-room.sh [<address of Plenum>]
set -euo pipefail

url=${1:-http://localhost:8080}
room=$(curl --fail-with-body --silent --show-error "$url/api/v1/room" \
    --header "Authorization: Bearer ${PLENUM_SECRET_KEY:?is not set}" \
    --header 'Content-Type: application/json' \
    --data '{ "privacy": "public", "maxParticipants": 10 }')
name=$(sed -n 's/.*"roomName":"\([^"]*\)".*/\1/p' <<<"$room")
echo "$url/$name"

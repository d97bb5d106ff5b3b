"""Verifies webhooks with the reference library: each line of the input is one, the output says of each whether it is good."""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    given = json.loads(line)
    try:
        Webhook(given["secret"]).verify(given["body"], given["headers"])
        print("good")
    except WebhookVerificationError as error:
        print(f"bad: {error}")

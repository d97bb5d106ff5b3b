"""A mail server: says on which port it listens, and then, a line of JSON each, what it is sent.

Its argument is a JSON object: `answers` are what it says to the first messages, in the place of that it takes them; with
`certificate` and `key`, files, it wants STARTTLS, or with `wrapped` TLS from the start; with `user` and `password` a login.
"""

import asyncio
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

given = json.loads(sys.argv[1])
answers = list(given.get("answers", []))


def tell(what):
    print(json.dumps(what), flush=True)


class Handler:
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        tell({
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None or given.get("wrapped", False),
            "login": session.authenticated,
            "headers": {name.lower(): str(value) for name, value in message.items()},
            "types": [part.get_content_type() for part in message.walk()],
            "text": message.get_body(("plain",)).get_content(),
            "html": message.get_body(("html",)).get_content(),
        })
        return answers.pop(0) if answers else "250 taken"


def authenticate(server, session, envelope, mechanism, login):
    good = (login.login, login.password) == (given["user"].encode(), given["password"].encode())
    return AuthResult(success=good)


def context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given["certificate"], given["key"])
    return context


def serve():
    tls = "certificate" in given and not given.get("wrapped")
    login = "user" in given
    return SMTP(
        Handler(),
        hostname="localhost",
        tls_context=context() if tls else None,
        require_starttls=tls,
        authenticator=authenticate if login else None,
        auth_required=login,
        auth_require_tls=tls,
    )


async def main():
    loop = asyncio.get_running_loop()
    wrapped = context() if given.get("wrapped") else None
    server = await loop.create_server(serve, "127.0.0.1", 0, ssl=wrapped)
    tell(server.sockets[0].getsockname()[1])
    # It ends with the test, which holds the other end.
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())

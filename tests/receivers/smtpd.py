"""A real mail server for tests: aiosmtpd, with a mailbox on disk and recipients that it refuses by their names.

serve PORT MODE FOLDER [CERTIFICATE KEY [USER PASSWORD]]   MODE: starttls, tls, plain
parse FILE                                                 prints a stored mail as JSON, with every defect Python finds
"""

import asyncio
import email
import email.policy
import json
import signal
import ssl
import sys


def serve(port, mode, folder, certificate=None, key=None, user=None, password=None):
    from aiosmtpd.controller import UnthreadedController
    from aiosmtpd.handlers import Mailbox
    from aiosmtpd.smtp import SMTP, AuthResult

    class Handler(Mailbox):
        async def handle_RCPT(self, server, session, envelope, address, options):
            session.protected = server.transport.get_extra_info("ssl_object") is not None
            if address.startswith("gone"):
                return "550 5.1.1 there is nobody of that name"
            if address.startswith("later"):
                return "450 4.2.0 greylisted"
            if address.startswith("never"):
                await asyncio.sleep(600)
            envelope.rcpt_tos.append(address)
            return "250 OK"

        def prepare_message(self, session, envelope):
            message = super().prepare_message(session, envelope)
            message["X-Test-Protected"] = "yes" if session.protected else "no"
            message["X-Test-Login"] = (session.auth_data or b"").decode() if session.authenticated else ""
            return message

    def login(server, session, envelope, mechanism, data):
        given = data.password.decode()
        if data.login.decode() == user and given == password:
            return AuthResult(success=True, auth_data=data.login)
        # A server that talks too much.
        return AuthResult(success=False, handled=False, message=f"535 5.7.8 not with {given}")

    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    options = {"hostname": "mail.test"}
    if mode == "starttls":
        options.update(tls_context=context, require_starttls=True)
    if user:
        options.update(authenticator=login, auth_required=True, auth_require_tls=mode == "starttls")
    loop = asyncio.new_event_loop()
    handler = Handler(folder)
    made = loop.create_server(
        lambda: SMTP(handler, loop=loop, **options), "127.0.0.1", int(port), ssl=context if mode == "tls" else None
    )
    loop.run_until_complete(made)
    loop.add_signal_handler(signal.SIGTERM, loop.stop)
    print("ready", flush=True)
    loop.run_forever()


def parse(path):
    with open(path, "rb") as file:
        message = email.message_from_binary_file(file, policy=email.policy.default)
    parts, defects = [], [str(defect) for defect in message.defects]
    for part in message.walk():
        defects += [str(defect) for defect in part.defects]
        kind = part.get_content_type()
        content = part.get_content() if kind.startswith("text/") else None
        parts.append({"type": kind, "content": content, "id": part["Content-ID"], "name": part.get_filename()})
    for name, value in message.items():
        defects += [f"{name}: {defect}" for defect in getattr(value, "defects", ())]
    headers = {name: str(value) for name, value in message.items()}
    print(json.dumps({"headers": headers, "parts": parts, "defects": defects}))


if __name__ == "__main__":
    {"serve": serve, "parse": parse}[sys.argv[1]](*sys.argv[2:])

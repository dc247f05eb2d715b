"""Ways out for alerts: each is a sender of the audit forwarder, which keeps its position, and tries again until it is delivered.

The queue holds one JSON object for each alert. Mail and webhooks are answered one by one; when some of a batch were delivered and
the next was not, those are not delivered again by this process. After a crash an alert may come twice: `id` tells.
"""

from __future__ import annotations

import email.policy
import hashlib
import hmac
import http.client
import json
import smtplib
import ssl
from collections.abc import Callable, Sequence
from datetime import datetime
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from securepacs.audit.alerts.settings import AlertSettings, MailChannel, SyslogChannel, WebhookChannel
from securepacs.audit.forwarder import SyslogSender
from securepacs.audit.senders import Transport, make_sender
from securepacs.audit.syslog import to_record
from securepacs.errors import Unavailable
from securepacs.tls import client_context
from securepacs.tokens.pin import pin_source

APP_NAME, MSGID = "securepacs-alerts", "alert"
PRI = 81  # facility 10 (security), severity 1 (alert)
_SECONDS = 20.0
_POLICY = email.policy.SMTP.clone(max_line_length=500)  # a subject stays on its line


class _OneByOne:
    """A sender without a connection: every alert is a delivery of its own, with an answer."""

    def __init__(self, deliver: Callable[[dict[str, Any], bytes], None]) -> None:
        """`deliver(alert, record)` takes one alert, of which `record` is the JSON, or raises Unavailable."""
        self._deliver_one = deliver
        self._delivered: set[bytes] = set()  # of a batch that was not delivered whole

    def connect(self) -> None:
        """Nothing stays open."""

    def check(self) -> None:
        """Nobody is known to be gone."""

    def close(self, *, seconds: float = 10.0) -> bool:
        """What was sent was answered."""
        return True

    def abort(self) -> None:
        """Nothing is open."""

    def interrupt(self) -> None:
        """A delivery ends by its own time limit."""

    def send(self, records: Sequence[bytes]) -> None:
        """Deliver alerts in order. Raises Unavailable at the first that is not taken."""
        for record in records:
            if record not in self._delivered:
                self._deliver_one(json.loads(record), record)
                self._delivered.add(record)
        self._delivered.clear()


class MailSender(_OneByOne):
    """One message for each alert."""

    def __init__(self, channel: MailChannel) -> None:
        super().__init__(self._deliver)
        self._channel = channel

    def _deliver(self, alert: dict[str, Any], record: bytes) -> None:
        channel, message = self._channel, EmailMessage(_POLICY)
        message["From"], message["To"] = channel.sender, ", ".join(channel.to)
        message["Subject"] = f"[securepacs] {alert['kind']}: {alert['text']}"[:200]
        message["Message-ID"] = f"<{alert['id']}@{APP_NAME}>"
        lines = [f"{name}: {value}" for name, value in alert.items()]
        message.set_content("\n".join([alert["text"], "", *lines, "", f"What to do: docs/reference/alerts.md#{alert['kind']}", ""]))
        try:
            with self._connection() as server:
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            raise Unavailable(f"{channel.server} does not take mail: {type(error).__name__}") from None

    def _connection(self) -> smtplib.SMTP:
        channel = self._channel
        context = _tls(channel.trust)
        if channel.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(channel.server, channel.port, timeout=_SECONDS, context=context)
        else:
            server = smtplib.SMTP(channel.server, channel.port, timeout=_SECONDS)
        try:
            if channel.security == "starttls":
                server.starttls(context=context)
            if channel.user and channel.password_file is not None:
                server.login(channel.user, pin_source(pin_file=channel.password_file)())
        except BaseException:
            server.close()
            raise
        return server


class WebhookSender(_OneByOne):
    """One POST for each alert; any answer of 2xx is a delivery. Redirections are not followed."""

    def __init__(self, channel: WebhookChannel) -> None:
        super().__init__(self._deliver)
        self._channel = channel
        self._url = urlsplit(channel.url)

    def _deliver(self, alert: dict[str, Any], record: bytes) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": alert["id"], "User-Agent": APP_NAME}
        if self._channel.secret_file is not None:
            secret = pin_source(pin_file=self._channel.secret_file)().encode()
            headers["X-Securepacs-Signature"] = "sha256=" + hmac.new(secret, record, hashlib.sha256).hexdigest()
        connection = self._connection()
        target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        try:
            connection.request("POST", target, body=record, headers=headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{self._url.hostname} does not take alerts: {type(error).__name__}") from None
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise Unavailable(f"{self._url.hostname} answered {status}")

    def _connection(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, self._url.port, timeout=_SECONDS, context=_tls(self._channel.trust))
        return http.client.HTTPConnection(host, self._url.port, timeout=_SECONDS)


class SyslogAlertSender:
    """Puts each alert as one line of JSON into a syslog record and hands it to a sender of records."""

    def __init__(self, sender: SyslogSender, hostname: str) -> None:
        self._sender = sender
        self._hostname = hostname
        self.connect, self.check, self.close = sender.connect, sender.check, sender.close
        self.abort, self.interrupt = sender.abort, sender.interrupt

    def send(self, records: Sequence[bytes]) -> None:
        """Send alerts in order. Raises Unavailable."""
        self._sender.send([self._record(record) for record in records])

    def _record(self, record: bytes) -> bytes:
        at = datetime.fromisoformat(json.loads(record)["at"])
        return to_record(record, hostname=self._hostname, app_name=APP_NAME, procid="-", at=at, msgid=MSGID, pri=PRI)


def channels_of(settings: AlertSettings, hostname: str) -> dict[str, Callable[[], SyslogSender]]:
    """Return how to make the sender of every channel, by the name of its position."""
    made: dict[str, Callable[[], SyslogSender]] = {}
    for mail in settings.mail:
        made[_name("mail", mail.server, *mail.to)] = partial(MailSender, mail)
    for hook in settings.webhook:
        made[_name("webhook", hook.url)] = partial(WebhookSender, hook)
    for receiver in settings.syslog:
        name = _name("syslog", receiver.transport, receiver.host, str(receiver.port))
        made[name] = partial(_syslog_alerts, receiver, hostname)
    return made


def _syslog_alerts(channel: SyslogChannel, hostname: str) -> SyslogSender:
    return SyslogAlertSender(_syslog(channel), hostname)


def _syslog(channel: SyslogChannel) -> SyslogSender:
    def context() -> ssl.SSLContext:
        return client_context(trust=channel.trust, certificate=channel.certificate, key=channel.key)

    return make_sender(Transport(channel.transport), channel.host, channel.port, context=context)


def _tls(trust: Sequence[Path]) -> ssl.SSLContext:
    return client_context(trust=trust) if trust else ssl.create_default_context()


def _name(kind: str, *parts: str) -> str:
    """Name a channel stably and fit for a file; addresses stay out of it."""
    return f"{kind}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"

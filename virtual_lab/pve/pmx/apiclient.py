"""A node's client of another node's API: it trusts one certificate, by fingerprint, before it says a word."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from .cluster import colons
from .errors import Failure

PORT = 8006
TIMEOUT = 30.0


class WrongCertificate(Exception):
    """The other side showed another certificate than the one that is known."""


class PinnedConnection(http.client.HTTPSConnection):
    """HTTPS to a server with exactly this certificate; with no fingerprint to none."""

    def __init__(self, host: str, fingerprint: str | None, *, timeout: float = TIMEOUT) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The fingerprint is checked below; a chain proves nothing about a certificate that is pinned.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        super().__init__(host, PORT, context=context, timeout=timeout)
        self._fingerprint = fingerprint

    def connect(self) -> None:
        """Connect; WrongCertificate when the fingerprint is another."""
        super().connect()
        shown = colons(hashlib.sha256(self.sock.getpeercert(binary_form=True) or b"").hexdigest())
        if self._fingerprint is None or shown != self._fingerprint.upper():
            self.close()
            raise WrongCertificate(shown)


class Client:
    """A logged-in session with another node, as root@pam."""

    def __init__(self, host: str, fingerprint: str) -> None:
        self.host, self._fingerprint = host, fingerprint
        self._headers: dict[str, str] = {}

    def login(self, password: str) -> None:
        """Get a ticket; Failure 401 when the password is wrong."""
        answer = self.call("POST", "/access/ticket", {"username": "root@pam", "password": password})
        self._headers = {"Cookie": f"PVEAuthCookie={answer['ticket']}",
                         "CSRFPreventionToken": answer["CSRFPreventionToken"]}  # fmt: skip

    def call(self, method: str, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The `data` of the answer; Failure with the other side's message."""
        body = urlencode(dict(params)) if params is not None else None
        headers = (
            {**self._headers, "Content-Type": "application/x-www-form-urlencoded"} if body else self._headers
        )
        connection = PinnedConnection(self.host, self._fingerprint)
        try:
            connection.request(method, f"/api2/json{path}", body, dict(headers))
            answer = connection.getresponse()
            raw = answer.read()
        except WrongCertificate as wrong:
            raise Failure(f"fingerprint '{wrong}' not verified, abort!") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Failure(f"500 Can't connect to {self.host}:{PORT} ({reason})") from None
        finally:
            connection.close()
        return _data(answer.status, answer.reason, raw)


def _data(status: int, reason: str, raw: bytes) -> Any:
    content = json.loads(raw) if raw.startswith(b"{") else {}
    if status != 200:
        raise Failure(f"{status} {reason}", code=status, errors=content.get("errors"))
    return content.get("data")

"""Whose certificate a BMC must show: one the system's CAs signed, one that one CA signed, or a pinned one."""

from __future__ import annotations

import hashlib
import socket
import ssl
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from provision import read_only
from provision.errors import Unreachable
from provision.redfish.machine import Console, Machine


class Trust(HTTPAdapter):
    """Judges the certificate of every connection, the login's among them, by what the lab file trusts.

    Whatever `verify` a caller of requests gives is not asked. In a session that only reads, nothing but GET
    goes through, and `logins`: the requests, by method and path, that open and end our own session.
    """

    def __init__(self, bmc: Console) -> None:
        self.logins: set[tuple[str, str]] = set()
        self._bmc, self._context = bmc.name, _context(bmc)
        self._fingerprint = bmc.fingerprint
        if bmc.trust == "pinned" and bmc.fingerprint is None:
            raise ValueError(f"{bmc.name} has no fingerprint: nothing would be verified")
        super().__init__(max_retries=0)

    def send(self, request: requests.PreparedRequest, *how: Any, **more: Any) -> requests.Response:
        """Send a request that may be sent."""
        method, url = str(request.method), str(request.url)
        read_only.require_get(method, url, besides=self.logins, node=self._bmc)
        return super().send(request, *how, **more)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        """Give every connection our context and, when one is pinned, the fingerprint to compare with."""
        trust = {"ssl_context": self._context, "assert_fingerprint": self._fingerprint}
        super().init_poolmanager(connections, maxsize, block, **more, **trust)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, *_asked_for: object
    ) -> tuple[Any, Any]:
        """Keep requests from laying its own bundle of CAs over our context."""
        host, _ = super().build_connection_pool_key_attributes(request, verify=True)
        return host, {}

    def cert_verify(self, *_asked_for: object) -> None:
        """Leave the connection as the context made it, for the same reason."""


def _context(bmc: Console) -> ssl.SSLContext:
    if bmc.trust == "pinned":
        # A BMC's own certificate is rarely signed and its name is rarely right: the fingerprint,
        # which the adapter compares, says more than both.
        return _unverified()
    if bmc.trust != "ca":
        return ssl.create_default_context()
    if isinstance(bmc.ca, str):
        # No text at all must not come to mean the system's CAs, as it would.
        return ssl.create_default_context(cadata=bmc.ca or "none")
    return ssl.create_default_context(cafile=str(bmc.ca))


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def require_means(node: Machine, port: int, seconds: float) -> None:
    """Raise Unreachable when what the lab file trusts cannot be known: no fingerprint, or no CA in its file.

    `seconds` bounds the look at what certificate the BMC shows, to be told with it.
    """
    if node.bmc.trust == "pinned" and node.bmc.fingerprint is None:
        found = shown(str(node.bmc.address), port, seconds)
        message = f"{_place(node, port)} is to be trusted by its fingerprint, and the lab file names none"
        raise Unreachable(message, node=node.name, last_seen=_seen(found), likely=_how_to_pin(node, found))
    if node.bmc.ca is not None:
        try:
            _context(node.bmc)
        except OSError as error:  # ssl.SSLError is one
            message = f"the CA of {node.bmc.name} cannot be read from {_where(node.bmc.ca)}: {error}"
            raise Unreachable(message, node=node.name) from error


def is_distrust(error: Exception) -> bool:
    """Whether a connection failed because of the certificate; TLS can fail for passing reasons too."""
    reason = str(innermost(error))
    return "CERTIFICATE_VERIFY_FAILED" in reason or "Fingerprints did not match" in reason


def untrusted(node: Machine, port: int, error: Exception, seconds: float) -> Unreachable:
    """What to tell of a certificate that is not trusted: who would be, what was found, what to do."""
    found = shown(str(node.bmc.address), port, seconds)
    if node.bmc.trust == "pinned":
        message = f"{_place(node, port)} shows another certificate than the pinned {node.bmc.fingerprint}"
        return Unreachable(message, node=node.name, last_seen=_seen(found), likely=_renewed(node))
    signer = f"the CA in {_where(node.bmc.ca)}" if node.bmc.trust == "ca" else "a CA this system trusts"
    message = f"{_place(node, port)} shows a certificate that {signer} does not vouch for: {innermost(error)}"
    return Unreachable(message, node=node.name, last_seen=_seen(found), likely=_how_to_pin(node, found))


def shown(address: str, port: int, seconds: float) -> str | None:
    """SHA-256 of the certificate shown at an address, as the lab file writes it; None without an answer.

    Only a handshake: nothing is sent, and nothing is trusted.
    """
    try:
        with (
            socket.create_connection((address, port), timeout=seconds) as plain,
            _unverified().wrap_socket(plain) as tls,
        ):
            certificate = tls.getpeercert(binary_form=True) or b""
    except OSError:
        return None
    return hashlib.sha256(certificate).digest().hex(":")


def innermost(error: BaseException) -> BaseException:
    """The first cause of an error that several libraries have wrapped."""
    inner: object = error.__cause__ or error.__context__ or getattr(error, "reason", None)
    return innermost(inner) if isinstance(inner, BaseException) else error


def _place(node: Machine, port: int) -> str:
    return f"{node.bmc.name} (https://{node.bmc.address}{'' if port == 443 else f':{port}'})"


def _where(ca: Path | str | None) -> str:
    return "its configuration" if isinstance(ca, str) else str(ca)


def _seen(found: str | None) -> str:
    return f"a certificate with SHA-256 {found}" if found else "no certificate"


def _how_to_pin(node: Machine, found: str | None) -> str:
    where = f"nodes.{node.name}.bmc"
    if not found:
        return f"there is no Redfish service at {node.bmc.address}; check {where}.address"
    return (
        "it is the BMC's own certificate. If the BMC's own pages or a local console show the same "
        f'fingerprint, pin it in the lab file, {where}: {{trust: pinned, fingerprint: "{found}"}}'
    )


def _renewed(node: Machine) -> str:
    return (
        "the BMC's certificate was renewed, or another machine answers at its address. If the BMC's own "
        f"pages or a local console show what was seen, write it to nodes.{node.name}.bmc.fingerprint"
    )

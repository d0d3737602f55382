"""Simulated nodes: who they are, and how each asks from an address and over a connection of its own."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.boot_service.messages import RackNode

LAB = "bench"
ASK_SECONDS = 30.0
STANDING = "#!ipxe\n# no leave to install: the local disk\nexit\n"


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """Node number so-and-so: its address is one of loopback's, 127.1.0.1 the first."""

    number: int

    @property
    def name(self) -> str:
        """Its name in the rack."""
        return f"node{self.number:04}"

    @property
    def mac(self) -> str:
        """The MAC of its one NIC."""
        return f"52:54:00:b0:{self.number >> 8:02x}:{self.number & 255:02x}"

    @property
    def address(self) -> str:
        """The address that it asks from."""
        return f"127.1.{(self.number + 1) >> 8}.{(self.number + 1) & 255}"

    def rack_node(self) -> RackNode:
        """What the boot service is told of it."""
        return RackNode(name=self.name, macs=(self.mac,), address=self.address, boot_script=STANDING)


@dataclass(frozen=True, slots=True)
class Leave:
    """A permit as its node knows it: the two tokens, and what it will be handed."""

    node: SimulatedNode
    round: int

    @property
    def answer_token(self) -> str:
        """The token of its answer."""
        return self._token("answer")

    @property
    def report_token(self) -> str:
        """The token of its reports."""
        return self._token("report")

    @property
    def nonce(self) -> str:
        """The value by which its install is known."""
        return self._token("nonce")[:16]

    def grant(self, expires: float) -> dict[str, Any]:
        """The fields of messages.Grant; sizes are those of the real templates."""
        return {
            "run": f"round-{self.round}", "lab": LAB, "node": self.node.name,
            "answer_token_sha256": _sha256(self.answer_token),
            "report_token_sha256": _sha256(self.report_token), "expires": expires,
            "boot_script": f"#!ipxe\n# install {self.node.name}\n" + "# as long as a real one is\n" * 30,
            "answer": f'[global]\nfqdn = "{self.node.name}.example.net"\n' + "# as long as a real one\n" * 40,
            "first_boot": f"#!/bin/sh\n# {self.nonce}\n" + ": as long as a real one is\n" * 120,
        }  # fmt: skip

    def _token(self, what: str) -> str:
        return _sha256(f"{what} of {self.node.name} in round {self.round}")[:43]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and how many seconds it took from the first packet; status 0: nothing came back."""

    status: int
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the boot service: through nginx on a port of 127.0.0.1, or straight to its socket."""

    port: int = 0
    secure_port: int = 0
    nodes_socket: Path | None = None
    certificate: Path | None = None

    async def ask(self, node: SimulatedNode, method: str, path: str, body: bytes = b"", *,
                  secure: bool = True, accept: str = "*/*") -> Answer:  # fmt: skip
        """One request by one node over a new connection, as iPXE, installers and scripts make them."""
        secure = secure and self.certificate is not None
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAccept: {accept}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        # nginx says who asks; without it the simulated node says so itself.
        head += f"X-Real-IP: {node.address}\r\n\r\n" if self.nodes_socket else "\r\n"
        exchange = _Exchange(head.encode() + body)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._begin(exchange, node, secure)
                return _answer(await exchange.whole, time.perf_counter() - began)
        except (OSError, TimeoutError) as error:
            return Answer(0, str(error or "nothing came in time").encode(), time.perf_counter() - began)
        finally:
            await exchange.end()

    async def _begin(self, exchange: _Exchange, node: SimulatedNode, secure: bool) -> None:
        connection = await self._connect(node, secure)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: exchange, sock=connection,
                ssl=_trusting(self.certificate) if self.certificate and secure else None,
                server_hostname="127.0.0.1" if secure else None,
            )  # fmt: skip
        except BaseException:
            connection.close()
            raise

    async def _connect(self, node: SimulatedNode, secure: bool) -> socket.socket:
        loop = asyncio.get_running_loop()
        family = socket.AF_UNIX if self.nodes_socket else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if self.nodes_socket:
                await loop.sock_connect(connection, str(self.nodes_socket))
            else:
                connection.bind((node.address, 0))
                await loop.sock_connect(connection, ("127.0.0.1", self.secure_port if secure else self.port))
        except BaseException:
            connection.close()
            raise
        return connection


class _Exchange(asyncio.Protocol):
    """Sends a request; `whole` is all that came back, up to its end or to that of the connection."""

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.whole: asyncio.Future[bytes] = loop.create_future()
        self._request, self._came, self._ended = request, bytearray(), loop.create_future()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._came += data
        if _is_whole(self._came) and not self.whole.done():
            self.whole.set_result(bytes(self._came))

    def connection_lost(self, error: Exception | None) -> None:
        """Whatever is there is all there will be."""
        if not self.whole.done():
            self.whole.set_exception(error) if error else self.whole.set_result(bytes(self._came))
        self._ended.set_result(None)

    async def end(self) -> None:
        """Close the connection, if there is one, and wait until it is closed."""
        self.whole.cancel()
        if self._transport is not None:
            self._transport.abort()
            await self._ended


@functools.cache
def _trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


def asks_for_answer(node: SimulatedNode) -> bytes:
    """What the installer of Proxmox VE 9 sends for its answer, shortened to the size of a small machine."""
    nics = [{"link": "eno1", "mac": node.mac.upper()}, {"link": "eno2", "mac": "52:54:00:ff:00:01"}]
    return json.dumps({
        "$schema": {"version": "1.0"},
        "product": {"fullname": "Proxmox VE", "product": "pve", "enable_btrfs": True},
        "iso": {"release": "9.1", "isorelease": "1"},
        "dmi": {"system": {"serial": f"S{node.number}", "name": "X11", "uuid": "0" * 32}, "baseboard": {},
                "chassis": {}},
        "network_interfaces": nics,
    }).encode()  # fmt: skip


def installed_hook(leave: Leave) -> bytes:
    """The body of the installer's webhook after it has installed."""
    return json.dumps({
        "$schema": {"version": "1.2"}, "debian-version": "13", "fqdn": f"{leave.node.name}.example.net",
        "machine-id": _sha256(leave.node.name)[:32], "filesystem": "ext4",
        "product": {"fullname": "Proxmox VE", "short": "pve", "version": "9.1"},
        "kernel-version": {"release": "6.14.8-2-pve"}, "boot-info": {"mode": "efi", "secureboot": False},
        "dmi": {"system": {"serial": f"S{leave.node.number}"}},
        "ssh-public-host-keys": {"ed25519": "ssh-ed25519 " + "A" * 68, "rsa": "ssh-rsa " + "A" * 500},
        "disks": [{"is-bootdisk": True, "size": 10**12, "udev-properties": {"DEVNAME": "/dev/sda"}}],
        "network-interfaces": [{"name": "eno1", "mac": leave.node.mac, "is-management": True}],
    }).encode()  # fmt: skip


def report(leave: Leave, phase: str, text: str, log: str = "") -> bytes:
    """The body of a node's own report."""
    said = {"phase": phase, "nonce": leave.nonce, "text": text}
    return json.dumps(said | ({"log": log} if log else {})).encode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_whole(came: bytearray) -> bool:
    """Whether the head, and as much of a body as it announces, is there."""
    head, found, body = bytes(came).partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return False


def _answer(whole: bytes, seconds: float) -> Answer:
    head, _, body = whole.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return Answer(status, body, seconds)

"""A DHCP client as firmware and installers have it: raw frames of a NIC without address (RFC 2131)."""

from __future__ import annotations

import secrets
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Protocol

from provision.wait import Deadline

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
SUBNET, ROUTER, DNS, HOST_NAME, DOMAIN = 1, 3, 6, 12, 15
REQUESTED_ADDRESS, OVERLOAD, MESSAGE_TYPE, SERVER_ID, PARAMETER_LIST, MAX_SIZE = 50, 52, 53, 54, 55, 57
VENDOR_CLASS, TFTP_SERVER, BOOT_FILE, USER_CLASS, ARCHITECTURE, UNDI, MACHINE_ID = 60, 66, 67, 77, 93, 94, 97

_COOKIE = b"\x63\x82\x53\x63"
_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_NOWHERE = IPv4Address(0)


class NoLease(Exception):
    """No server answered, or none that gave what was needed."""


@dataclass(frozen=True, slots=True)
class Message:
    """One DHCP message; `options` are raw bytes by number."""

    op: int
    xid: int
    mac: str
    options: Mapping[int, bytes]
    secs: int = 0
    yiaddr: IPv4Address = _NOWHERE
    siaddr: IPv4Address = _NOWHERE
    sname: bytes = b""
    file: bytes = b""

    @property
    def type(self) -> int:
        """DISCOVER, OFFER, … or 0 for plain BOOTP."""
        return (self.options.get(MESSAGE_TYPE) or b"\0")[0]

    @property
    def boot_file(self) -> str:
        """Option 67, or the field `file`."""
        return _text(self.options.get(BOOT_FILE) or self.file)

    @property
    def next_server(self) -> IPv4Address | None:
        """Where the boot file lies: option 66 when it is an address, siaddr, then the server itself."""
        named = _text(self.options.get(TFTP_SERVER) or self.sname)
        for candidate in (named, str(self.siaddr), *map(str, _addresses(self.options.get(SERVER_ID)))):
            if _is_address(candidate):
                return IPv4Address(candidate)
        return None

    def encode(self) -> bytes:
        """The bytes that follow the UDP header."""
        fixed = _FIXED.pack(
            self.op, 1, 6, 0, self.xid, self.secs, 0, b"\0" * 4, self.yiaddr.packed, self.siaddr.packed,
            b"\0" * 4, _hardware_address(self.mac), self.sname, self.file, _COOKIE,
        )  # fmt: skip
        options = b"".join(bytes([number, len(raw)]) + raw for number, raw in self.options.items())
        return (fixed + options + b"\xff").ljust(300, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Read a message; raises ValueError when it is none."""
        if len(data) < _FIXED.size:
            raise ValueError(f"{len(data)} bytes are too few for a DHCP message")
        op, _, _, _, xid, secs, _, _, yi, si, _, mac, sname, file, cookie = _FIXED.unpack_from(data)
        if cookie != _COOKIE:
            raise ValueError("the magic cookie of DHCP is missing")
        options = _read_options([data[_FIXED.size :]])
        overload = (options.get(OVERLOAD) or b"\0")[0]
        more = [file] * (overload & 1) + [sname] * (overload >> 1 & 1)
        return cls(
            op=op, xid=xid, secs=secs, mac=mac[:6].hex(":"), yiaddr=IPv4Address(yi), siaddr=IPv4Address(si),
            sname=b"" if overload & 2 else sname.rstrip(b"\0"),
            file=b"" if overload & 1 else file.rstrip(b"\0"),
            options=_read_options([data[_FIXED.size :], *more]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lease:
    """What a server granted to one NIC."""

    nic: str
    address: IPv4Interface
    server: IPv4Address | None
    message: Message

    @property
    def gateway(self) -> IPv4Address | None:
        """The first router."""
        return next(iter(_addresses(self.message.options.get(ROUTER))), None)

    @property
    def dns(self) -> tuple[IPv4Address, ...]:
        """The name servers."""
        return _addresses(self.message.options.get(DNS))

    def text(self, option: int) -> str:
        """An option as text, empty when the server did not send it."""
        return _text(self.message.options.get(option, b""))


@dataclass(frozen=True, slots=True)
class Client:
    """How one kind of client asks: its own options, its list for option 55, and its patience in seconds."""

    options: Mapping[int, bytes]
    wants: Sequence[int]
    timeouts: Sequence[float]
    needs_boot_file: bool = False

    def message(self, kind: int, xid: int, mac: str, more: Mapping[int, bytes] | None = None) -> Message:
        """A request of this client."""
        own = {MESSAGE_TYPE: bytes([kind]), **(more or {}), PARAMETER_LIST: bytes(self.wants), **self.options}
        return Message(op=1, xid=xid, mac=mac, options=own)


class Wire(Protocol):
    """The NICs of a machine, as far as DHCP needs them."""

    def send(self, nic: str, message: Message) -> None:
        """Broadcast a message from one NIC."""

    def receive(self, seconds: float) -> tuple[str, Message] | None:
        """The next reply and the NIC it came in by; None when none came within `seconds`."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """DISCOVER to ACK on some NICs at once; the first NIC with a good offer wins."""

    client: Client
    nics: Mapping[str, str]
    wire: Wire
    say: Callable[[str], None] = field(default=lambda _text: None)
    now: Callable[[], float] = time.monotonic
    new_number: Callable[[], int] = field(default=lambda: secrets.randbits(32))

    def lease(self) -> Lease:
        """Raises NoLease when the client's patience ends."""
        for seconds in self.client.timeouts:
            xid = self.new_number()
            offer = self._discover(xid, seconds)
            granted = offer and self._request(xid, *offer, seconds)
            if granted:
                return granted
        raise NoLease(f"no DHCP server answered on {', '.join(self.nics)}")

    def _discover(self, xid: int, seconds: float) -> tuple[str, Message] | None:
        for nic, mac in self.nics.items():
            self.wire.send(nic, self.client.message(DISCOVER, xid, mac))
        best: tuple[str, Message] | None = None
        for nic, message in self._replies(xid, seconds):
            if message.type != OFFER:
                continue
            if message.boot_file or not self.client.needs_boot_file:
                return nic, message
            best = best or (nic, message)
        return best

    def _request(self, xid: int, nic: str, offer: Message, seconds: float) -> Lease | None:
        server = offer.options.get(SERVER_ID, b"")
        chosen = {REQUESTED_ADDRESS: offer.yiaddr.packed, SERVER_ID: server}
        self.wire.send(nic, self.client.message(REQUEST, xid, self.nics[nic], chosen))
        for came_by, message in self._replies(xid, seconds):
            if came_by != nic or message.options.get(SERVER_ID, b"") != server:
                continue
            if message.type == NAK:
                self.say(f"DHCP server {_text_address(server)} refused {offer.yiaddr}")
                return None
            if message.type == ACK:
                return _lease(nic, message)
        return None

    def _replies(self, xid: int, seconds: float) -> Iterator[tuple[str, Message]]:
        deadline = Deadline(seconds, now=self.now)
        while not deadline.expired:
            came = self.wire.receive(deadline.remaining)
            if came and came[1].op == 2 and came[1].xid == xid and came[1].mac == self.nics[came[0]]:
                yield came


class RawWire:
    """The machine's NICs as packet sockets; needs root."""

    def __init__(self, nics: Mapping[str, str]) -> None:
        self._macs = dict(nics)
        self._sockets = {nic: socket.socket(socket.AF_PACKET, socket.SOCK_RAW) for nic in nics}
        self._selector = selectors.DefaultSelector()
        for nic, each in self._sockets.items():
            each.bind((nic, 0x0800))
            self._selector.register(each, selectors.EVENT_READ, nic)

    def close(self) -> None:
        """Give the sockets back."""
        self._selector.close()
        for each in self._sockets.values():
            each.close()

    def send(self, nic: str, message: Message) -> None:
        """Broadcast a message from one NIC."""
        self._sockets[nic].send(frame(self._macs[nic], message.encode()))

    def receive(self, seconds: float) -> tuple[str, Message] | None:
        """The next DHCP reply on any NIC."""
        for key, _ in self._selector.select(seconds):
            nic: str = key.data
            try:
                return nic, Message.decode(payload(self._sockets[nic].recv(4096)))
            except ValueError:
                continue  # other traffic on the wire
        return None


@contextmanager
def raw_wire(nics: Mapping[str, str]) -> Iterator[RawWire]:
    """The machine's NICs as packet sockets, closed in the end."""
    wire = RawWire(nics)
    try:
        yield wire
    finally:
        wire.close()


def frame(mac: str, data: bytes) -> bytes:
    """A broadcast Ethernet frame with IPv4 and UDP from port 68 to port 67 around `data`."""
    udp = struct.pack("!HHHH", 68, 67, 8 + len(data), 0) + data  # no UDP checksum: allowed in IPv4
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0x10, 20 + len(udp), 0, 0, 128, 17, 0, b"\0" * 4, b"\xff" * 4)
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x08\x00" + head + udp


def payload(raw: bytes) -> bytes:
    """What a frame carries to UDP port 68; raises ValueError for any other frame."""
    header = (raw[14] & 0xF) * 4 if len(raw) > 34 else 0
    if not header or raw[12:14] != b"\x08\x00" or raw[23] != 17 or len(raw) < 14 + header + 8:
        raise ValueError("not UDP over IPv4")
    _, port, length, _ = struct.unpack_from("!HHHH", raw, 14 + header)
    if port != 68:
        raise ValueError(f"for UDP port {port}")
    return raw[14 + header + 8 : 14 + header + length]


def _lease(nic: str, message: Message) -> Lease:
    mask = next(iter(_addresses(message.options.get(SUBNET))), IPv4Address("255.255.255.255"))
    server = next(iter(_addresses(message.options.get(SERVER_ID))), None)
    return Lease(nic, IPv4Interface(f"{message.yiaddr}/{mask}"), server, message)


def _read_options(areas: Sequence[bytes]) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    for area in areas:
        at = 0
        while at < len(area) and area[at] != 0xFF:
            if area[at] == 0:
                at += 1
                continue
            if at + 1 >= len(area) or at + 2 + area[at + 1] > len(area):
                raise ValueError(f"DHCP option {area[at]} is cut off")
            number, raw = area[at], area[at + 2 : at + 2 + area[at + 1]]
            options[number] = (
                options.get(number, b"") + raw
            )  # RFC 3396: parts of a long option follow each other
            at += 2 + len(raw)
    return options


def _addresses(raw: bytes | None) -> tuple[IPv4Address, ...]:
    raw = raw or b""
    return tuple(IPv4Address(raw[at : at + 4]) for at in range(0, len(raw) - len(raw) % 4, 4))


def _is_address(text: str) -> bool:
    try:
        return IPv4Address(text) != _NOWHERE
    except ValueError:
        return False


def _text_address(raw: bytes) -> str:
    return ", ".join(map(str, _addresses(raw))) or "(unnamed)"


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("ascii", "replace")


def _hardware_address(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

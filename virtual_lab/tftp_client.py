"""A TFTP client as UEFI firmware has it: RFC 1350 with the options blksize and tsize (RFC 2347 to 2349)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

RRQ, DATA, ACK, ERROR, OACK = 1, 3, 4, 5, 6
BLOCK_SIZE = 1468  # what EDK2 asks for: an Ethernet frame less the headers
ABORTED = "User aborted the transfer"

Address = tuple[str, int]


class TftpFailed(Exception):
    """The server refused, sent nonsense, or fell silent."""


class Datagrams(Protocol):
    """A UDP socket of one transfer."""

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram."""

    def receive(self, seconds: float) -> tuple[bytes, Address] | None:
        """The next datagram and its sender; None when none came within `seconds`."""


class UdpSocket:
    """Datagrams over a UDP socket of the kernel."""

    def __init__(self, own_address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((own_address, 0))

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram."""
        self._socket.sendto(data, to)

    def receive(self, seconds: float) -> tuple[bytes, Address] | None:
        """The next datagram and its sender."""
        self._socket.settimeout(max(seconds, 0.001))
        try:
            data, sender = self._socket.recvfrom(65536)
        except TimeoutError:
            return None
        except ConnectionRefusedError as refused:
            raise TftpFailed("nothing listens on UDP port 69") from refused
        return data, sender


@contextmanager
def udp_socket(own_address: str) -> Iterator[UdpSocket]:
    """A UDP socket on an address of this machine, closed in the end."""
    datagrams = UdpSocket(own_address)
    try:
        yield datagrams
    finally:
        datagrams.close()


@dataclass(slots=True)
class Transfer:
    """Reading one file from one server; `seconds` of silence are borne `tries` times in a row."""

    datagrams: Datagrams
    server: str
    path: str
    seconds: float
    tries: int = 6
    most: int = 64 * 1024 * 1024
    peer: Address | None = field(default=None, init=False)

    def size(self) -> int | None:
        """The file's size as option tsize tells it, None when the server knows no options.

        Like EDK2 this starts a transfer and aborts it. Raises TftpFailed.
        """
        self.peer = None
        kind, data = self._ask(self._request(blksize=BLOCK_SIZE, tsize=0))
        self._tell(struct.pack("!HH", ERROR, 8) + ABORTED.encode() + b"\0")
        return int(_options(data)["tsize"]) if kind == OACK and "tsize" in _options(data) else None

    def read(self) -> bytes:
        """The file's content. Raises TftpFailed."""
        self.peer = None
        kind, data = self._ask(self._request(blksize=BLOCK_SIZE))
        size, content, block = 512, bytearray(), 0
        while kind == OACK:  # more than once when an answer to it was lost
            size = int(_options(data).get("blksize", "512"))
            kind, data = self._ask(_ack(0))
        while True:
            number, chunk = _block(kind, data)
            if number == (block + 1) & 0xFFFF:
                block += 1
                content += chunk
            if len(content) > self.most:
                raise TftpFailed(f"{self.path} is larger than {self.most} bytes")
            if number == block & 0xFFFF and len(chunk) < size:
                self._tell(_ack(number))
                return bytes(content)
            kind, data = self._ask(_ack(block & 0xFFFF))

    def _request(self, **options: int) -> bytes:
        words = [
            self.path,
            "octet",
            *(word for name, value in options.items() for word in (name, str(value))),
        ]
        return struct.pack("!H", RRQ) + b"".join(word.encode() + b"\0" for word in words)

    def _ask(self, packet: bytes) -> tuple[int, bytes]:
        """Send `packet`, again after every silence, until the server answers."""
        for _ in range(self.tries):
            self._tell(packet)
            while answer := self.datagrams.receive(self.seconds):
                if self._is_from_peer(answer[1]):
                    return _opened(answer[0])
        raise TftpFailed(f"{self.server} fell silent over {self.path}")

    def _tell(self, packet: bytes) -> None:
        self.datagrams.send(packet, self.peer or (self.server, 69))

    def _is_from_peer(self, sender: Address) -> bool:
        # The server answers from a port of its own, which is then the other end of this transfer.
        self.peer = self.peer or (sender if sender[0] == self.server else None)
        return sender == self.peer


def fetch(own_address: str, server: str, path: str, seconds: float, say: Callable[[str], None]) -> bytes:
    """Ask for the size, then read the file, as EDK2 does. Raises TftpFailed."""
    with udp_socket(own_address) as datagrams:
        size = Transfer(datagrams, server, path, seconds).size()
    if size is not None:
        say(f" NBP filesize is {size} Bytes")
    with udp_socket(own_address) as datagrams:
        content = Transfer(datagrams, server, path, seconds).read()
    if size is not None and len(content) != size:
        raise TftpFailed(f"{path}: {len(content)} bytes came, {size} were promised")
    return content


def _opened(packet: bytes) -> tuple[int, bytes]:
    if len(packet) < 4:
        raise TftpFailed("a datagram too short for TFTP")
    (kind,) = struct.unpack_from("!H", packet)
    if kind == ERROR:
        text = packet[4:].split(b"\0")[0].decode("ascii", "replace")
        raise TftpFailed(f"error {packet[3]}: {text}")
    return kind, packet[2:]


def _block(kind: int, data: bytes) -> tuple[int, bytes]:
    if kind != DATA:
        raise TftpFailed(f"packet of type {kind} where data was due")
    return struct.unpack_from("!H", data)[0], data[2:]


def _ack(block: int) -> bytes:
    return struct.pack("!HH", ACK, block)


def _options(data: bytes) -> Mapping[str, str]:
    words = [word.decode("ascii", "replace") for word in data.split(b"\0")[:-1]]
    return {name.lower(): value for name, value in zip(words[::2], words[1::2], strict=False)}

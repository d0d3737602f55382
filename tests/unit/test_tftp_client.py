"""TFTP as firmware speaks it, against a server in the test: sizes, retries, strangers, errors."""

from __future__ import annotations

import struct

import pytest

from virtual_lab.tftp_client import ABORTED, Address, TftpFailed, Transfer

SERVER = "10.10.1.1"
TRANSFER_PORT = (SERVER, 40000)


class FakeServer:
    """Answers each datagram at once; `drop` counts the answers that get lost, `options` if it knows any."""

    def __init__(self, content: bytes, *, options: bool = True, drop: int = 0) -> None:
        self.content, self.options, self.drop = content, options, drop
        self.size, self.confirmed = 512, 0
        self.answers: list[tuple[bytes, Address]] = []
        self.heard: list[bytes] = []

    def send(self, data: bytes, to: Address) -> None:
        self.heard.append(data)
        (kind,) = struct.unpack_from("!H", data)
        if kind == 1:
            self._request(data, to)
        elif kind == 4:
            (number,) = struct.unpack_from("!H", data, 2)
            self.confirmed += number == (self.confirmed + 1) & 0xFFFF
            self._block(self.confirmed + 1)

    def receive(self, seconds: float) -> tuple[bytes, Address] | None:
        if not self.answers:
            return None
        answer = self.answers.pop(0)
        if self.drop:
            self.drop -= 1
            return None
        return answer

    def _request(self, data: bytes, to: Address) -> None:
        assert to == (SERVER, 69)
        words = data[2:].split(b"\0")
        assert words[:2] == [b"snponly.efi", b"octet"]
        if not self.options:
            self._block(1)
            return
        self.size = int(words[words.index(b"blksize") + 1])
        accepted = b"blksize\0%d\0" % self.size
        if b"tsize" in words:
            accepted += b"tsize\0%d\0" % len(self.content)
        self.answers.append((struct.pack("!H", 6) + accepted, TRANSFER_PORT))

    def _block(self, number: int) -> None:
        start = (number - 1) * self.size
        if start <= len(self.content):
            chunk = self.content[start : start + self.size]
            self.answers.append((struct.pack("!HH", 3, number & 0xFFFF) + chunk, TRANSFER_PORT))


def transfer(server: FakeServer) -> Transfer:
    return Transfer(server, SERVER, "snponly.efi", seconds=1.0)


@pytest.mark.parametrize("length", [0, 1, 1467, 1468, 1469, 2936, 100_000])
@pytest.mark.parametrize("options", [True, False])
def test_a_file_of_any_length_arrives_whole(length: int, options: bool) -> None:
    content = bytes(number % 251 for number in range(length))
    assert transfer(FakeServer(content, options=options)).read() == content


def test_the_size_is_asked_for_and_the_transfer_aborted() -> None:
    server = FakeServer(bytes(5000))
    assert transfer(server).size() == 5000
    assert server.heard[-1] == b"\0\5\0\x08" + ABORTED.encode() + b"\0"


def test_a_server_without_options_tells_no_size() -> None:
    assert transfer(FakeServer(bytes(5000), options=False)).size() is None


def test_lost_answers_are_asked_for_again() -> None:
    content = bytes(5000)
    assert transfer(FakeServer(content, drop=3)).read() == content


def test_a_silent_server_is_given_up() -> None:
    server = FakeServer(b"x", drop=99)
    with pytest.raises(TftpFailed, match="fell silent"):
        transfer(server).read()
    assert len(server.heard) == 6


def test_the_servers_error_is_told() -> None:
    server = FakeServer(b"x")
    server.answers.append((b"\0\5\0\1file not found\0", TRANSFER_PORT))
    with pytest.raises(TftpFailed, match="error 1: file not found"):
        transfer(server).read()


def test_a_strangers_datagram_is_not_taken() -> None:
    server = FakeServer(b"right")
    server.answers.append((b"\0\3\0\1wrong", ("10.10.1.66", 40000)))
    assert transfer(server).read() == b"right"


def test_a_file_without_end_is_given_up() -> None:
    server = FakeServer(bytes(10_000))
    endless = Transfer(server, SERVER, "snponly.efi", seconds=1.0, most=5000)
    with pytest.raises(TftpFailed, match="larger than 5000"):
        endless.read()


def test_block_numbers_wrap() -> None:
    content = bytes(512 * 65536 + 7)
    assert transfer(FakeServer(content, options=False)).read() == content

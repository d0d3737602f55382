"""DHCP as firmware speaks it: the messages byte by byte, and the exchange with servers good and bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtual_lab import dhcp_client as dhcp
from virtual_lab.dhcp_client import ACK, DISCOVER, NAK, OFFER, REQUEST, Client, Exchange, Message, NoLease

MAC = "ac:1f:6b:6c:5a:76"
SERVER = IPv4Address("10.10.1.1")
CLIENT = Client(options={93: b"\0\7"}, wants=(1, 3, 250), timeouts=(1.0, 2.0), needs_boot_file=True)

Reply = tuple[str, Message]
Answer = Callable[[str, Message], list[Reply]]


class FakeWire:
    """A wire on which `answer` says what comes back for a message; time passes only while nothing comes."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.clock = answer, 0.0
        self.sent: list[tuple[str, Message]] = []
        self.waiting: list[Reply] = []

    def send(self, nic: str, message: Message) -> None:
        self.sent.append((nic, message))
        self.waiting += self.answer(nic, message)

    def receive(self, seconds: float) -> Reply | None:
        if self.waiting:
            return self.waiting.pop(0)
        self.clock += seconds
        return None


def reply(
    to: Message, kind: int, options: Mapping[int, bytes] | None = None, server: IPv4Address = SERVER
) -> Message:
    own = {53: bytes([kind]), 54: server.packed, 1: IPv4Address("255.255.255.0").packed, 3: server.packed}
    return Message(op=2, xid=to.xid, mac=to.mac, yiaddr=IPv4Address("10.10.1.21"), siaddr=server,
                   options=own | dict(options or {}))  # fmt: skip


def good(nic: str, message: Message) -> list[Reply]:
    kind = OFFER if message.type == DISCOVER else ACK
    return [(nic, reply(message, kind, {67: b"snponly.efi"}))]


def lease(wire: FakeWire, client: Client = CLIENT, nics: Mapping[str, str] | None = None) -> dhcp.Lease:
    numbers = iter(range(100, 200))
    return Exchange(client, nics or {"eno1": MAC}, wire, now=lambda: wire.clock,
                    new_number=lambda: next(numbers)).lease()  # fmt: skip


def test_a_lease_has_what_the_server_granted() -> None:
    wire = FakeWire(good)
    got = lease(wire)
    assert got.address == IPv4Interface("10.10.1.21/24")
    assert (got.gateway, got.server) == (SERVER, SERVER)
    assert got.message.boot_file == "snponly.efi"
    assert [message.type for _, message in wire.sent] == [DISCOVER, REQUEST]


def test_the_request_names_server_and_address_and_carries_the_clients_options() -> None:
    wire = FakeWire(good)
    lease(wire)
    request = wire.sent[1][1]
    assert request.options[54] == SERVER.packed
    assert request.options[50] == IPv4Address("10.10.1.21").packed
    assert request.options[93] == b"\0\7"
    assert request.options[55] == bytes([1, 3, 250])


def test_silence_is_met_with_growing_patience_and_then_given_up() -> None:
    wire = FakeWire(lambda _nic, _message: [])
    with pytest.raises(NoLease):
        lease(wire)
    assert wire.clock == 3.0
    assert len({message.xid for _, message in wire.sent}) == 2


def test_an_offer_with_a_boot_file_is_preferred_to_an_earlier_one_without() -> None:
    other = IPv4Address("10.10.1.99")

    def two_servers(nic: str, message: Message) -> list[Reply]:
        if message.type == DISCOVER:
            return [(nic, reply(message, OFFER, server=other)), *good(nic, message)]
        return good(nic, message)

    assert lease(FakeWire(two_servers)).server == SERVER


def test_an_offer_without_a_boot_file_is_taken_when_no_better_one_comes() -> None:
    def plain(nic: str, message: Message) -> list[Reply]:
        return [(nic, reply(message, OFFER if message.type == DISCOVER else ACK))]

    wire = FakeWire(plain)
    assert lease(wire).message.boot_file == ""
    assert wire.clock == 1.0  # it waited for a better one first


def test_replies_to_others_are_not_taken() -> None:
    def others(nic: str, message: Message) -> list[Reply]:
        for_another = Message(op=2, xid=message.xid, mac="02:00:00:00:00:09", options={53: bytes([OFFER])})
        other_number = reply(Message(op=1, xid=message.xid + 1, mac=MAC, options={}), OFFER)
        return [(nic, for_another), (nic, other_number)]

    with pytest.raises(NoLease):
        lease(FakeWire(others))


def test_a_nak_starts_over() -> None:
    refusals = iter([NAK, ACK])

    def first_refuses(nic: str, message: Message) -> list[Reply]:
        kind = OFFER if message.type == DISCOVER else next(refusals)
        return [(nic, reply(message, kind, {67: b"x"}))]

    wire = FakeWire(first_refuses)
    assert lease(wire).address.ip == IPv4Address("10.10.1.21")
    assert [message.type for _, message in wire.sent] == [DISCOVER, REQUEST, DISCOVER, REQUEST]


def test_of_several_nics_the_one_with_a_server_wins() -> None:
    def only_on_eno3(nic: str, message: Message) -> list[Reply]:
        return good(nic, message) if nic == "eno3" else []

    wire = FakeWire(only_on_eno3)
    assert lease(wire, nics={"eno1": MAC, "eno3": "02:00:00:00:00:01"}).nic == "eno3"
    assert [nic for nic, _ in wire.sent] == ["eno1", "eno3", "eno3"]


def test_option_66_tells_the_boot_server_before_siaddr() -> None:
    message = Message(op=2, xid=1, mac=MAC, siaddr=SERVER, options={66: b"10.10.1.7\0"})
    assert message.next_server == IPv4Address("10.10.1.7")


def test_a_message_reads_back_as_it_was_written() -> None:
    message = Message(op=1, xid=7, mac=MAC, options={53: b"\1", 60: b"PXEClient", 97: b"\0" + bytes(16)})
    assert Message.decode(message.encode()) == message


def test_overloaded_fields_and_split_options_are_read() -> None:
    plain = Message(op=2, xid=1, mac=MAC, options={52: b"\1", 67: b"http://10.10."}).encode()
    in_file = bytes([67, 5]) + b"1.1/x" + bytes([255])
    overloaded = plain[:108] + in_file.ljust(128, b"\0") + plain[236:]
    assert Message.decode(overloaded).boot_file == "http://10.10.1.1/x"


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    try:
        Message.decode(bytes(236) + b"\x63\x82\x53\x63" + data)
        dhcp.payload(data)
    except ValueError:
        pass


def test_a_frame_is_read_back_by_port() -> None:
    frame = dhcp.frame(MAC, b"hello")
    assert frame[6:12] == bytes.fromhex("ac1f6b6c5a76")
    assert dhcp._checksum(frame[14:34]) == 0
    answered = frame[:34] + b"\x00\x43\x00\x44" + frame[38:]  # from port 67 to port 68
    assert dhcp.payload(answered) == b"hello"
    with pytest.raises(ValueError, match="port 67"):
        dhcp.payload(frame)

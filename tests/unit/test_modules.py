"""testinfra's modules as checks have them, against what is really so on this machine."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testinfra.host import Host

from checks.backend import host_of
from checks.modules import addresses_of
from provision import read_only
from provision.remote import LocalRemote, Output, Remote

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def here() -> Host:
    return host_of(LocalRemote("server"))


def saying(**output: str) -> Host:
    """A machine on which commands say this, by their first word."""

    def ask(machine: Remote, command: str) -> Output:
        return Output(0, output[command.split(maxsplit=1)[0]].encode(), b"")

    return host_of(LocalRemote("server"), ask)


@contextmanager
def listening(address: str, kind: socket.SocketKind, *, both: bool) -> Iterator[int]:
    """The port on which one listens there; on IPv4 too, if `both`."""
    with socket.socket(V6 if ":" in address else V4, kind) as sock:
        if ":" in address:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        yield sock.getsockname()[1]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(
    ("bound", "both", "reached"),
    [
        ("0.0.0.0", False, {"0.0.0.0", "127.0.0.1", "127.0.0.2"}),
        ("127.0.0.1", False, {"127.0.0.1"}),
        ("::", False, {"::", "::1"}),
        ("::", True, {"0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", None}),
        ("::1", False, {"::1"}),
    ],
)
def test_a_socket_listens_where_it_is_found(
    here: Host, kind: socket.SocketKind, bound: str, both: bool, reached: set[str | None]
) -> None:
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    addresses = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", None]
    with listening(bound, kind, both=both) as port:
        asked = {
            address: f"{protocol}://{address}:{port}" if address else f"{protocol}://{port}"
            for address in addresses
        }
        assert {address for address, text in asked.items() if here.socket(text).is_listening} == reached
        other = "udp" if protocol == "tcp" else "tcp"
        assert not here.socket(f"{other}://{bound}:{port}").is_listening
    assert not here.socket(asked[bound]).is_listening


def test_on_all_addresses_is_on_those_of_both_families(here: Host) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(listening("0.0.0.0", socket.SOCK_STREAM, both=False))
        assert not here.socket(f"tcp://{port}").is_listening
        other = stack.enter_context(socket.socket(V6))
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
        other.bind(("::", port))
        other.listen()
        assert here.socket(f"tcp://{port}").is_listening


def test_a_unix_socket_listens_by_its_whole_path(here: Host, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "a"))
        assert not here.socket(f"unix://{tmp_path}/a").is_listening
        sock.listen()
        assert here.socket(f"unix://{tmp_path}/a").is_listening
        assert not here.socket(f"unix://{tmp_path}").is_listening


@pytest.mark.parametrize(
    ("written", "meant"),
    [("[::1]", {"::1"}), ("127.0.0.53%lo", {"127.0.0.53"}), ("[fe80::1]%eno1", {"fe80::1"}), ("*", {"0.0.0.0", "::"}),
     ("0.0.0.0%vmbr0", {"0.0.0.0"})],
)  # fmt: skip
def test_addresses_as_ss_writes_them(written: str, meant: set[str]) -> None:
    assert addresses_of(written) == meant


@given(st.ip_addresses().map(str), st.sampled_from(["", "%lo", "%enp1s0f0"]))
def test_every_address_is_read_as_it_is(address: str, place: str) -> None:
    written = f"[{address}]{place}" if ":" in address else f"{address}{place}"
    assert addresses_of(written) == {address}


def test_a_socket_that_cannot_be_asked_for_is_an_error(here: Host) -> None:
    def ask(machine: Remote, command: str) -> Output:
        return Output(127, b"", b"ss: not found")

    with pytest.raises(AssertionError, match="not found"):
        _ = host_of(LocalRemote("server"), ask).socket("tcp://22").is_listening


@pytest.mark.parametrize(
    ("state", "exists"), [("loaded", True), ("masked", True), ("bad-setting", True), ("not-found", False)]
)
def test_a_unit_exists_by_its_whole_name(state: str, exists: bool) -> None:
    host = saying(systemctl=f"Id=ssh.service\nLoadState={state}\nActiveState=active\n")
    assert host.service("ssh").exists is exists


def test_the_link_of_an_interface_is_what_the_manual_says(here: Host) -> None:
    link: dict[str, Any] = here.interface("lo").link
    assert (link["ifname"], link["address"], "LOOPBACK" in link["flags"]) == ("lo", "00:00:00:00:00:00", True)
    assert here.interface("lo").exists
    assert not here.interface("no-such").exists


@pytest.mark.parametrize("name", ["file", "a \\ b"])
def test_checksums_are_the_files_own(here: Host, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    found = here.file(str(tmp_path / name))
    assert found.md5sum == hashlib.md5(b"content", usedforsecurity=False).hexdigest()
    assert found.sha256sum == hashlib.sha256(b"content").hexdigest()


def test_what_is_not_there_has_no_checksum(here: Host, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="absent"):
        _ = here.file(f"{tmp_path}/absent").sha256sum


QUESTIONS: list[Callable[[Host], object]] = [
    lambda host: host.file("/x").sha256sum,
    lambda host: host.file("/x").md5sum,
    lambda host: host.file("/x").exists,
    lambda host: host.file("/x").mode,
    lambda host: host.file("/x").content_string,
    lambda host: host.interface("lo").exists,
    lambda host: host.interface("lo", "inet6").addresses,
    lambda host: host.interface("lo").link,
    lambda host: host.service("x").exists,
    lambda host: host.service("x").is_running,
    lambda host: host.service("x").is_enabled,
    lambda host: host.socket("tcp://22").is_listening,
    lambda host: host.socket("unix:///x").is_listening,
    lambda host: host.sysctl("kernel.ostype"),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
def test_a_question_is_one_command_that_a_verification_may_send(question: Callable[[Host], object]) -> None:
    asked: list[str] = []

    def ask(machine: Remote, command: str) -> Output:
        asked.append(command)
        return Output(0, b'[{"LoadState=loaded": ""}]\n', b"")

    with suppress(KeyError, ValueError, IndexError):
        question(host_of(LocalRemote("server"), ask))
    assert [read_only.refusal(command) for command in asked] == [None]


def test_the_other_modules_are_testinfras_own(here: Host) -> None:
    assert here.user("root").uid == 0
    with pytest.raises(AttributeError):
        _ = here.no_such_module

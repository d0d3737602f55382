"""dnsmasq's log lines, as its releases 2.90 and 2.91 write them, become events of the right nodes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from provision.boot_service.dhcp import DhcpJournal, DhcpLog, journal_command
from provision.boot_service.messages import Grant, Rack, RackNode
from provision.boot_service.service import Service
from provision.boot_service.store import Store
from provision.ledger import Event

# Recorded from dnsmasq 2.90: a UEFI board, then iPXE on it, a BIOS board, an unknown machine.
RECORDED = """\
dnsmasq-dhcp[22628]: 286331153 available DHCP subnet: 10.10.1.0/255.255.255.0
dnsmasq-dhcp[22628]: 286331153 vendor class: PXEClient:Arch:00007:UNDI:003001
dnsmasq-dhcp[22628]: 286331153 DHCPDISCOVER(lan0) ac:1f:6b:00:00:01 \n\
dnsmasq-dhcp[22628]: 286331153 tags: n1, known, efi, lan0
dnsmasq-dhcp[22628]: 286331153 DHCPOFFER(lan0) 10.10.1.21 ac:1f:6b:00:00:01 \n\
dnsmasq-dhcp[22628]: 286331153 requested options: 1:netmask, 3:router, 6:dns-server, 66:tftp-server, \n\
dnsmasq-dhcp[22628]: 286331153 sent size: 12 option: 67 bootfile-name  snponly.efi
dnsmasq-dhcp[22628]: 286331153 sent size: 36 option:250   68:74:74:70:3a:2f:2f:31:30:2e:31:30:2e:31...
dnsmasq-dhcp[22628]: 286331153 vendor class: PXEClient:Arch:00007:UNDI:003001
dnsmasq-dhcp[22628]: 286331153 DHCPREQUEST(lan0) 10.10.1.21 ac:1f:6b:00:00:01 \n\
dnsmasq-dhcp[22628]: 286331153 DHCPACK(lan0) 10.10.1.21 ac:1f:6b:00:00:01 node1
dnsmasq-tftp[22628]: sent /srv/tftp/snponly.efi to 10.10.1.21
dnsmasq-dhcp[22628]: 572662306 vendor class: PXEClient:Arch:00007:UNDI:003001
dnsmasq-dhcp[22628]: 572662306 user class: iPXE
dnsmasq-dhcp[22628]: 572662306 client provides name: nodeone
dnsmasq-dhcp[22628]: 572662306 DHCPDISCOVER(lan0) ac:1f:6b:00:00:01 \n\
dnsmasq-dhcp[22628]: 572662306 DHCPACK(lan0) 10.10.1.21 ac:1f:6b:00:00:01 node1
dnsmasq-dhcp[22628]: 858993459 vendor class: PXEClient:Arch:00000:UNDI:002001
dnsmasq-dhcp[22628]: 858993459 DHCPDISCOVER(lan0) ac:1f:6b:00:00:02 \n\
dnsmasq-dhcp[22628]: 1145324612 vendor class: PXEClient:Arch:00007:UNDI:003001
dnsmasq-dhcp[22628]: 1145324612 DHCPDISCOVER(lan0) de:ad:be:ef:00:01 no address available
dnsmasq-dhcp[22628]: 1717986918 DHCPNAK(lan0) 10.10.9.9 ac:1f:6b:00:00:01 wrong address
dnsmasq-dhcp[22628]: disabling DHCP static address 10.10.1.21 for 10m
dnsmasq-tftp[22628]: file /srv/tftp/nope.efi not found for 10.10.1.21
dnsmasq-tftp[22628]: sent /srv/tftp/snponly.efi to 10.10.1.99
dnsmasq[22628]: exiting on receipt of SIGTERM
"""

EXPECTED = [
    ("node1", "dhcp", "DISCOVER, UEFI x86-64 (7), PXEClient"),
    ("node1", "dhcp", "OFFER 10.10.1.21, UEFI x86-64 (7)"),
    ("node1", "dhcp", "REQUEST 10.10.1.21, UEFI x86-64 (7), PXEClient"),
    ("node1", "dhcp", "ACK 10.10.1.21, UEFI x86-64 (7)"),
    ("node1", "boot-file", "snponly.efi sent by TFTP"),
    ("node1", "dhcp", "DISCOVER, UEFI x86-64 (7), PXEClient, iPXE"),
    ("node1", "dhcp", "ACK 10.10.1.21, UEFI x86-64 (7), iPXE"),
    ("node2", "dhcp", "DISCOVER, BIOS (0), PXEClient"),
    (
        None,
        "stranger",
        "de:ad:be:ef:00:01 is of no node of the rack: DISCOVER, UEFI x86-64 (7), PXEClient, "
        "no address available",
    ),
    ("node1", "dhcp", "NAK 10.10.9.9, wrong address"),
    ("node1", "boot-file-failed", "nope.efi not sent by TFTP"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "boot.db")
    nodes = [
        RackNode(
            name=f"node{n}",
            macs=(f"ac:1f:6b:00:00:0{n}",),
            address=f"10.10.1.2{n}",
            boot_script="#!ipxe\nexit\n",
        )
        for n in (1, 2)
    ]
    store.put_rack(Rack(lab="hall", nodes=tuple(nodes), consoles=("ac:1f:6b:00:00:f1",)), 0.0)
    yield store
    store.close()


def read(store: Store, lines: list[str]) -> list[Event]:
    return [event for _, event in DhcpLog(Service(store)).events(lines, 100.0)]


def told(events: list[Event]) -> list[tuple[str | None, str, str]]:
    return [(event.node, event.kind, event.text) for event in events]


def test_recorded_lines_become_events_of_their_nodes(store: Store) -> None:
    assert told(read(store, RECORDED.splitlines())) == EXPECTED


def test_lines_from_the_journal_have_no_prefix(store: Store) -> None:
    lines = [line.partition("]: ")[2] for line in RECORDED.splitlines()]
    assert told(read(store, lines)) == EXPECTED


def test_facts_name_architecture_classes_address_and_mac(store: Store) -> None:
    discover, ack = (read(store, RECORDED.splitlines())[place] for place in (5, 6))
    assert discover.facts == {
        "message": "DISCOVER",
        "mac": "ac:1f:6b:00:00:01",
        "vendor_class": "PXEClient:Arch:00007:UNDI:003001",
        "user_class": "iPXE",
        "architecture": 7,
    }
    assert ack.facts["address"] == "10.10.1.21"
    assert "note" not in ack.facts


def test_exchanges_that_overlap_are_kept_apart(store: Store) -> None:
    lines = [
        "1 vendor class: PXEClient:Arch:00007:UNDI:003001",
        "2 vendor class: PXEClient:Arch:00000:UNDI:002001",
        "1 DHCPDISCOVER(lan0) ac:1f:6b:00:00:01",
        "2 DHCPDISCOVER(lan0) 10.10.1.22 ac:1f:6b:00:00:02",
    ]
    texts = [event.text for event in read(store, lines)]
    assert texts == ["DISCOVER, UEFI x86-64 (7), PXEClient", "DISCOVER 10.10.1.22, BIOS (0), PXEClient"]


def test_a_client_cannot_write_a_line_of_its_own(store: Store) -> None:
    lines = [
        "1 vendor class: x 1 DHCPACK(lan0) 10.10.1.22 ac:1f:6b:00:00:02 node2",
        "2 user class: sent a to 10.10.1.21",
    ]
    assert read(store, lines) == []


def test_what_a_client_says_is_cut_and_made_printable(store: Store) -> None:
    lines = [f"1 user class: \x1b[31m{'x' * 500}", "1 DHCPDISCOVER(lan0) ac:1f:6b:00:00:01"]
    (event,) = read(store, lines)
    assert len(event.text) < 130
    assert event.text.isprintable()


def test_a_console_is_no_stranger_and_no_news(store: Store) -> None:
    assert read(store, ["1 DHCPREQUEST(lan0) 10.10.1.11 ac:1f:6b:00:00:f1"]) == []


def test_what_is_remembered_of_exchanges_is_bounded(store: Store) -> None:
    log = DhcpLog(Service(store))
    log.events([f"{number} user class: iPXE" for number in range(5000)], 0.0)
    assert len(log._exchanges) <= 256


def printer(text: str, then: str = "") -> list[str]:
    """A command that prints `text` as a journal would, and then stays."""
    script = f"import sys, signal; sys.stdout.write({text!r}); sys.stdout.flush(); {then or 'signal.pause()'}"
    return [sys.executable, "-S", "-c", script]


async def follow(store: Store, command: list[str], until: int) -> None:
    service = Service(store, clock=lambda: 100.0)
    following = asyncio.create_task(DhcpJournal(service, command).follow_until_stopped())
    async with asyncio.timeout(10):
        heard = [event async for event, _ in _take(service, until)]
    assert len(heard) == until
    service.stop()
    await asyncio.wait_for(following, 10)


async def _take(service: Service, count: int) -> AsyncIterator[tuple[str, int]]:
    async for text in service.stream(0):
        if text.startswith("id:"):
            count -= 1
            yield text, count
        if not count:
            return


def test_a_followed_log_is_kept_with_the_run_that_installs_the_node(store: Store) -> None:
    grant = Grant(
        run="r1",
        lab="hall",
        node="node1",
        answer_token_sha256="a" * 64,
        report_token_sha256="b" * 64,
        expires=200.0,
        boot_script="x",
        answer="x",
        first_boot="x",
    )
    store.grant(grant, 1.0)
    lines = "1 DHCPDISCOVER(lan0) ac:1f:6b:00:00:01\n1 DHCPDISCOVER(lan0) ac:1f:6b:00:00:02\n1 DHCPDISC"
    asyncio.run(follow(store, printer(lines), until=4))
    found = [(event.node, event.run, event.kind) for event in store.events(after=2)]
    assert found == [("node1", "r1", "dhcp"), ("node2", None, "dhcp")]


def test_a_stranger_is_told_once_a_minute_however_often_it_asks(store: Store) -> None:
    lines = "1 DHCPDISCOVER(lan0) de:ad:be:ef:00:01\n" * 500 + "1 DHCPDISCOVER(lan0) ac:1f:6b:00:00:01\n"
    asyncio.run(follow(store, printer(lines), until=3))
    assert [event.kind for event in store.events()] == ["rack", "stranger", "dhcp"]


def test_a_log_that_ends_is_said_to_be_lost(store: Store) -> None:
    asyncio.run(follow(store, printer("", "sys.exit(3)"), until=2))
    assert store.events()[-1].kind == "dhcp-log-lost"
    assert store.events()[-1].text.endswith("ended with status 3")


def test_a_missing_program_is_said_to_be_missing(store: Store) -> None:
    asyncio.run(follow(store, ["/nowhere/journalctl"], until=2))
    assert store.events()[-1].text.endswith("/nowhere/journalctl: No such file or directory")


def test_the_followed_process_ends_with_the_service(store: Store, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = [
        sys.executable,
        "-S",
        "-c",
        f"import os, signal; open({str(pid_file)!r}, 'w').write(str(os.getpid()));"
        "print('1 DHCPDISCOVER(lan0) ac:1f:6b:00:00:01', flush=True); signal.pause()",
    ]
    asyncio.run(follow(store, command, until=2))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_the_journal_is_asked_for_new_lines_of_one_unit() -> None:
    assert journal_command("dnsmasq") == [
        "journalctl",
        "--follow",
        "--lines=0",
        "--unit",
        "dnsmasq",
        "--output=cat",
        "--no-pager",
    ]

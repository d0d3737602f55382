"""Turns what dnsmasq logs about DHCP and TFTP into events of the nodes they concern.

The lines are those of dnsmasq 2.90 and 2.91 with `log-dhcp`. One exchange carries its transaction's
number in every line, and what the client says of itself comes before the line that names its MAC:

    286331153 vendor class: PXEClient:Arch:00007:UNDI:003001
    286331153 user class: iPXE
    286331153 DHCPDISCOVER(lan0) ac:1f:6b:00:00:01
    286331153 DHCPOFFER(lan0) 10.10.1.21 ac:1f:6b:00:00:01
    286331153 DHCPNAK(lan0) 10.10.9.9 ac:1f:6b:00:00:01 wrong address
    sent /srv/tftp/snponly.efi to 10.10.1.21
    file /srv/tftp/nope.efi not found for 10.10.1.21
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from provision.boot_service.messages import RackNode
from provision.boot_service.reports import clean
from provision.boot_service.service import Service
from provision.ledger import Event

RESTART_SECONDS = 5.0
MOST_EXCHANGES = 256
MOST_LINE = 8 * 1024

# RFC 4578 and the IANA registry of processor architecture types.
ARCHITECTURES = {
    0: "BIOS",
    6: "UEFI x86",
    7: "UEFI x86-64",
    9: "UEFI x86-64",
    11: "UEFI ARM64",
    16: "UEFI x86-64 HTTP",
}

# Logged to the journal a line is the message alone; logged to a file it has a prefix.
_PREFIX = r"(?:dnsmasq(?:-dhcp|-tftp)?\[\d+\]: )?"
_SAID = re.compile(_PREFIX + r"(\d+) (vendor class|user class|client provides name): (.*)")
_MESSAGE = re.compile(
    _PREFIX
    + r"(?:(\d+) )?DHCP([A-Z]+)\([^)]*\) (?:([0-9.]+) )?(?:\d\d-)?((?:[0-9a-f]{2}:){5}[0-9a-f]{2})(?: (.*))?"
)
_SENT = re.compile(_PREFIX + r"(sent) (\S+) to ([0-9.]+)")
_NOT_SENT = re.compile(_PREFIX + r"(?:file (\S+) not found for|failed sending (\S+) to) ([0-9.]+)")
_ARCHITECTURE = re.compile(r"PXEClient:Arch:(\d{5})|HTTPClient:Arch:(\d{5})")

log = logging.getLogger(__name__)


class DhcpLog:
    """Reads dnsmasq's lines one after the other and makes events of those that concern the rack."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._exchanges: OrderedDict[str, dict[str, str]] = OrderedDict()

    def events(self, lines: Iterable[str], now: float) -> list[tuple[str, Event]]:
        """The events in these lines, each with the key by which a flood of its like is held back."""
        return [found for line in lines if (found := self._line(line.rstrip(), now))]

    def _line(self, line: str, now: float) -> tuple[str, Event] | None:
        if said := _SAID.fullmatch(line):
            self._exchange(said[1])[said[2]] = clean(said[3], 100)
            return None
        if message := _MESSAGE.fullmatch(line):
            return self._message(message, now)
        if sent := _SENT.fullmatch(line):
            return self._file(sent[2], sent[3], now, sent=True)
        if not_sent := _NOT_SENT.fullmatch(line):
            return self._file(not_sent[1] or not_sent[2], not_sent[3], now, sent=False)
        return None

    def _exchange(self, number: str) -> dict[str, str]:
        exchange = self._exchanges.setdefault(number, {})
        self._exchanges.move_to_end(number)
        if len(self._exchanges) > MOST_EXCHANGES:
            self._exchanges.popitem(last=False)
        return exchange

    def _message(self, message: re.Match[str], now: float) -> tuple[str, Event] | None:
        number, kind, address, mac, note = message.groups()
        if mac in self._service.store.rack.consoles:
            return None
        said = self._exchange(number) if number else {}
        facts = _facts(kind, mac, address, note, said)
        node = self._service.store.rack.by_mac(mac)
        if node is None:
            text = f"{mac} is of no node of the rack: {_text(facts)}"
            return f"stranger {mac}", self._service.store.event(now, "stranger", text, **facts)
        return f"dhcp {node.name}", self._of(node, now, "dhcp", _text(facts), facts)

    def _file(self, path: str, address: str, now: float, *, sent: bool) -> tuple[str, Event] | None:
        node = self._service.store.rack.by_address(address)
        if node is None:
            return None
        name = clean(PurePosixPath(path).name)
        facts = {"file": clean(path), "address": address}
        if sent:
            return f"file {node.name}", self._of(node, now, "boot-file", f"{name} sent by TFTP", facts)
        return f"file {node.name}", self._of(node, now, "boot-file-failed", f"{name} not sent by TFTP", facts)

    def _of(self, node: RackNode, now: float, kind: str, text: str, facts: dict[str, Any]) -> Event:
        return self._service.store.event(now, kind, text, node=node.name, **facts)


def _facts(
    kind: str, mac: str, address: str | None, note: str | None, said: dict[str, str]
) -> dict[str, Any]:
    vendor = said.get("vendor class", "")
    architecture = _ARCHITECTURE.match(vendor)
    facts = {
        "message": kind,
        "mac": mac,
        "address": address,
        "vendor_class": vendor,
        "user_class": said.get("user class"),
        "architecture": int(architecture[1] or architecture[2]) if architecture else None,
        # At the end of an ACK dnsmasq logs the client's name, at the end of others what was wrong.
        "note": clean(note, 100) if note and kind != "ACK" else None,
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _text(facts: dict[str, Any]) -> str:
    """As an operator reads it: "DISCOVER, UEFI x86-64 (7), PXEClient", "ACK 10.10.1.21, iPXE"."""
    number = facts.get("architecture")
    client = facts.get("vendor_class", "").split(":")[0]
    parts = [
        f"{facts['message']} {facts['address']}" if "address" in facts else facts["message"],
        f"{ARCHITECTURES.get(number, 'architecture')} ({number})" if number is not None else "",
        client if facts["message"] in ("DISCOVER", "REQUEST") else "",
        facts.get("user_class", ""),
        facts.get("note", ""),
    ]
    return ", ".join(part for part in parts if part)


class DhcpJournal:
    """Follows a command that prints dnsmasq's log, line by line, until the service stops."""

    def __init__(self, service: Service, command: Sequence[str]) -> None:
        self._service, self._command = service, command
        self._log = DhcpLog(service)

    async def follow_until_stopped(self) -> None:
        """Follow the log; a command that ends is begun again after a while, and the gap is an event."""
        stopped = asyncio.create_task(self._service.stopping.wait())
        while not stopped.done():
            why = await self._follow_once(stopped)
            if stopped.done():
                return
            log.warning("the DHCP log is not followed: %s", why)
            await self._service.keep(self._service.refusals, "dhcp-log", self._gap(why))
            await asyncio.wait([stopped], timeout=RESTART_SECONDS)

    def _gap(self, why: str) -> Event:
        text = f"the DHCP log was not followed for a while: {why}"
        return self._service.store.event(self._service.clock(), "dhcp-log-lost", text)

    async def _follow_once(self, stopped: asyncio.Task[bool]) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
            )
        except OSError as error:
            return f"{self._command[0]}: {error.strerror}"
        reading = asyncio.create_task(self._read(process.stdout))
        ended = asyncio.create_task(process.wait())
        await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            process.terminate()
        code = await ended
        await reading
        return f"{self._command[0]} ended with status {code}"

    async def _read(self, output: asyncio.StreamReader | None) -> None:
        rest = b""
        while output is not None and (chunk := await output.read(64 * 1024)):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-MOST_LINE:]
            try:
                await self._keep([line.decode("utf-8", "replace") for line in lines])
            except SQLAlchemyError as error:  # those that follow may be kept
                log.error("what dnsmasq logged could not be kept: %s", error)

    async def _keep(self, lines: list[str]) -> None:
        now = self._service.clock()
        # All at once: they share one look for their permits and one commit.
        await asyncio.gather(*(self._keep_event(*each, now) for each in self._log.events(lines, now)))

    async def _keep_event(self, key: str, event: Event, now: float) -> None:
        service = self._service
        gate = service.strangers if event.kind == "stranger" else service.handouts
        permit = await service.current_permit(event.node) if event.node else None
        await service.keep(gate, key, replace(event, run=permit.open_run(now) if permit else None))


def journal_command(unit: str) -> list[str]:
    """The command that prints a unit's new log lines as they come."""
    return ["journalctl", "--follow", "--lines=0", "--unit", unit, "--output=cat", "--no-pager"]

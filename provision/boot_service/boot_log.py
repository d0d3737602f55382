"""Turns what nginx logs of the boot scripts that it served from files into the service's own events.

nginx sends one datagram per request (`access_log syslog:server=unix:…,nohostname`): a header as of RFC 3164,
then the line, here JSON (`escape=json`):

    <190>Nov 22 22:00:01 nginx: {"who":"10.10.1.21","path":"/boot/52:54:00:00:01:01","status":200}

Anyone on the network chooses the path, and anyone on the server can write to the socket; so a line counts
only if it names a MAC of a node and that node's own address, which is where nginx finds the file.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from provision.boot_service.boot_scripts import boot_event, boot_text
from provision.boot_service.messages import Rack, RackNode
from provision.boot_service.service import Service

MOST_LINE = 8 * 1024

_PATH = re.compile(r"/(boot|grub)/([0-9A-Fa-f:-]{12,17})(?:\.ipxe|/grub\.cfg)?")


@dataclass(frozen=True, slots=True)
class Served:
    """A boot script that nginx has served from a file."""

    node: RackNode
    mac: str
    who: str
    grub: bool


def boot_script_events(lines: Iterable[str], rack: Rack) -> list[Served]:
    """The boot scripts that were served by these lines; every other line is passed over."""
    return [served for line in lines if (served := _served(line, rack))]


async def keep_boot_scripts(service: Service, lines: Iterable[str]) -> None:
    """Keep the events of these lines, as the service does for the scripts that it hands out itself."""
    # All at once: they share one look for their permits and one commit.
    await asyncio.gather(
        *(_keep(service, served) for served in boot_script_events(lines, service.store.rack))
    )


async def _keep(service: Service, served: Served) -> None:
    permit = await service.current_permit(served.node.name)
    live = permit if permit is not None and permit.state(service.clock()) == "live" else None
    text = boot_text(live, grub=served.grub)
    event = boot_event(service, served.node, permit, text, mac=served.mac, who=served.who)
    await service.keep(service.handouts, f"boot {served.node.name} {text}", event)


def _served(line: str, rack: Rack) -> Served | None:
    _, brace, rest = line[:MOST_LINE].partition("{")
    try:
        said = json.loads(brace + rest)
    except (ValueError, RecursionError):
        return None
    who, path = (said.get("who"), said.get("path")) if isinstance(said, dict) else (None, None)
    if not isinstance(who, str) or not isinstance(path, str) or said.get("status") not in (200, "200"):
        return None
    found = _PATH.fullmatch(path)
    node = rack.by_mac(found[2]) if found else None
    if found is None or node is None or str(node.address) != who:
        return None
    return Served(node, found[2], who, grub=found[1] == "grub")

"""The server's bridge of the management network: what the server has now, and what its files should be.

Whoever manages the machine's interfaces keeps doing so: netplan, or ifupdown (also ifupdown2).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from provision import ifupdown, netplan
from provision.errors import LabError
from provision.ifupdown import Wanted
from provision.inventory import Lab
from provision.remote import Remote, script
from provision.server_facts import OnDisk
from provision.server_plan import File

ARMED = "/run/rackproof-network-return"
"""Is there while the server would go back to its old network by itself."""
UTILS = "bridge-utils"
CLOUD_INIT = "/etc/netplan/50-cloud-init.yaml"
CLOUD_OFF = "/etc/cloud/cloud.cfg.d/99-rackproof-network.cfg"

GATHER = """export LC_ALL=C
section() { printf '\\n== %s\\n' "$1"; }
section manager
if command -v netplan >/dev/null && ls /etc/netplan/*.yaml >/dev/null 2>&1; then echo netplan
elif command -v ifreload >/dev/null && [ -e /etc/network/interfaces ]; then echo ifupdown2
elif command -v ifup >/dev/null && [ -e /etc/network/interfaces ]; then echo ifupdown; fi
section armed; [ ! -e "$1" ] || echo yes
section utils; [ ! -e /usr/sbin/brctl ] || echo yes
section cloud; grep -lrsE 'config: *.?disabled' /etc/cloud/cloud.cfg.d
section links; ip -j address
section files
for path in /etc/netplan/*.yaml /etc/network/interfaces /etc/network/interfaces.d/*; do
  [ ! -f "$path" ] || echo "$(stat -c '%a %U:%G' "$path") $(base64 -w0 <"$path") $path"
done
exit 0
"""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel has it; `addresses` as 10.10.1.1/24."""

    mtu: int
    master: str | None
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """What a server has: who manages its interfaces ("" for nobody that is known), and that one's files."""

    manager: str
    armed: bool
    utils: bool
    cloud_init: bool
    links: Mapping[str, Link]
    texts: Mapping[str, str]
    files: Mapping[str, OnDisk]


@dataclass(frozen=True, slots=True)
class Bridging:
    """The bridge of a lab on a server: how it is, and the files that are to change."""

    wanted: Wanted
    held: Held
    files: tuple[File, ...]

    @property
    def name(self) -> str:
        """Of this change, in what is planned and done."""
        return f"bridge {self.wanted.name}"

    @property
    def changes(self) -> bool:
        """Whether it does not stand, now or after the next boot."""
        return bool(self.files) or wrong(self.wanted, self.held.links) is not None

    @property
    def packages(self) -> tuple[str, ...]:
        """What ifupdown makes bridges with."""
        return () if self.held.utils or self.held.manager == "netplan" else (UTILS,)

    @property
    def interfaces(self) -> list[str]:
        """Those whose settings change: the bridge, its ports, and who has its address now."""
        having = [name for name, link in self.held.links.items() if self.wanted.address in link.addresses]
        return list(dict.fromkeys((*self.wanted.ports, *having, self.wanted.name)))


def wanted_of(lab: Lab) -> Wanted | None:
    """The bridge that the lab asks for."""
    bridge = lab.server.bridge
    if bridge is None:
        return None
    address = f"{lab.server.address}/{lab.management.cidr.prefixlen}"
    return Wanted(bridge.name, address, bridge.ports, bridge.mtu or lab.management.mtu)


def bridging(lab: Lab, server: Remote) -> Bridging | None:
    """The lab's bridge on the server, None when it asks for none; raises LabError when it cannot be made."""
    wanted = wanted_of(lab)
    if wanted is None:
        return None
    held = hold(server)
    _can_be_made(wanted, held, server.name)
    return Bridging(wanted, held, _files(wanted, held, server.name))


def hold(server: Remote) -> Held:
    """What the server has now."""
    return parse(server.check(script(GATHER, ARMED), timeout=10))


def parse(text: str) -> Held:
    """What GATHER prints."""
    sections = (part.partition("\n") for part in f"\n{text}".split("\n== ")[1:])
    said = {name: body.strip() for name, _, body in sections}
    lines = [line.split(" ", 3) for line in said["files"].splitlines()]
    contents = {path: base64.b64decode(content) for _, _, content, path in lines}
    disk = {path: replace(_on_disk(contents[path]), mode=mode, owner=owner) for mode, owner, _, path in lines}
    texts = {path: content.decode(errors="surrogateescape") for path, content in contents.items()}
    return Held(
        manager=said["manager"], armed=bool(said["armed"]), utils=bool(said["utils"]),
        cloud_init=not said["cloud"], links=links(json.loads(said["links"])), files=disk,
        texts=_manager_texts(said["manager"], texts),
    )  # fmt: skip


def wrong(wanted: Wanted, links: Mapping[str, Link]) -> str | None:
    """What of the bridge is not as it should be; None when all is."""
    bridge = links.get(wanted.name)
    if bridge is None:
        return f"there is no {wanted.name}"
    if wanted.address not in bridge.addresses:
        return f"{wanted.name} has {', '.join(bridge.addresses) or 'no address'}, not {wanted.address}"
    strays = [
        name for name, link in links.items() if name != wanted.name and wanted.address in link.addresses
    ]
    if strays:
        return f"{wanted.address} is on {strays[0]}, too"
    return next((line for line in _wrong_members(wanted, links)), None)


def _wrong_members(wanted: Wanted, links: Mapping[str, Link]) -> list[str]:
    """What is wrong with the ports, and with the MTU of them or of the bridge."""
    ports = {name: links.get(name) for name in wanted.ports}
    loose = [name for name, link in ports.items() if link is None or link.master != wanted.name]
    mtus = {name: link.mtu for name, link in ports.items() if link} | {wanted.name: links[wanted.name].mtu}
    said = [f"{name} is no port of {wanted.name}" for name in loose]
    return said + [
        f"{name} has MTU {mtu}, not {wanted.mtu}" for name, mtu in mtus.items() if mtu != wanted.mtu
    ]


def _can_be_made(wanted: Wanted, held: Held, server: str) -> None:
    missing = [port for port in wanted.ports if port not in held.links]
    if missing:
        message = f"it has no network interface {' or '.join(missing)}, which server.bridge names"
        raise LabError(message, node=server, last_seen=f"its interfaces are {', '.join(held.links)}")
    if not held.manager:
        message = "neither netplan nor ifupdown manages its interfaces, so server.bridge cannot be made"
        likely = f"make {wanted.name} by whatever does, and take server.bridge out of the lab file"
        raise LabError(message, node=server, likely=likely)


def _files(wanted: Wanted, held: Held, server: str) -> tuple[File, ...]:
    """The manager's files that change."""
    program = netplan if held.manager == "netplan" else ifupdown
    for port in wanted.ports:
        if holder := program.holder_of(held.texts, port, wanted.name):
            if wrong(wanted, held.links) is None:
                return ()
            path, name = holder
            message = f"{path} has {port} or {wanted.name} in {name} already"
            raise LabError(message, node=server, likely=f"take it out there, or let the lab file name {name}")
    if held.manager == "netplan":
        macs = {port: held.links[port].mac for port in wanted.ports}
        texts = netplan.edited(held.texts, wanted, macs, server)
    else:
        texts = ifupdown.edited(held.texts, wanted)
    changed = {path: text for path, text in texts.items() if text != held.texts.get(path)}
    if CLOUD_INIT in changed and held.cloud_init:
        message = f"cloud-init would write {CLOUD_INIT} anew, with the address that belongs on {wanted.name}"
        raise LabError(message, node=server, likely=f"echo 'network: {{config: disabled}}' >{CLOUD_OFF}")
    return tuple(_file(path, text, held.files.get(path)) for path, text in changed.items())


def _file(path: str, text: str, old: OnDisk | None) -> File:
    mode, owner = (int(old.mode, 8), old.owner) if old else (0o600, "root:root")
    return File(path, text.encode(errors="surrogateescape"), mode, owner)


def _on_disk(content: bytes) -> OnDisk:
    return OnDisk(File("", content).sha256, "", "")


def _manager_texts(manager: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Of the files only those that the manager reads."""
    if manager == "netplan":
        return {path: text for path, text in texts.items() if path.startswith("/etc/netplan/")}
    main = texts.get(ifupdown.FILE, "")
    parts = {path: text for path, text in texts.items() if path.startswith(f"{ifupdown.FILE}.d/")}
    return {ifupdown.FILE: main, **(parts if ifupdown.sourced(main) else {})} if manager else {}


def links(shown: Sequence[Mapping[str, Any]]) -> dict[str, Link]:
    """From `ip -j address`."""
    return {
        link["ifname"]: Link(
            link["mtu"], link.get("master"), link.get("permaddr") or link.get("address", ""),
            tuple(f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if "local" in one),
        )
        for link in shown
        if link
    }  # fmt: skip

"""What a rack is built from, taken from the lab file: machines with their NICs, networks, consoles.

The plan is kept beside the rack, so that a later command knows the rack without the lab file and a changed
lab file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, Literal

from provision.errors import InventoryError, Mistake
from provision.inventory.boot_chains import Firmware
from provision.inventory.models import Lab, Node
from provision.inventory.words import MANAGEMENT
from virtual_lab import drives, light
from virtual_lab.hardware import Dmi, Hardware, RealFirmware
from virtual_lab.places import SERVER, Places

WAN = "wan"
INTERNET = IPv4Interface("198.51.100.1/24")
SERVER_OUTSIDE = IPv4Interface("198.51.100.2/24")
"""TEST-NET-2 (RFC 5737) plays the internet: nobody's real address."""


@dataclass(frozen=True, slots=True)
class Cable:
    """From a machine's NIC to a switch port; `wan` is no switch but the other end of a line."""

    nic: str
    mac: str
    network: str
    port: str


@dataclass(frozen=True, slots=True)
class Console:
    """A node's BMC: where it answers, and the MAC of its own port."""

    name: str
    address: str
    mac: str
    port: str


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """One machine; the server has no console. The drives are what was asked for (drives.Asked).

    `image` is what its disk lies over: of a node whose system is not Proxmox, that system's own.
    `firmware` is the real firmware that boots it from network; None plays UEFI. A light node, with `light`,
    has no disk, no console, and the server's image.
    """

    name: str
    fqdn: str
    address: str
    cables: tuple[Cable, ...]
    serial: str
    console: Console | None = None
    drive: Mapping[str, str] | None = None
    osd_drives: tuple[Mapping[str, str], ...] = ()
    image: Literal["node", "ubuntu", "server"] = "node"
    firmware: Firmware | None = None
    light: light.Light | None = None

    def cable(self, link: str) -> Cable | None:
        """The cable on a NIC, or to a network, of that name."""
        return next((cable for cable in self.cables if link in (cable.nic, cable.network)), None)


@dataclass(frozen=True, slots=True)
class RackPlan:
    """A whole rack. `networks` are bridge names by network name; `harness` is the harness's own address."""

    lab: str
    prefix: int
    gateway: str
    harness: str
    networks: Mapping[str, str]
    machines: tuple[MachinePlan, ...]

    @property
    def nodes(self) -> tuple[MachinePlan, ...]:
        """The machines with a console: all but the server, and no light ones."""
        return tuple(machine for machine in self.machines if machine.console is not None)

    @property
    def is_light(self) -> bool:
        """Whether it is made of light nodes: it has neither a server nor an internet then."""
        return any(machine.light for machine in self.machines)

    @property
    def server(self) -> MachinePlan:
        """The provisioning server, which a rack of light nodes has not."""
        return next(machine for machine in self.machines if machine.name == SERVER)

    @property
    def has_real_firmware(self) -> bool:
        """Whether any of its nodes has."""
        return any(node.firmware for node in self.nodes)

    def machine(self, name: str) -> MachinePlan | None:
        """The machine of that name."""
        return next((machine for machine in self.machines if machine.name == name), None)

    def save(self, path: Path) -> None:
        """Write the plan, whole or not at all."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1))
        new.replace(path)

    @classmethod
    def load(cls, path: Path) -> RackPlan:
        """The plan in a file; raises FileNotFoundError."""
        raw = json.loads(path.read_text())
        return cls(**{**raw, "machines": tuple(_machine(machine) for machine in raw["machines"])})


def plan(lab: Lab) -> RackPlan:
    """The rack that plays `lab`.

    Raises InventoryError when a node is named like a part of the rack, or when the management network has
    no address left for the harness.
    """
    _refuse_taken_names(lab)
    bridges = {name: short("br-", name) for name in lab.networks}
    return RackPlan(
        lab=lab.name,
        prefix=lab.management.cidr.prefixlen,
        gateway=str(lab.management.gateway or lab.server.address),
        harness=str(_harness_address(lab)),
        networks=bridges,
        machines=(
            *(() if lab.is_light else (_server(lab),)),
            *(_node(lab, node) for node in lab.nodes.values()),
        ),
    )


def differences(before: RackPlan, after: RackPlan) -> Iterator[str]:
    """What a changed lab file changes in the rack, a line each."""
    old = {machine.name: machine for machine in before.machines}
    new = {machine.name: machine for machine in after.machines}
    yield from (f"{name} is new" for name in new.keys() - old.keys())
    yield from (f"{name} is gone" for name in old.keys() - new.keys())
    for name in old.keys() & new.keys():
        was, is_now = asdict(old[name]), asdict(new[name])
        yield from (f"{name}: other {key}" for key in was if was[key] != is_now[key])
    for key in ("lab", "prefix", "gateway", "harness", "networks"):
        if getattr(before, key) != getattr(after, key):
            yield f"other {key}: {getattr(after, key)}, it was {getattr(before, key)}"


def hardware(
    places: Places,
    machine: MachinePlan,
    layers: tuple[Path, ...],
    *,
    release: str = "9.2",
    loaders: Path | None = None,
) -> Hardware:
    """The server that plays `machine`; one with real firmware needs the folder of its `loaders`."""
    folder, seed = places.machine(machine.name), f"{machine.name}/{machine.serial}"
    return Hardware(
        name=machine.name,
        nics={cable.nic: cable.mac for cable in machine.cables},
        drive=drives.system(seed, machine.drive or {}, folder),
        osd_drives=tuple(drives.osd(seed, asked, folder) for asked in machine.osd_drives),
        dmi=_dmi(machine),
        memory_mib=131072,
        cores=32,
        console_log=places.console(machine.name),
        layers=layers,
        target=folder / "root",
        seed=int(_digest(machine.name, "seed")[:8], 16),
        release=release,
        real_firmware=RealFirmware(machine.firmware, loaders) if machine.firmware and loaders else None,
    )


def short(prefix: str, name: str) -> str:
    """An interface name of at most 15 characters: the plain one if it fits, else one made from it."""
    plain = f"{prefix}{name}"
    return plain if len(plain) <= 15 else f"{prefix[:6]}{zlib.crc32(plain.encode()):08x}"


def made_up_mac(*parts: str) -> str:
    """A locally administered MAC that is always the same for the same parts."""
    digest = _digest(*parts)
    return ":".join(["02", *(digest[i : i + 2] for i in range(0, 10, 2))])


def _refuse_taken_names(lab: Lab) -> None:
    taken = {"lab", WAN, SERVER, *(f"{name}-bmc" for name in lab.nodes)}
    mistakes = [
        Mistake(
            lab.name,
            None,
            f"nodes.{name}",
            f'a virtual rack has a part named "{name}"; name the node otherwise',
        )
        for name in lab.nodes
        if name in taken
    ]
    if mistakes:
        raise InventoryError(mistakes)


def _server(lab: Lab) -> MachinePlan:
    name = lab.server.name
    cables = (
        Cable("lan0", made_up_mac(lab.name, name, "lan0"), MANAGEMENT, short("s-", "lan0")),
        Cable("wan0", made_up_mac(lab.name, name, "wan0"), WAN, "wan0"),
    )
    fqdn = f"{name}.{lab.domain}"
    return MachinePlan(
        SERVER, fqdn, str(lab.server.address), cables, serial=_serial(lab.name, name), image="server"
    )  # fmt: skip


def _node(lab: Lab, node: Node) -> MachinePlan:
    # The NIC that boots is the first: firmware tries them in this order.
    names = sorted(node.addresses, key=lambda name: name != MANAGEMENT)
    own = light.asked_for(lab, node)
    return MachinePlan(
        node.name, node.fqdn, str(node.management), tuple(_cable(lab, node, name) for name in names),
        serial=node.serial or _serial(lab.name, node.name), console=None if own else _console(lab, node),
        drive=drives.system_asked_for(node), osd_drives=tuple(drives.osds_asked_for(lab, node)),
        image="server" if own else "node" if node.is_proxmox else "ubuntu", light=own,
        firmware=node.firmware if node.real_firmware else None,
    )  # fmt: skip


def _console(lab: Lab, node: Node) -> Console:
    bmc = node.bmc
    mac = bmc.mac or made_up_mac(lab.name, bmc.name)
    return Console(bmc.name, str(bmc.address), mac, short("b-", node.name))


def _cable(lab: Lab, node: Node, network: str) -> Cable:
    nic = node.nics[network]
    own = node.mac if network == MANAGEMENT else node.macs.get(network)
    return Cable(nic, own or made_up_mac(lab.name, node.name, nic), network, short(f"{node.name}-", nic))


def _dmi(machine: MachinePlan) -> Dmi:
    return Dmi(
        manufacturer="Supermicro", product="SYS-2029TP-HTR", serial=machine.serial,
        uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{machine.serial}.{machine.fqdn}")), bios_version="3.4",
        board_product="X11DPT-PS", board_serial=f"B{machine.serial}", chassis_serial=f"C{machine.serial}",
    )  # fmt: skip


def _serial(*parts: str) -> str:
    return f"S{int(_digest(*parts)[:12], 16) % 10**9:09d}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def _harness_address(lab: Lab) -> IPv4Address:
    taken = {lab.server.address, lab.management.gateway}
    taken |= {node.management for node in lab.nodes.values()} | {
        node.bmc.address for node in lab.nodes.values()
    }
    for address in _downwards(lab.management.cidr):
        if address not in taken and not (lab.management.dhcp and address in lab.management.dhcp):
            return address
    wrong = f"{lab.management.cidr} has no address left for the harness; make the network larger"
    raise InventoryError([Mistake(lab.name, None, f"networks.{MANAGEMENT}.cidr", wrong)])


def _downwards(network: IPv4Network) -> Iterator[IPv4Address]:
    last = int(network.broadcast_address) - 1
    return (IPv4Address(number) for number in range(last, int(network.network_address), -1))


def _machine(raw: dict[str, Any]) -> MachinePlan:
    cables = tuple(Cable(**cable) for cable in raw["cables"])
    console = Console(**raw["console"]) if raw["console"] else None
    osds = tuple(raw.get("osd_drives", ()))
    own = light.loaded(raw["light"]) if raw.get("light") else None
    return MachinePlan(**{**raw, "cables": cables, "console": console, "osd_drives": osds, "light": own})

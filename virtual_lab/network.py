"""The rack's cables and switches: network namespaces, bridges and veth pairs, made by `ip`.

`ip -batch` takes one short process for each namespace; importing pyroute2 takes longer than all of them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from provision.errors import LabError
from provision.inventory.words import MANAGEMENT
from virtual_lab.kernel import within
from virtual_lab.places import Places
from virtual_lab.plan import INTERNET, WAN, Cable, MachinePlan, RackPlan, made_up_mac

LAB = "lab"
JUMBO = 9000
"""MTU of the switch side, as of a real switch with jumbo frames on."""


def parts(plan: RackPlan) -> list[str]:
    """The rack's namespaces, by the names that Places.namespace takes."""
    consoles = [f"{machine.name}-bmc" for machine in plan.nodes]
    outside = () if plan.is_light else (WAN,)
    return [LAB, *outside, *(machine.name for machine in plan.machines), *consoles]


def standing(places: Places, plan: RackPlan) -> bool:
    """Whether the rack's network was built to its end, and every namespace of it is still there."""
    mounted = Path("/proc/self/mountinfo").read_text()
    return _mark(places).exists() and all(f" {places.namespace(part)} " in mounted for part in parts(plan))


def build(places: Places, plan: RackPlan) -> None:
    """Make every namespace, switch and cable; raises LabError when `ip` refuses."""
    names = {part: places.namespace_name(part) for part in parts(plan)}
    _ip(None, [f"netns add {name}" for name in names.values()])
    _ip(names[LAB], ["link set lo up", *_switches(plan), *_cables(plan, names)])
    for node in plan.nodes:
        _ip(names[f"{node.name}-bmc"], ["link set lo up", *_bmc_port(plan, node)])
    if plan.is_light:
        _ip(names[LAB], _neighbours(plan))
    else:
        _build_internet(places, plan)
    _mark(places).touch()


def harness_mac(plan: RackPlan) -> str:
    """The MAC of the harness's own end of the management network."""
    return made_up_mac(plan.lab, "harness")


def _neighbours(plan: RackPlan) -> list[str]:
    """Light nodes as neighbours that are known for good, and count for nothing.

    All namespaces of a kernel share 1024 others (gc_thresh3, which only the host can set): hundreds of nodes
    that ask each other for addresses run out of them, and their packets are lost.
    """
    switch = plan.networks[MANAGEMENT]
    return [
        f"neigh add {machine.address} lladdr {machine.cables[0].mac} dev {switch} nud permanent"
        for machine in plan.machines
    ]


def _build_internet(places: Places, plan: RackPlan) -> None:
    line = next(cable.port for cable in plan.server.cables if cable.network == WAN)
    lines = ["link set lo up", f"addr add {INTERNET} brd + dev {line}", f"link set {line} up"]
    _ip(places.namespace_name(WAN), lines)
    within(places.namespace(WAN), as_delivered)


def plugged(places: Places, cable_port: str, *, in_place: bool) -> None:
    """Plug a cable in, or pull it: the machine at its other end sees its carrier come or go."""
    _ip(places.namespace_name(LAB), [f"link set {cable_port} {'up' if in_place else 'down'}"])


def is_plugged(places: Places) -> frozenset[str]:
    """The switch ports whose cable is in place."""
    command = ["ip", "-n", places.namespace_name(LAB), "-o", "link", "show", "up"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return frozenset(line.split(": ")[1].partition("@")[0] for line in shown.splitlines())


def _mark(places: Places) -> Path:
    return places.rack / "network-is-built"


def _switches(plan: RackPlan) -> list[str]:
    lines = []
    for network, bridge in plan.networks.items():
        own = f"address {harness_mac(plan)} " if network == MANAGEMENT else ""
        lines += [f"link add {bridge} {own}type bridge stp_state 0 forward_delay 0 mcast_snooping 0"]
        lines += [f"link set {bridge} mtu {JUMBO} up"]
        lines += (
            [f"addr add {plan.harness}/{plan.prefix} brd + dev {bridge}"] if network == MANAGEMENT else []
        )
    return lines


def _cables(plan: RackPlan, names: dict[str, str]) -> list[str]:
    lines = []
    for machine in plan.machines:
        inside = names[machine.name]
        for cable in machine.cables:
            lines += _line(cable, inside, names) if cable.network == WAN else _to_switch(plan, cable, inside)
        if machine.console:
            port = Cable("bmc0", machine.console.mac, MANAGEMENT, machine.console.port)
            lines += _to_switch(plan, port, names[f"{machine.name}-bmc"])
    return lines


def _to_switch(plan: RackPlan, cable: Cable, namespace: str) -> list[str]:
    end = f"{cable.nic} netns {namespace} address {cable.mac}"
    return [
        f"link add {end} type veth peer name {cable.port} mtu {JUMBO}",
        f"link set {cable.port} master {plan.networks[cable.network]} up",
    ]


def _line(cable: Cable, namespace: str, names: dict[str, str]) -> list[str]:
    far = f"peer name {cable.port} netns {names[WAN]}"
    return [f"link add {cable.nic} netns {namespace} address {cable.mac} type veth {far}"]


def _bmc_port(plan: RackPlan, node: MachinePlan) -> list[str]:
    assert node.console is not None
    lines = [f"addr add {node.console.address}/{plan.prefix} brd + dev bmc0", "link set bmc0 up"]
    return [*lines, f"route add default via {plan.gateway} dev bmc0"]


def as_delivered() -> None:
    """The settings of a kernel that starts, in this thread's network namespace.

    A new namespace takes some over from this machine, and keeps what a system that ran in it has set.
    """
    for setting in ("ip_forward", "conf/all/rp_filter", "conf/default/rp_filter"):
        Path(f"/proc/sys/net/ipv4/{setting}").write_text("0")


def _ip(namespace: str | None, lines: Iterable[str]) -> None:
    command: Sequence[str] = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    text = "\n".join(lines) + "\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()
        raise LabError(f"the rack's network could not be made: {' '.join(command)}: {said}")

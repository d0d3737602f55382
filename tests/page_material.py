"""Runs as the page is told of them: proved, failed, interrupted, of a large rack, and with hostile words everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from provision.baseline import Kept, Reading
from provision.journal import Event, Evidence
from provision.run import STEPS
from reports.changes import Changes, changes
from reports.history import About, RunRow
from reports.page import Material
from reports.story import Outcome, Story

BEGAN = 1_795_377_491.0
TOOK = {"server": 6, "power": 2, "install": 160, "cluster": 40, "ceph": 70, "templates": 30}
PHASES = {
    "identified": 1, "permitted": 1.5, "network-boot-set": 2, "reset": 3, "dhcp": 20, "boot-script": 24,
    "answer": 40, "installed": 110, "first-boot": 140, "registered": 155,
}  # fmt: skip


def event(at: float, kind: str, text: str = "", *, step: str | None = None, node: str | None = None,
          **facts: Any) -> Event:  # fmt: skip
    return Event(BEGAN + at, "run-1", "hall-3", step, node, kind, text, facts)


def names(count: int) -> list[str]:
    return [f"node{number}" for number in range(1, count + 1)]


def proved(count: int = 4, hostile: str = "") -> Material:
    """A run of every step; `hostile` stands in every word that comes from outside."""
    nodes = [f"node{number}{hostile}" for number in range(1, count + 1)]
    story = Story(f"hall-3{hostile}", STEPS, nodes)
    events = list(_events(nodes, STEPS, hostile))
    return _told(story, events, nodes, hostile)


def failed(count: int = 4, bad: str = "node4") -> Material:
    """Step install gave up on one node; the others came up."""
    nodes = names(count)
    story = Story("hall-3", STEPS, nodes)
    events = [
        each for each in _events(nodes, STEPS[:3])
        if not (each.node == bad and each.time > BEGAN + 33) and each.kind != "run-ended"
        and (each.kind, each.step) != ("step-done", "install")
    ]  # fmt: skip
    events.append(event(190, "step-failed", "no boot script", step="install", seconds=176))
    events.append(event(191, "run-ended", "not proved"))
    said = (
        f"{bad}: no boot script was asked for within 6 min of power-on\n"
        f"  last seen: dhcp: DISCOVER, 3 offers refused, architecture 0 (BIOS)\n"
        f"  likely: {bad} boots in BIOS mode; the lab asks for UEFI"
    )
    material = _told(story, events, nodes, "", steps=STEPS[:2])
    story.note(Outcome("step install", "install", "error", 176, acts=True, said=said))
    for step in STEPS[3:]:
        story.note(Outcome(f"step {step}", step, "skipped", 0, acts=True, said="not reached: install failed"))
    first = RunRow("run-1", "hall-3", "provision", BEGAN, 191, "NOT PROVED")
    last = RunRow("run-0", "hall-3", "provision", BEGAN - 86400, 320, "PROVED")
    usual = {"server": 5.8, "power": 2.1, "install": 158.0}
    return replace(material, about=About(last, {"a": first}, usual))


def checks_failed() -> Material:
    """Every path to node3 has the wrong MTU: found by checks, in a run whose steps all went well."""
    material = proved()
    for one, other in (("node1", "node3"), ("node3", "node1"), ("node2", "node3"), ("node3", "node4")):
        name = f"mtu: largest_packet_passes[{one}-{other}-storage]"
        said = f"AssertionError: 9000 bytes from {one} to {other}\nassert 1 == 0"
        material.story.note(Outcome(name, "install", "failed", 1.0, said=said))
    return material


def drifted() -> Material:
    """The same run, whose machines are not what they were at the last green run."""
    return replace(checks_failed(), changes=_changed("", made=False))


def rebuilt() -> Material:
    """A proved run, which made anew what an install makes anew, and changed nothing else."""
    before, now = _kept("run-0", ANEW["before"]), _kept("run-1", ANEW["after"])
    return replace(proved(), changes=changes({"node1": before}, {"node1": now}, made=True))


def interrupted() -> Material:
    """Ctrl-C in the middle of step install."""
    nodes = names(4)
    events = [
        each for each in _events(nodes, STEPS[:3])
        if each.time < BEGAN + 80 and (each.kind, each.step) != ("step-done", "install")
    ]  # fmt: skip
    material = _told(Story("hall-3", STEPS, nodes), events, nodes, "", steps=STEPS[:2])
    material.story.interrupted = True
    return material


def empty() -> Material:
    """A run that ended before anything happened."""
    return Material("run-1", "verify", Story("hall-3", STEPS, []))


def verified() -> Material:
    """A run that only read: no step acted, everything stands from an earlier run."""
    nodes = names(4)
    story = Story("hall-3", STEPS, nodes)
    events = [event(0, "run-started", "verify"), event(20, "run-ended", "proved")]
    return replace(_told(story, events, nodes, "", acted=False), mode="verify")


BEFORE: dict[str, Any] = {
    "packages": {"jq": "1.7.1-6", "pve-manager": "9.1.1"},
    "network": {"interfaces": {"vmbr1": {"addresses": ["10.10.2.23/24"], "mtu": 9000}}},
    "sysctl": {"running": {"net.core.rmem_max": "67108864"}},
    "keys": {"authorised": {}},
}  # fmt: skip
AFTER: dict[str, Any] = {
    "packages": {"pve-manager": "9.1.2"},
    "network": {"interfaces": {"vmbr1": {"addresses": ["10.10.2.23/24", "10.10.2.99/24"], "mtu": 1500}}},
    "sysctl": {"running": {"net.core.rmem_max": "212992"}},
    "keys": {"authorised": {"root joe@desk": ["ssh-ed25519 SHA256:FMf5MQjnEztZlHH/A2lbo3DxKRbRPlIPMWVPQaN0ye0"]}},
}  # fmt: skip
ANEW = {which: {"keys": {"host": {"ssh-ed25519": f"SHA256:{which}"}}} for which in ("before", "after")}


def _changed(hostile: str, *, made: bool) -> Changes:
    strange = {f"accounts{hostile}": f"uid 1000{hostile}"}
    before = {
        "node3": _kept("run-0", {**BEFORE, "users": {}}, "node3"),
        "cluster": _kept("run-0", {"ceph": {"flags": []}, "cluster": {"config version": "4"}}, "cluster"),
    }
    now = {
        "node3": _kept(f"run-1{hostile}", {**AFTER, "users": strange}, "node3"),
        "cluster": _kept(
            "run-1", {"ceph": {"flags": ["noout"]}, "cluster": {"config version": "5"}}, "cluster"
        ),
    }
    return changes(before, now, made=made)


def _kept(run: str, facts: dict[str, Any], machine: str = "node1") -> Kept:
    return Kept(Reading(machine, facts), run, BEGAN - 86400, "green")


def _events(nodes: Sequence[str], steps: Sequence[str], hostile: str = "") -> Iterator[Event]:
    yield event(0, "run-started", f"provision{hostile}")
    at = 0.5
    for step in steps:
        yield event(at, "step-started", step, step=step)
        yield from _of_step(step, at, nodes, hostile)
        at += TOOK[step]
        yield event(at, "step-done", step, step=step, seconds=TOOK[step], changed=4, unchanged=1)
        at += 3
    rows = [[f"cluster{hostile}", f"hall-3, quorate{hostile}"], ["Ceph", "HEALTH_OK"]]
    yield event(at, "overview", rows=rows)
    yield event(at, "run-ended", "proved")


def _of_step(step: str, at: float, nodes: Sequence[str], hostile: str) -> Iterator[Event]:
    for place, node in enumerate(nodes):
        late = 20 * place / len(nodes)
        if step == "power":
            for kind, after in PHASES.items():
                slow = late if after > 10 else 0
                yield event(at + after + slow / 4, kind, f"{kind} of it{hostile}", node=node)
        elif step == "cluster":
            kind = "node-joined" if place else "cluster-created"
            yield event(at + 5 + 1.5 * late, kind, f"joined{hostile}", step=step, node=node)
        elif step == "ceph":
            yield event(at + 30 + late, "osd-created", f"OSD on /dev/sdb{hostile}", step=step, node=node)
    if step == "templates":
        yield event(at + 12, "template-made", f"template 9000{hostile}", step=step, node=nodes[0])


def _told(story: Story, events: Sequence[Event], nodes: Sequence[str], hostile: str, *,
          steps: Sequence[str] = STEPS, acted: bool = True) -> Material:  # fmt: skip
    story.began = BEGAN
    for each in events:
        story.take(each)
    story.sum_up(events)
    for step in steps:
        if acted:
            story.note(Outcome(f"step {step}", step, "passed", TOOK[step], acts=True))
        for node in nodes:
            story.note(Outcome(f"mtu: of_bridge{hostile}[{node}-storage]", step, "passed", 0.02))
    return Material(
        f"run-1{hostile}", "provision", story, events, list(_evidence(nodes, steps, hostile)),
        {node: {f"management{hostile}": "10.10.1.21", "BMC": "10.10.1.11"} for node in nodes},
        [(f"python{hostile}", f"3.11{hostile}")],
        changes=_changed(hostile, made=False) if hostile else Changes(),
    )  # fmt: skip


def _evidence(nodes: Sequence[str], steps: Sequence[str], hostile: str) -> Iterator[Evidence]:
    read: dict[str, dict[str, Any]] = {
        "power": {"model": f"SYS-2029TP-HTR{hostile}", "serial": f"S1{hostile}", "boot_mode": "UEFI"},
        "install": {"version": f"9.2.11{hostile}", "registered": BEGAN + 155, "seconds": 1.234},
        "cluster": {"nodeid": 1, "links": [f"10.10.1.21{hostile}"]},
        "ceph": {"osds": [0], "disks": {f"S3Z8{hostile}": "/dev/sdb"}, "spare": None, "ssd": True},
    }
    for step in steps:
        if step in read:
            facts = {node: dict(read[step]) for node in nodes}
            yield Evidence("hall-3", step, f"run-0{hostile}", BEGAN, 2.0, [], [], {}, facts)

"""Reads the facts of a lab's machines that last, by one script on each, and of its cluster on one node."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from checks import ceph_setup
from checks.ceph_facts import last_line, on_node
from checks.public_keys import authorised, certificate, fingerprint, host_keys
from provision.baseline import CLUSTER, Reading
from provision.errors import LabError
from provision.inventory import Lab, Node
from provision.machines import Machines
from provision.remote import Remote
from provision.together import together

Identified = Mapping[str, Mapping[str, Any]]
"""What step `power` read back of each node."""
SERVER = "server"
OF_MACHINE = (
    "hardware", "firmware", "kernel", "packages", "repositories", "network", "sysctl", "ssh", "keys", "users",
    "services", "sockets", "storage", "files",
)  # fmt: skip
OF_CLUSTER = {
    "cluster": "cluster", "keys": "cluster", "access": "cluster", "storages": "cluster",
    "firewall": "cluster", "ceph": "ceph", "templates": "templates",
}  # fmt: skip
"""What nodes share, each with the step that sets it up."""
BMC_SECONDS = 10.0


def machines_of(lab: Lab, nodes: Iterable[str]) -> list[str]:
    """The names under which facts are kept: the server, these nodes, and what Proxmox nodes share."""
    known = [name for name in nodes if name in lab.nodes]
    shared = [CLUSTER] if lab.proxmox.nodes else []
    return [SERVER, *known, *shared]


def subjects_of(lab: Lab, nodes: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Every machine and subject, with the step that its case belongs to."""
    for machine in machines_of(lab, nodes):
        if machine == CLUSTER:
            yield from (
                (machine, subject, step) for subject, step in OF_CLUSTER.items() if _has(lab, subject)
            )
        else:
            step = "server" if machine == SERVER else "install"
            yield from ((machine, subject, step) for subject in OF_MACHINE)


def read(lab: Lab, machines: Machines, name: str, identified: Identified | None = None) -> Reading:
    """The facts of a machine, or of the cluster; raises LabError when it cannot be asked at all.

    `identified` is what BMCs said of their nodes in this run, where they were: then none is asked again.
    """
    if name == CLUSTER:
        return _read_cluster(lab, machines.node(asked_for_cluster(lab)))
    if name == SERVER:
        return _told(name, _run(machines.server, "machine_facts"))
    return _read_node(lab.nodes[name], machines.node(name), (identified or {}).get(name))


def read_all(
    lab: Lab, machines: Machines, names: Iterable[str], identified: Identified | None = None
) -> tuple[list[Reading], dict[str, str]]:
    """The facts of several machines at once, and of those that could not be asked why."""

    def outcome(name: str) -> Reading | LabError:
        try:
            return read(lab, machines, name, identified)
        except LabError as error:
            return error

    outcomes = together({name: name for name in names}, outcome)
    readings = [found for found in outcomes.values() if isinstance(found, Reading)]
    return readings, {name: str(error) for name, error in outcomes.items() if isinstance(error, LabError)}


def asked_for_cluster(lab: Lab) -> str:
    """The node that is asked what all share: the primary, or the only one where there is no cluster."""
    return lab.primary.name if lab.cluster else next(iter(lab.proxmox.nodes))


def _has(lab: Lab, subject: str) -> bool:
    return not (subject == "ceph" and lab.ceph is None)


def _run(machine: Remote, script: str) -> dict[str, Any]:
    result = on_node(machine, script)
    try:
        told: dict[str, Any] = json.loads(result.stdout)
    except ValueError:
        said = last_line(result.stderr)
        raise LabError("its facts cannot be read", node=machine.name, last_seen=said) from None
    return told


def _told(name: str, told: Mapping[str, Any]) -> Reading:
    facts = dict(told["facts"])
    if "keys" in facts:
        facts["keys"] = _keys(facts["keys"])
    return Reading(name, facts, told["unread"])


def _keys(told: Mapping[str, Any]) -> dict[str, Any]:
    """Fingerprints in the place of keys."""
    accounts = (authorised(user, lines) for user, lines in told["authorised"].items())
    return {
        "host": host_keys(told["host"]),
        "authorised": {name: keys for account in accounts for name, keys in account.items()},
        "certificates": {path: certificate(pem) for path, pem in told["certificates"].items()},
    }


def _read_node(node: Node, machine: Remote, identified: Mapping[str, Any] | None) -> Reading:
    """What the machine says, and its BMC's word on firmware beside it."""
    ways = {
        "system": lambda: _told(node.name, _run(machine, "machine_facts")),
        "bmc": lambda: _of_bmc(node, identified),
    }
    found = together(ways, lambda ask: ask())
    system, bmc = found["system"], found["bmc"]
    facts, unread = dict(system.facts), {**bmc.unread, **system.unread}
    facts["firmware"] = {**facts.get("firmware", {}), **bmc.facts.get("firmware", {})}
    return Reading(node.name, {name: facts[name] for name in facts if name not in unread}, unread)


def _of_bmc(node: Node, identified: Mapping[str, Any] | None) -> Reading:
    if identified is not None:
        firmware = {"BMC": identified.get("bmc_firmware"), "BIOS by the BMC": identified.get("bios")}
        return Reading(node.name, {"firmware": firmware})
    from provision.redfish import Board, Timing  # noqa: PLC0415 (collecting needs none)

    try:
        with Board(node, timing=Timing.within(BMC_SECONDS)) as board:
            found = board.identity()
    except LabError as error:
        return Reading(node.name, unread={"firmware": str(error)})
    return Reading(node.name, {"firmware": {"BMC": found.firmware, "BIOS by the BMC": found.bios}})


def _read_cluster(lab: Lab, machine: Remote) -> Reading:
    whole = _run(machine, "cluster_facts")
    found = _told(CLUSTER, whole)
    facts, unread = dict(found.facts), dict(found.unread)
    if "templates" in facts:
        facts["templates"] = {number: _template(told) for number, told in facts["templates"].items()}
    if lab.ceph is not None:
        try:
            facts["ceph"] = ceph_setup.read(machine) if whole["ceph"] else {}
        except LabError as error:
            unread["ceph"] = str(error)
    return Reading(CLUSTER, facts, unread)


def _template(told: Mapping[str, Any]) -> dict[str, Any]:
    """A template's settings, with the fingerprints of its user's keys."""
    keys = [line.split() for line in told.get("sshkeys", [])]
    return {**told, "sshkeys": [fingerprint(words[1]) for words in keys if len(words) > 1]}

"""What a check may ask for: the lab, its machines as testinfra hosts, one node, peer or link at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest

from provision import state
from provision.distribution import unit_of
from provision.inventory.light import LIGHT
from provision.run import NoEvidence, Run
from provision.session import SESSION

if TYPE_CHECKING:
    from testinfra.host import Host

    from checks.ceph_facts import CephFacts
    from checks.readings import Asking, Readings
    from provision.inventory import Ceph, Lab, Network, Node, Pool, Template
    from provision.journal import Evidence
    from provision.machines import Machines
    from provision.pve import Session as ApiSession
    from provision.redfish import Board
    from provision.remote import Remote


ASKING: pytest.StashKey[Asking] = pytest.StashKey()
"""The check that is running, as the one that asks."""
PROXMOXS = frozenset({"proxmox", "cluster", "ceph", "cephfs", "templates"})
NOT_PROXMOXS = frozenset({"ubuntu"})
"""Marks of checks that only nodes of Proxmox have, and that they have not."""
MOST_PAIRED = 16
"""Of so many nodes a check of pairs is asked for every pair; of more, for two pairs from each node."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test case of a check for every node, pair, network, link or name it asks for."""
    session = metafunc.config.stash.get(SESSION, None)
    if session is None:
        return
    lab, wanted = session.written, set(metafunc.fixturenames)
    names = [
        name for name in session.node_names if name in lab.nodes and _concerns(metafunc, lab.nodes[name])
    ]
    if {"node", "peer"} <= wanted:
        pairs = paired(names)
        _spread(metafunc, ("node", "peer"), pairs, [f"{node}-{peer}" for node, peer in pairs])
    elif "node" in wanted:
        _spread(metafunc, "node", names, names)
    if "asked_node" in wanted:
        _spread(metafunc, "asked_node", names, names)
    if "network" in wanted:
        _spread(metafunc, "network", list(lab.networks), list(lab.networks))
    if "link" in wanted:
        links = list(lab.cluster.links) if lab.cluster else []
        _spread(metafunc, "link", links, links)
    if "pool" in wanted:
        pools = list(lab.ceph.pools) if lab.ceph else []
        _spread(metafunc, "pool", pools, pools)
    if "template" in wanted:
        ids = list(lab.templates)
        _spread(metafunc, "template", ids, [lab.templates[vmid].name for vmid in ids])
    if "record" in wanted:
        records = list(dns_records(lab).items())
        _spread(metafunc, "record", records, [name for name, _ in records])


def paired(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of nodes that a check of pairs is asked for.

    In a large lab each node is asked for the next one in the lab's order, the first after the last, and for
    the one half of the lab away: each is twice at either end, and a fault between any two parts of a row of
    racks lies between two such nodes.
    """
    if len(names) <= MOST_PAIRED:
        return list(permutations(names, 2))
    count = len(names)
    return [(name, names[(at + far) % count]) for at, name in enumerate(names) for far in (1, count // 2)]


def _concerns(metafunc: pytest.Metafunc, node: Node) -> bool:
    """Whether a check is one of this node: what belongs to a system or to a cluster is not of all."""
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if node.kind == LIGHT:
        return LIGHT in marks
    return not marks & (NOT_PROXMOXS if node.is_proxmox else PROXMOXS)


def _spread(
    metafunc: pytest.Metafunc, names: str | tuple[str, ...], values: Sequence[object], ids: list[str]
) -> None:
    metafunc.parametrize(names, values, ids=ids, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A check that only reads belongs to both modes; one of what this lab does not have is no case of it."""
    session = config.stash.get(SESSION, None)
    if session is None:
        return
    for item in items:
        if not item.get_closest_marker("acts"):
            item.add_marker("provision")
            if not item.get_closest_marker("writes"):
                item.add_marker("verify")
    lab = session.written
    light = lab.is_light
    systems = {lab.nodes[name].is_proxmox for name in session.node_names if name in lab.nodes}
    absent = {
        "proxmox": True not in systems, "ubuntu": False not in systems,
        "wan": light or lab.server.wan is None, "firewall": lab.server.firewall is None,
        "bridge": lab.server.bridge is None,
        "node_exporter": not lab.server.node_exporter, "cluster": lab.cluster is None,
        "ceph": lab.ceph is None, "templates": not lab.templates,
        "cephfs": lab.ceph is None or lab.ceph.cephfs is None,
    }  # fmt: skip
    needless = [
        item
        for item in items
        if any(item.get_closest_marker(word) for word, gone in absent.items() if gone)
        or _is_of_an_unasked_part(item, lab)
        or (light and item.get_closest_marker(LIGHT) is None)
    ]
    if needless:
        left = set(needless)
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=needless)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note who asks from now on."""
    if SESSION in item.config.stash:
        from checks.readings import Asking  # noqa: PLC0415 (the project's own tests need none)

        fresh = item.get_closest_marker("fresh") is not None
        item.config.stash[ASKING] = Asking(item.nodeid, unit_of(item), fresh=fresh)


def _is_of_an_unasked_part(item: pytest.Item, lab: Lab) -> bool:
    """Whether it checks a part of the first boot on a node where that is not asked for."""
    mark = item.get_closest_marker("first_boot")
    if mark is None or not isinstance(item, pytest.Function):
        return False
    node = lab.nodes.get(str(item.callspec.params["node"]))
    return node is not None and not (node.is_proxmox and mark.args[0] in node.first_boot.parts)


def dns_records(lab: Lab) -> dict[str, str]:
    """Every full name of the lab that DNS must know, with its address."""
    records = {f"{lab.server.name}.{lab.domain}": str(lab.server.address)}
    for node in lab.nodes.values():
        records[node.fqdn] = str(node.management)
        records[f"{node.bmc.name}.{lab.domain}"] = str(node.bmc.address)
        for network, address in node.addresses.items():
            if network != "management":
                records[f"{node.name}-{network}.{lab.domain}"] = str(address)
    return records


@pytest.fixture(scope="session")
def node(lab: Lab, request: pytest.FixtureRequest) -> Node:
    """One node."""
    return lab.nodes[request.param]


@pytest.fixture(scope="session")
def asked_node(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Node:
    """One Proxmox node as the lab file has it; nothing of the lab is reached for it."""
    return pytestconfig.stash[SESSION].written.nodes[request.param]


@pytest.fixture(scope="session")
def peer(lab: Lab, request: pytest.FixtureRequest) -> Node:
    """Another node than `node`."""
    return lab.nodes[request.param]


@pytest.fixture(scope="session")
def network(lab: Lab, request: pytest.FixtureRequest) -> Network:
    """One network of the lab."""
    return lab.networks[request.param]


@pytest.fixture(scope="session")
def link(lab: Lab, request: pytest.FixtureRequest) -> tuple[int, Network]:
    """One link of the cluster: its number and its network."""
    assert lab.cluster is not None
    return lab.cluster.links.index(request.param), lab.networks[request.param]


@pytest.fixture(scope="session")
def asked(lab: Lab) -> Ceph:
    """What the lab file asks of Ceph, with the monitors and managers that it leaves unsaid."""
    assert lab.asked_ceph is not None
    return lab.asked_ceph


@pytest.fixture(scope="session")
def ceph(lab: Lab, machines: Machines) -> CephFacts:
    """What Ceph says of itself, asked once, on the cluster's primary node."""
    from checks.ceph_facts import read  # noqa: PLC0415

    return read(machines.node(lab.primary.name))


@pytest.fixture(scope="session")
def pool(lab: Lab, request: pytest.FixtureRequest) -> tuple[str, Pool]:
    """One Ceph pool that the lab file asks for: its name, and what is asked of it."""
    assert lab.ceph is not None
    return request.param, lab.ceph.pools[request.param]


@pytest.fixture(scope="session")
def template(lab: Lab, request: pytest.FixtureRequest) -> tuple[int, Template]:
    """One VM template: its id, and what is asked of it."""
    return request.param, lab.templates[request.param]


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> tuple[str, str]:
    """One full name and its address."""
    name, address = request.param
    return name, address


@pytest.fixture(scope="session")
def readings(request: pytest.FixtureRequest, run: Run, machines: Machines) -> Iterator[Readings]:
    """What machines answered in this session; one that only verifies asks ahead, and its checks share it."""
    from checks.questions import FILE, Questions  # noqa: PLC0415
    from checks.readings import Readings  # noqa: PLC0415

    questions, stash = Questions(state.folder(run.lab) / FILE), request.config.stash
    items, alone = request.session.items, not hasattr(request.config, "workerinput")
    with Readings(questions, lambda: stash[ASKING], shared=not run.acting) as readings:
        if alone and not run.acting:
            readings.begin([item.nodeid for item in items], _reached_by(items), _by_name(machines))
        elif not alone:
            readings.begin_later(_by_unit(items))
        yield readings
    if alone:
        questions.save()


def _by_unit(items: Sequence[pytest.Item]) -> dict[str, list[str]]:
    units: dict[str, list[str]] = {}
    for item in items:
        units.setdefault(unit_of(item), []).append(item.nodeid)
    return units


def _by_name(machines: Machines) -> Callable[[str], Remote]:
    return lambda name: machines.server if name == "server" else machines.node(name)


def _reached_by(items: Sequence[pytest.Item]) -> Iterable[str]:
    """The machines that these checks are about, of those checks that run commands, in the checks' order."""
    found: dict[str, None] = {}
    for item in items:
        if isinstance(item, pytest.Function) and "machines" in item.fixturenames:
            params = item.callspec.params if hasattr(item, "callspec") else {}
            server = ["server"] if "server_host" in item.fixturenames else []
            nodes = [str(params[word]) for word in ("node", "peer") if word in params]
            found |= dict.fromkeys(server + nodes)
    return found


@pytest.fixture(scope="session")
def host_named(machines: Machines, readings: Readings) -> Callable[[str], Host]:
    """Any node as a testinfra host, by its name."""
    from checks.backend import host_of  # noqa: PLC0415 (collecting needs no testinfra)

    return cache(lambda name: host_of(machines.node(name), readings.ask))


@pytest.fixture(scope="session")
def host(node: Node, host_named: Callable[[str], Host]) -> Host:
    """The node, as a testinfra host."""
    return host_named(node.name)


@pytest.fixture(scope="session")
def server_host(machines: Machines, readings: Readings) -> Host:
    """The provisioning server, as a testinfra host."""
    from checks.backend import host_of  # noqa: PLC0415

    return host_of(machines.server, readings.ask)


@pytest.fixture
def evidence(request: pytest.FixtureRequest, run: Run) -> Evidence:
    """What the step that a check belongs to left; the check fails when there is none."""
    mark = request.node.get_closest_marker("step")
    return run.recall(mark.args[0])


@pytest.fixture
def proved(evidence: Evidence, node: Node) -> dict[str, Any]:
    """What the step that a check belongs to read back from the node; without it the check fails."""
    if node.name not in evidence.nodes:
        raise NoEvidence(
            f"step {evidence.step} left no evidence of it; run pytest -m provision", node=node.name
        )
    return evidence.nodes[node.name]


@pytest.fixture
def known_keys(node: Node, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The node's SSH host keys by its install; of a node that was never installed, the lab file's."""
    if node.kind == LIGHT and node.host_key:
        return (node.host_key,)
    return tuple(request.getfixturevalue("proved")["ssh_host_keys"])


@pytest.fixture(scope="session")
def board(node: Node) -> Iterator[Board]:
    """The node's BMC, by Redfish."""
    from provision.redfish import Board  # noqa: PLC0415

    with Board(node) as board:
        yield board


@pytest.fixture(scope="session")
def api_of(lab: Lab, machines: Machines) -> Callable[[str], ApiSession]:
    """The Proxmox API of a node, by its name; logged in, and its certificate pinned."""
    from provision import pve  # noqa: PLC0415

    return cache(lambda name: pve.connect(lab.nodes[name], machines.node(name)))

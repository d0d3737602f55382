"""Fetches, once and in bounds, what an engineer would look at next on a machine that is blamed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from provision.errors import LabError
from provision.inventory import Lab, Node
from provision.inventory.light import LIGHT
from provision.machines import Machines
from provision.redfish import Board, Timing, event_log
from provision.remote import Remote
from provision.run import Run
from provision.together import together

MOST_MACHINES = 8
"""More than so many broken machines have one reason, and it is in the first of them."""
MOST_ENTRIES = 20
"""Of each log of a BMC."""
MOST_BYTES = 64 * 1024
COMMAND_SECONDS = 10
MACHINE_SECONDS = 60.0
SERVER = "server"

ON_NODE: Mapping[str, tuple[str, ...]] = {
    "network.txt": (
        "ip -br address", "ip -d link", "ip route", "bridge link", "ip -s neigh",
        "cat /etc/network/interfaces || netplan get",
    ),
    "journal.txt": (
        "systemctl --failed --no-pager", "journalctl -b -p warning -n 150 --no-pager",
        "tail -n 100 /var/log/rackproof-first-boot.log", "chronyc -n tracking", "df -h -x tmpfs -x overlay",
    ),
    "cluster.txt": (
        "corosync-cfgtool -s", "corosync-quorumtool -s", "pvecm status",
        "journalctl -u corosync -u pve-cluster -n 60 --no-pager",
    ),
    "ceph.txt": (
        "ceph health detail", "ceph osd tree", "ceph -s", "journalctl -u 'ceph*' -n 60 --no-pager",
    ),
}  # fmt: skip
"""What is asked of a node, by the file that keeps it; all of it only reads."""

ON_SERVER = (
    "systemctl --failed --no-pager", "ip -br address", "ss -Hlntup",
    "journalctl -u dnsmasq -u nginx -u rackproof-boot-service -n 150 --no-pager",
)  # fmt: skip

ASK = r"""printf '\n$ %s\n' {command}; timeout {seconds} sh -c {command} </dev/null || echo "(ended with $?)"
"""
"""One of many questions to a machine, as its answer shows it."""


def fetch(lab: Lab, run: Run, blamed: Iterable[str], folder: Path) -> None:
    """Write files about each of the blamed machines into its folder below `folder`.

    What cannot be had is said in the file it would have been in, so that nothing here raises LabError.
    """
    names = [name for name in (*lab.nodes, SERVER) if name in set(blamed)][:MOST_MACHINES]
    with Machines(lab, run.ledger) as machines:
        jobs = {name: partial(_server if name == SERVER else _node, lab, machines, name) for name in names}
        found = together(jobs, lambda job: dict(job()))
    for name, files in found.items():
        for file, text in files.items():
            _write(folder / name / file, text)
        run.say("diagnosed", f"fetched: {', '.join(files)}", node=name if name in lab.nodes else None)


def _node(lab: Lab, machines: Machines, name: str) -> Iterator[tuple[str, str]]:
    node = lab.nodes[name]
    unreachable = None
    for file, commands in ON_NODE.items():
        if not _has(lab, node, file):
            continue
        # A node that did not answer once is not waited for four times.
        text = unreachable or _said(partial(_ask_node, machines, name, commands))
        unreachable = text if text.startswith("not to be had") else None
        yield file, text
    if node.kind == LIGHT:  # it has no BMC, and no server installed it
        return
    yield "dhcp.txt", _said(lambda: _ask(machines.server, _heard_of(node)))
    yield "bmc.txt", _said(lambda: _board(node))


def _server(lab: Lab, machines: Machines, _name: str) -> Iterator[tuple[str, str]]:
    yield "journal.txt", _said(lambda: _ask(machines.server, ON_SERVER))


def _has(lab: Lab, node: Node, file: str) -> bool:
    needed = {"cluster.txt": lab.cluster, "ceph.txt": lab.ceph}
    return file not in needed or (node.is_proxmox and needed[file] is not None)


def _ask_node(machines: Machines, name: str, commands: Iterable[str]) -> str:
    return _ask(machines.node(name), commands)


def _ask(machine: Remote, commands: Iterable[str]) -> str:
    return machine.run(question(commands), timeout=MACHINE_SECONDS).stdout


def question(commands: Iterable[str]) -> str:
    """One command that says each of these, and what it says or how it ended."""
    asked = "".join(ASK.format(command=shlex.quote(each), seconds=COMMAND_SECONDS) for each in commands)
    return f"{{ {asked}}} 2>&1"


def _heard_of(node: Node) -> Iterator[str]:
    """What the provisioning server heard of a node: by its MACs and its address."""
    words = "|".join([*sorted(node.all_macs), str(node.management).replace(".", r"\.")])
    for unit in ("dnsmasq", "rackproof-boot-service"):
        log = f"journalctl -u {unit} -b -n 5000 -o short-iso --no-pager"
        yield f"{log} | grep -iE {shlex.quote(words)} | tail -n 100"
    yield f"tail -n 5000 /var/log/nginx/rackproof.log | grep -E {shlex.quote(words)} | tail -n 50"


def _board(node: Node) -> str:
    with Board(node, timing=Timing.within(COMMAND_SECONDS)) as board:
        lines = [f"power: {board.power_state() or 'not known'}", f"next boot: {board.boot_override()}"]
        found = board.identity()
        logs = _said(lambda: "".join(f"{line}\n" for line in _newest(board.ask("its logs", event_log.read))))
    about = {"model": found.model, "serial": found.serial, "BIOS": found.bios, "BMC firmware": found.firmware}
    lines += [f"{name}: {value or 'not known'}" for name, value in about.items()]
    return "".join(f"{line}\n" for line in lines) + logs


def _newest(logs: Sequence[event_log.Log] | None) -> Iterator[str]:
    """The last entries of each log, by the BMC's own clock."""
    if logs is None:
        yield "logs: not known"
    for log in logs or ():
        entries = sorted(log.entries or (), key=lambda entry: entry.created or "")
        told = f"the last of {len(entries)} entries" if entries else "empty"
        yield f"log {log.name}: {'not known' if log.entries is None else told}"
        for entry in entries[-MOST_ENTRIES:]:
            yield f"  {entry.created or '-'} {entry.severity or '-'} {entry.message or '-'}"


def _said(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except LabError as error:
        return f"not to be had: {error}\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "replace")[-MOST_BYTES:])

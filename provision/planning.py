"""`--plan`: what `-m provision` would do, step by step; the server is read, and nothing is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from provision import automation_key, machines, pace, secrets, server_media
from provision.inventory import Lab
from provision.remote import Remote
from provision.server_diff import apts_own, diffs, summary
from provision.server_survey import changes, survey
from provision.session import Session

SAME, DIFFERENT = 0, 6
"""Exit codes: the server is as the lab file asks for, or it is not. pytest's own end with 5."""


def plan(session: Session, say: Callable[[str], None] = print) -> int:
    """Say what this session would do; raises LabError when the server cannot be read."""
    lab = automation_key.given(session.standing_lab(), make=False)
    if lab.server.key and not lab.server.key.exists():
        say(f"on this machine: ssh-keygen makes {lab.server.key}, by which the nodes will be logged in to")
    known = secrets.revealed(lab)
    outcome = SAME
    for step in session.steps:
        if step == "server":
            server = machines.server(lab)
            try:
                outcome = _server(lab, server, lambda line: say(_masked(line, known)))
            finally:
                server.close()
        else:
            say(f"step {step}: {_later(lab, session.node_names)[step]}")
    return outcome


def _server(lab: Lab, server: Remote, say: Callable[[str], None]) -> int:
    found = survey(lab, server)
    changed, done = changes(lab, server, found), summary(lab, found)
    wanted = [name for name, change in changed.items() if change]
    unknown = [name for name, change in changed.items() if change is None]
    same = [name for name, change in changed.items() if change is False]
    say(f"step server: {len(wanted)} to change, {len(same)} as they should be, on {found.facts.system}")
    for name in wanted:
        say(f"  change  {name}: {done[name]}")
        for line in apts_own(server, found) if name == "packages" else ():
            say(f"          {line}")
    for name in unknown:
        say(f"  perhaps {name}: {done[name]}, if it is new to it; it does not answer now")
    for name in same:
        say(f"  keep    {name}")
    for line in diffs(server, found):
        say(line)
    return DIFFERENT if wanted or unknown else SAME


def _later(lab: Lab, nodes: list[str]) -> dict[str, str]:
    """A line for every step that acts on nodes: what it finds there is known only when it acts."""
    names = ", ".join(nodes)
    return {
        "power": f"proves {names} by serial number and MACs, lets each install, resets it to the network"
        f"{_paced(lab, nodes)}",
        "install": f"installs {', '.join(_systems(lab, nodes))}, on a disk that is wiped for it",
        "cluster": f"joins all nodes that are not in it into the cluster {lab.cluster and lab.cluster.name}",
        "ceph": "makes what is missing of the daemons, OSDs, pools and storages",
        "templates": f"makes what is not right of {len(lab.templates)} templates, and tries each",
    }


def _paced(lab: Lab, nodes: list[str]) -> str:
    """How resets are held back, as far as the lab file tells: the server is asked for its link only then."""
    chosen = lab.model_copy(update={"nodes": {name: lab.nodes[name] for name in nodes}})
    try:
        known = pace.pace(chosen, server_media.sizes(chosen), None)
    except FileNotFoundError:  # an installer that is still to be fetched
        return ""
    return f"; {known}" if known.holds else ""


def _systems(lab: Lab, nodes: list[str]) -> Iterator[str]:
    return (f"{lab.nodes[name].os} on {name}" for name in nodes)


def _masked(line: str, known: dict[str, str]) -> str:
    """No secret is in what is shown; this is for one that stands where nobody expects it."""
    for value, reference in known.items():
        line = line.replace(value, f"({reference})")
    return line

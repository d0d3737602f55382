"""Control groups: one for each machine, so that the systemd inside never meets another one's groups."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provision.errors import LabError
from provision.wait import NotYet, Patience

RECORD = "control-groups.json"
"""Where, in a rack's folder, its groups are kept on record."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted hierarchy in which systemd keeps its groups, and where in it this process is."""

    mount: Path
    own: Path


def hierarchies(proc: Path = Path("/proc/self")) -> list[Hierarchy]:
    """The unified hierarchy and, on a hybrid machine, systemd's own; empty when none is mounted."""
    own = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    found = []
    for mount, kind, options in _mounted(proc):
        if kind == "cgroup2" and "" in own:
            found.append(Hierarchy(mount, mount / own[""].lstrip("/")))
        elif kind == "cgroup" and "name=systemd" in options and "name=systemd" in own:
            found.append(Hierarchy(mount, mount / own["name=systemd"].lstrip("/")))
    return found


def bases(group: str, record: Path) -> list[Path]:
    """The groups under which a rack's groups are made: `group` in each of this process's own.

    Their paths are kept in the file `record` before they are made. Raises LabError when that cannot be done.
    """
    made = [hierarchy.own / group for hierarchy in hierarchies()]
    record.write_text(json.dumps([str(path) for path in made]))
    if not made:
        raise LabError("no control group file system is mounted; mount cgroup2 on /sys/fs/cgroup")
    for path in made:
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise LabError(f"the control group {path} cannot be made: {error.strerror}") from error
    return made


def enter(group_bases: list[Path], name: str) -> None:
    """Put this process into the groups of one machine; they are made when missing."""
    for base in group_bases:
        group = base / name
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()))


def remove(group: Path, patience: Patience) -> None:
    """Remove a group and all below it; its last process may still be ending."""

    def try_it() -> bool | NotYet:
        try:
            for folder in sorted(_below(group), key=lambda path: len(path.parts), reverse=True):
                folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            return NotYet(f"{error.filename}: {error.strerror}")
        return True

    patience.until(f"control group {group} removed", try_it)


def _below(group: Path) -> Iterator[Path]:
    yield group
    for folder, names, _ in os.walk(group):
        yield from (Path(folder, name) for name in names)


def _mounted(proc: Path) -> Iterator[tuple[Path, str, list[str]]]:
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        yield Path(before.split(" ")[4]), kind, options.split(",")

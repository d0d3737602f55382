"""Tasks: their names (UPIDs), their logs below /var/log/pve/tasks, and the processes that carry them out."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .cluster import node_name
from .errors import Failure

LOGS = Path("/var/log/pve/tasks")
_UPID = re.compile(
    r"^UPID:([A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?):([0-9A-F]{8}):([0-9A-F]{8,9}):([0-9A-F]{8})"
    r":([^:\s]+):([^:\s]*):([^:\s]+):$"
)
_WORKER = "import sys; sys.path.insert(0, sys.argv[1]); from pmx.worker import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Upid:
    """A task's unique name."""

    node: str
    pid: int
    pstart: int
    starttime: int
    type: str
    id: str
    user: str

    def __str__(self) -> str:
        return (f"UPID:{self.node}:{self.pid:08X}:{self.pstart:08X}:{self.starttime:08X}"
                f":{self.type}:{self.id}:{self.user}:")  # fmt: skip

    @classmethod
    def parse(cls, text: str) -> Upid:
        """From its text; ValueError when it is none."""
        match = _UPID.match(text)
        if match is None:
            raise ValueError(f"unable to parse worker upid '{text}'")
        node, pid, pstart, starttime, kind, name, user = match.groups()
        return cls(node, int(pid, 16), int(pstart, 16), int(starttime, 16), kind, name, user)

    @classmethod
    def of(cls, pid: int, kind: str, name: str, user: str) -> Upid:
        """For a process of this node that starts a task now."""
        return cls(node_name(), pid, process_start(pid) or 0, int(time.time()), kind, name, user)

    @property
    def log(self) -> Path:
        """Where the task's output goes."""
        return LOGS / f"{self.starttime:08X}"[-1] / str(self)


def process_start(pid: int) -> int | None:
    """When a process started, in ticks since boot; None when there is no live one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def start(kind: str, name: str, user: str, params: Mapping[str, Any]) -> Upid:
    """Start a task in a process of its own."""
    here = str(Path(__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-IS", "-c", _WORKER, here],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    upid = Upid.of(process.pid, kind, name, user)
    upid.log.parent.mkdir(parents=True, exist_ok=True)
    upid.log.touch(mode=0o640)
    # Parameters hold passwords: they go through the pipe, never through the command line.
    message = json.dumps({"upid": str(upid), "params": dict(params)}).encode()
    if process.stdin:
        with process.stdin as pipe:
            pipe.write(message)
    return upid


def carry_out(upid: Upid, action: Callable[[], None], *, echo: TextIO | None = None) -> bool:
    """Run a task in this process, its output in its log and, if wanted, echoed; whether it went well.

    A task that dies of anything but its own failure leaves no TASK line, as a killed one does.
    """
    upid.log.parent.mkdir(parents=True, exist_ok=True)
    with upid.log.open("a", buffering=1) as log:
        out = _Both(log, echo) if echo else log
        with redirect_stdout(out), redirect_stderr(out):
            try:
                action()
                end = "OK"
            except Failure as failed:
                end = f"ERROR: {failed.message}"
            except (OSError, ValueError) as error:
                end = f"ERROR: {error}"
        end = " ".join(end.strip().splitlines())  # a task's end is one line
        log.write(f"TASK {end}\n")
    with (LOGS / "index").open("a") as index:
        index.write(f"{upid} {int(time.time()):08X} {end.partition('ERROR: ')[2].strip() or end}\n")
    return end == "OK"


def run_here(kind: str, name: str, action: Callable[[], None]) -> None:
    """Run a task in the foreground, as pvecm does; Failure when it failed."""
    upid = Upid.of(os.getpid(), kind, name, "root@pam")
    if not carry_out(upid, action, echo=sys.stdout):
        raise Failure(str(status(upid).get("exitstatus", "unexpected status")))


class _Both(io.TextIOBase):
    def __init__(self, *targets: TextIO) -> None:
        self._targets = targets

    def write(self, text: str) -> int:
        for target in self._targets:
            target.write(text)
            target.flush()
        return len(text)


def is_running(upid: Upid) -> bool:
    """Whether the process that carries the task out is there."""
    return process_start(upid.pid) == upid.pstart


def status(upid: Upid) -> dict[str, Any]:
    """What GET tasks/{upid}/status says."""
    if not upid.log.exists():
        raise Failure("no such task", code=500)
    running = is_running(upid)
    found = {"upid": str(upid), "node": upid.node, "pid": upid.pid, "pstart": upid.pstart, "type": upid.type,
             "starttime": upid.starttime, "id": upid.id, "user": upid.user,
             "status": "running" if running else "stopped"}  # fmt: skip
    return found if running else {**found, "exitstatus": exit_status(upid.log.read_text(errors="replace"))}


def exit_status(log: str) -> str:
    """How a task ended, by the last line of its log."""
    lines = log.rstrip("\n").splitlines()
    match = re.match(r"^TASK (?:(OK)|ERROR: (.+)|(WARNINGS: \d+))$", lines[-1]) if lines else None
    return next(filter(None, match.groups())) if match else "unexpected status"


def log_lines(upid: Upid, first: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Rows of a task's log from `first` on, and how many there are."""
    if not upid.log.exists():
        raise Failure("no such task", code=500)
    lines = upid.log.read_text(errors="replace").splitlines()
    end = len(lines) if limit == 0 else first + limit
    return [{"n": at + 1, "t": text} for at, text in enumerate(lines)][first:end], len(lines)


def recent(limit: int) -> list[dict[str, Any]]:
    """This node's tasks, newest first."""
    found = [Upid.parse(log.name) for log in LOGS.glob("?/UPID:*")]
    return [_row(upid) for upid in sorted(found, key=lambda upid: upid.starttime, reverse=True)[:limit]]


def _row(upid: Upid) -> dict[str, Any]:
    row = status(upid)
    end = {} if row["status"] == "running" else {"endtime": int(upid.log.stat().st_mtime)}
    shown = {key: row[key] for key in ("upid", "node", "pid", "pstart", "type", "starttime", "id", "user")}
    return {**shown, **end, **({"status": row["exitstatus"]} if end else {})}

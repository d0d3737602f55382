"""Where rackproof keeps what outlives a run: one folder per lab, held by one acting run at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from provision.errors import LabError


def home(env: Mapping[str, str] = os.environ) -> Path:
    """RACKPROOF_HOME, or /var/lib/rackproof for root, or the user's own state folder (XDG)."""
    if named := env.get("RACKPROOF_HOME"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/rackproof")
    return Path(env.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "rackproof"


def instance(lab: str, env: Mapping[str, str] = os.environ) -> str:
    """The name this lab goes by on this machine: RACKPROOF_INSTANCE, or the lab's own."""
    return env.get("RACKPROOF_INSTANCE") or lab


def folder(lab: str) -> Path:
    """The folder of a lab's ledger and keys; made, readable by its owner alone, when missing."""
    path = home() / "labs" / instance(lab)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextmanager
def held(lab: str, run: str) -> Iterator[None]:
    """Hold the lab: no other run on this machine acts on it meanwhile.

    Raises LabError naming the run that holds it. The hold ends with the process, however that ends.
    """
    path = folder(lab) / "lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = path.read_text().strip()
            raise LabError(f"lab {lab} is held by {holder}; wait for it to end, or stop it") from error
        lock.truncate(0)
        lock.write(f"run {run}, process {os.getpid()}\n")
        lock.flush()
        yield

"""Where rackproof keeps what outlives a run: one folder per lab."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


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

"""The key by which the harness logs in to the nodes: kept on this machine, made when it is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

from provision.errors import LabError
from provision.inventory import Lab

UNMADE = "ssh-ed25519 of-the-key-to-be-made"
"""Stands for the public half of a key that is not there yet."""


def given(lab: Lab, *, make: bool) -> Lab:
    """The lab whose nodes let in `server.key`, if it has one; a missing one is made if `make` says so.

    Raises LabError when the key cannot be made or read, or others can read it.
    """
    key = lab.server.key
    if key is None:
        return lab
    if make and not key.exists():
        _make(key, f"rackproof-{lab.name}")
    public = _public_half(key) if key.exists() else UNMADE
    nodes = {
        name: node.model_copy(update={"ssh_keys": tuple(dict.fromkeys((*node.ssh_keys, public)))})
        for name, node in lab.nodes.items()
    }
    return lab.model_copy(update={"nodes": nodes})


def _make(key: Path, comment: str) -> None:
    key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _keygen(key, "-t", "ed25519", "-N", "", "-C", comment, "-f", str(key))


def _public_half(key: Path) -> str:
    if key.stat().st_mode & 0o077:
        raise LabError(f"others can read the private key {key}: chmod 600 {key}")
    # Of the private key itself: a .pub beside it may be another's.
    return _keygen(key, "-y", "-P", "", "-f", str(key)).strip()


def _keygen(key: Path, *arguments: str) -> str:
    done = subprocess.run(["ssh-keygen", "-q", *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)  # fmt: skip
    if done.returncode != 0:
        raise LabError(f"ssh-keygen cannot use {key}", last_seen=done.stderr.strip() or done.stdout.strip())
    return done.stdout

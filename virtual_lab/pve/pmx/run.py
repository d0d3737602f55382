"""Runs the node's programs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from .errors import Failure


def run(command: Sequence[str], *, stdin: bytes = b"", timeout: float = 90) -> bytes:
    """What the command prints; Failure, as Proxmox words it, when it does not end well."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failure(f"command '{' '.join(command)}' failed: got timeout") from None
    except FileNotFoundError:
        raise Failure(f"unable to run command '{command[0]}': No such file or directory") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise Failure(
            f"{said}\n" * bool(said) + f"command '{' '.join(command)}' failed: exit code {done.returncode}"
        )
    return done.stdout


def succeeds(command: Sequence[str]) -> bool:
    """Whether the command ends well."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0

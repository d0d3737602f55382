"""What the official `proxmox-auto-install-assistant` says of an answer, on machines that have it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from provision.errors import LabError

TOOL = "proxmox-auto-install-assistant"
GOOD = "The answer file was parsed successfully, no errors found!"
SECONDS = 30.0
IDLE = ("Error: Found issues in the answer file.", "Found issues in the answer file.")
"""Last words that say no more than that something was said before."""


def objections(toml: str) -> list[str]:
    """What the tool minds in this answer, line by line; nothing when it is content, or not installed.

    Raises LabError when it gives no verdict.
    """
    tool = shutil.which(TOOL)
    if tool is None:
        return []
    done = _validate(tool, toml)
    # Not by its exit code alone: by the source of release 9 (cli.rs) it is 0 whatever was found.
    if done.returncode == 0 and GOOD in done.stdout.splitlines():
        return []
    said = [line for line in (line.strip() for line in done.stderr.splitlines()) if line and line not in IDLE]
    if not said and not done.stderr.strip():
        raise LabError(
            f"{TOOL} gave no verdict (exit {done.returncode})", last_seen=done.stdout[-300:] or None
        )
    return [f"{TOOL}: {line}" for line in said or done.stderr.split("\n")[:1]]


def _validate(tool: str, toml: str) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory(prefix="rackproof-answer-") as folder:
        path = Path(folder) / "answer.toml"
        path.write_text(toml)
        try:
            done = subprocess.run([tool, "validate-answer", str(path)], stdin=subprocess.DEVNULL, text=True,
                                  capture_output=True, timeout=SECONDS, check=False)  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{TOOL} gave no verdict within {SECONDS:g} s") from error
        except OSError as error:
            raise LabError(f"{TOOL} cannot be run: {error.strerror}") from error
        # The path is of no use to whoever reads it later.
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout, done.stderr.replace(str(path), "answer.toml")
        )

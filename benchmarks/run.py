"""Times the commands of the README on this machine: provision, its own share, collect, bootstrap, verify.

python -m benchmarks.run [--runs N]        on the default virtual lab, which stands afterwards
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SUMMARY = ROOT / "reports" / "out" / "latest" / "summary.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each figure as minimum, median and maximum of the runs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args(arguments).runs
    print(f"{machine()}; {runs} runs, minimum / median / maximum\n")
    provisions = [_timed("./bootstrap", "pytest", "-m", "provision") for _ in range(runs)]
    _print("provision, four nodes, images cached", [seconds for seconds, _ in provisions], "s")
    own = [100 * (1 - told["machines_at_work"] / seconds) for seconds, told in provisions]
    _print("  of it no node, BMC or cluster at work", own, "%")
    verifies = [_timed("./bootstrap", "pytest", "-m", "verify") for _ in range(runs)]
    _print("verify, standing lab", [seconds for seconds, _ in verifies], "s")
    checks = [sum(told["checks"].values()) / told["seconds"] for _, told in verifies]
    _print("  checks per second", checks, "")
    _print("  SSH connections opened", [told["ssh_connections"] for _, told in verifies], "")
    collect = ("./bootstrap", "pytest", "--collect-only", "-q", "-m", "verify")
    collects = [_seconds(*collect) for _ in range(runs)]
    _print("collect only, verify", collects, "s")
    _print("second bootstrap", [_seconds("./bootstrap", "true") for _ in range(runs)], "s")
    return 0


def _timed(*command: str) -> tuple[float, dict[str, Any]]:
    seconds = _seconds(*command)
    return seconds, dict(json.loads(SUMMARY.read_text(encoding="utf-8")))


def _seconds(*command: str) -> float:
    start = time.monotonic()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return seconds


def _print(what: str, values: Sequence[float], unit: str) -> None:
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"{what:<40} {low:8.2f} / {middle:8.2f} / {high:8.2f} {unit}", flush=True)


def machine() -> str:
    """What figures depend on: cores, memory, kernel, Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {system}"


if __name__ == "__main__":
    sys.exit(main())

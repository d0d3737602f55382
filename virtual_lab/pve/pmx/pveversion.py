"""The command pveversion."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import versions


def main(arguments: Sequence[str] | None = None) -> int:
    """One line, or with -v a line for every package."""
    parser = argparse.ArgumentParser(prog="pveversion")
    parser.add_argument("-v", "--verbose", nargs="?", const="1")
    if parser.parse_args(arguments).verbose:
        print("\n".join(f"{name}: {version}" for name, version in versions.listing()))
    else:
        manager = f"{versions.MANAGER}/{versions.REPOSITORY_ID}"
        print(f"pve-manager/{manager} (running kernel: {versions.running_kernel()})")
    return 0

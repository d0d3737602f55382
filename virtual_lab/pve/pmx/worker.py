"""The process that carries out one task of the API."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from . import formation
from .tasks import Upid, carry_out

JOBS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "clustercreate": formation.create,
    "clusterjoin": formation.join,
}


def main() -> int:
    """Read which task it is from stdin, and do it."""
    order = json.load(sys.stdin)
    upid = Upid.parse(order["upid"])
    return 0 if carry_out(upid, lambda: JOBS[upid.type](order["params"])) else 1

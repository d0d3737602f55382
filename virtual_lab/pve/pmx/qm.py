"""The command qm: the guests of this node from its own shell, as root@pam."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from . import api, router, tasks
from .auth import caller
from .clock import wait_until
from .cluster import node_name
from .errors import Failure

assert api  # it offers the calls

_GUEST = ("vmid",)
_CALLS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "agent": ("GET", "/{vmid}/agent/{command}", ("vmid", "command")),
    "cloudinit dump": ("GET", "/{vmid}/cloudinit/dump", ("vmid", "type")),
    "cloudinit update": ("PUT", "/{vmid}/cloudinit", _GUEST),
    "clone": ("POST", "/{vmid}/clone", ("vmid", "newid")),
    "config": ("GET", "/{vmid}/config", _GUEST),
    "create": ("POST", "", _GUEST),
    "destroy": ("DELETE", "/{vmid}", _GUEST),
    "guest cmd": ("GET", "/{vmid}/agent/{command}", ("vmid", "command")),
    "list": ("GET", "", ()),
    "pending": ("GET", "/{vmid}/pending", _GUEST),
    "reboot": ("POST", "/{vmid}/status/reboot", _GUEST),
    "reset": ("POST", "/{vmid}/status/reset", _GUEST),
    "resize": ("PUT", "/{vmid}/resize", ("vmid", "disk", "size")),
    "set": ("PUT", "/{vmid}/config", _GUEST),
    "shutdown": ("POST", "/{vmid}/status/shutdown", _GUEST),
    "start": ("POST", "/{vmid}/status/start", _GUEST),
    "status": ("GET", "/{vmid}/status/current", _GUEST),
    "stop": ("POST", "/{vmid}/status/stop", _GUEST),
    "template": ("POST", "/{vmid}/template", _GUEST),
}
_TASK_SECONDS = 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its failure is said on stderr and makes the exit code 255."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in _CALLS), None)
    if name is None:
        print(f"ERROR: unknown command 'qm {' '.join(words)}'\nqm {'|'.join(_CALLS)}", file=sys.stderr)
        return 255
    try:
        return _run(name, words[len(name.split()) :])
    except Failure as failed:
        rows = [f"{key}: {text}" for key, text in failed.errors.items()]
        print("\n".join([f"{failed.code} {failed.message}" if rows else failed.message, *rows]),
              file=sys.stderr)  # fmt: skip
        return 255


def _run(name: str, words: Sequence[str]) -> int:
    method, path, places = _CALLS[name]
    params = _params(places, words)
    place = f"/nodes/{node_name()}/qemu{path}".format(**params)
    if name in ("agent", "guest cmd") and params["command"] in ("ping", "fstrim", "fsfreeze-status"):
        method = "POST"
    endpoint, in_path = router.find(method, place)
    given = {key: value for key, value in params.items() if "{" + key + "}" not in path}
    found = endpoint.run(caller("root@pam"), {**given, **in_path})
    if isinstance(found, str) and found.startswith("UPID:"):
        return _follow(tasks.Upid.parse(found))
    _print(name, found)
    return 0


def _params(places: Sequence[str], words: Sequence[str]) -> dict[str, str]:
    values, rest = words[: len(places)], words[len(places) :]
    if len(values) < len(places):
        raise Failure("not enough arguments")
    keys = [word.lstrip("-") for word in rest[::2]]
    if len(rest) % 2 or not all(word.startswith("-") for word in rest[::2]):
        raise Failure("400 unable to parse arguments")
    return {**dict(zip(places, values, strict=True)), **dict(zip(keys, rest[1::2], strict=True))}


def _follow(upid: tasks.Upid) -> int:
    """Wait for a task, and print what it said; its exit code."""
    wait_until(lambda: not tasks.is_running(upid), _TASK_SECONDS)
    lines, _ = tasks.log_lines(upid, 0, 0)
    print("".join(f"{row['t']}\n" for row in lines if not row["t"].startswith("TASK ")), end="")
    ended = str(tasks.status(upid).get("exitstatus", "unexpected status"))
    if ended != "OK":
        print(ended, file=sys.stderr)
    return 0 if ended == "OK" else 255


def _print(name: str, found: Any) -> None:
    if name == "list":
        print(_table(found), end="")
    elif name == "status":
        print(f"status: {found['status']}")
    elif name == "config":
        print("".join(f"{key}: {value}\n" for key, value in sorted(found.items()) if key != "digest"), end="")
    elif name == "pending":
        print("".join(f"cur {row['key']}: {row['value']}\n" for row in found), end="")
    elif isinstance(found, str):
        print(found, end="")
    elif found is not None:
        print(json.dumps(found.get("result", found), indent=3))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    head = f"{'VMID':>10} {'NAME':<20} {'STATUS':<10} {'MEM(MB)':<10} {'BOOTDISK(GB)':>12} {'PID':<10}\n"
    return head + "".join(
        f"{row['vmid']:>10} {row['name']:<20} {row['status']:<10} {row['maxmem'] >> 20:<10} "
        f"{row['maxdisk'] / (1 << 30):>12.2f} {row.get('pid', 0):<10}\n" for row in rows
    )  # fmt: skip

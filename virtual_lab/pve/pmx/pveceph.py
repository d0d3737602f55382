"""The command pveceph."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import ceph, ceph_daemons, tasks
from .auth import caller
from .ceph import Rados
from .clock import pause
from .cluster import node_name
from .errors import Failure
from .formation import say, warn
from .router import find
from .schema import ParameterError, Rule, verify

# Words of the command, method, path below /nodes/NODE/ceph, names of the arguments; an argument in the path
# that is not given is the node's name, but a file system's is `cephfs`.
_CALLS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "init": ("POST", "init", ()),
    "pool ls": ("GET", "pool", ()),
    "pool create": ("POST", "pool", ("name",)),
    "pool destroy": ("DELETE", "pool/{name}", ("name",)),
    "pool set": ("PUT", "pool/{name}", ("name",)),
    "pool get": ("GET", "pool/{name}/status", ("name",)),
    "fs create": ("POST", "fs/{name}", ()),
    "fs destroy": ("DELETE", "fs/{name}", ("name",)),
    "osd create": ("POST", "osd", ("dev",)),
    "osd destroy": ("DELETE", "osd/{osdid}", ("osdid",)),
    "mon create": ("POST", "mon/{monid}", ()),
    "mon destroy": ("DELETE", "mon/{monid}", ("monid",)),
    "mgr create": ("POST", "mgr/{id}", ()),
    "mgr destroy": ("DELETE", "mgr/{id}", ("id",)),
    "mds create": ("POST", "mds/{name}", ()),
    "mds destroy": ("DELETE", "mds/{name}", ("name",)),
    "start": ("POST", "start", ()),
    "stop": ("POST", "stop", ()),
}
_ALIASES = {
    "lspools": "pool ls", "createpool": "pool create", "destroypool": "pool destroy",
    "createosd": "osd create", "destroyosd": "osd destroy", "createmon": "mon create",
    "destroymon": "mon destroy", "createmgr": "mgr create", "destroymgr": "mgr destroy",
}  # fmt: skip
_GROUPS = ("pool", "fs", "osd", "mon", "mgr", "mds")
_INSTALL: dict[str, Rule] = {
    "version": {"type": "string", "enum": ("squid", "tentacle"), "optional": True},
    "repository": {"type": "string", "enum": ("enterprise", "no-subscription", "test", "manual"),
                   "optional": True},
    "allow-experimental": {"type": "boolean", "optional": True},
}  # fmt: skip
_SWITCH: Rule = {"type": "boolean", "optional": True}
_PURGE: dict[str, Rule] = {"logs": _SWITCH, "crash": _SWITCH}
_COLUMNS = ("pool_name", "size", "min_size", "pg_num", "pg_num_min", "pg_num_final", "pg_autoscale_mode",
            "target_size", "target_size_ratio", "crush_rule_name", "percent_used", "bytes_used")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its failure is said on stderr and makes the exit code 255."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except ParameterError as wrong:
        _complain("400 Parameter verification failed.", wrong.errors)
    except Failure as failed:
        _complain(f"400 {failed.message}" if failed.errors else failed.message, failed.errors)
    return 255


def _complain(text: str, errors: Mapping[str, str]) -> None:
    rows = [f"{name}: {wrong}" for name, wrong in errors.items()]
    print("\n".join([text.rstrip("\n"), *rows]), file=sys.stderr)


def _run(words: list[str]) -> int:
    length = 2 if words and words[0] in _GROUPS else 1
    name, rest = " ".join(words[:length]), words[length:]
    name = _ALIASES.get(name, name)
    own: Mapping[str, Callable[[list[str]], int]] = {"install": _install, "purge": _purge, "status": _status}
    if name in own:
        return own[name](rest)
    if name not in _CALLS:
        print(f"ERROR: unknown command 'pveceph {name}'" if words else "ERROR: no command specified",
              file=sys.stderr)  # fmt: skip
        print(_usage(), file=sys.stderr)
        return 255
    return _call(name, rest)


def _usage() -> str:
    names = sorted([*_CALLS, *_ALIASES, "install", "purge", "status"])
    return "\n".join(
        ["USAGE: pveceph <COMMAND> [ARGS] [OPTIONS]", *(f"       pveceph {name}" for name in names)]
    )


def _given(words: Sequence[str], arguments: Sequence[str], rules: Mapping[str, Rule]) -> dict[str, str]:
    """Options and arguments of a command line; a switch needs no value."""
    found: dict[str, str] = {}
    left, names = list(words), list(arguments)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            if not names:
                raise Failure("400 too many arguments")
            found[names.pop(0)] = word
            continue
        key, equals, value = word.lstrip("-").partition("=")
        if not equals:
            switch = rules.get(key, {}).get("type") == "boolean"
            bare = not left or left[0].startswith("-")
            value = "1" if bare and switch else "" if bare else left.pop(0)
        found[key] = value
    if names:
        raise Failure("400 not enough arguments")
    return found


def _call(name: str, words: list[str]) -> int:
    from . import api  # noqa: F401, PLC0415  # it offers the calls

    method, below, arguments = _CALLS[name]
    path = f"/nodes/{node_name()}/ceph/{below}"
    endpoint, in_path = find(method, path)
    given = _given(words, arguments, endpoint.rules)
    output = given.pop("output-format", "text")
    default = "cephfs" if name == "fs create" else node_name()
    rest = {key: given.pop(key, default) for key in in_path if key != "node"}
    answer = endpoint.run(caller("root@pam"), {**given, **rest, "node": node_name()})
    if isinstance(answer, str) and answer.startswith("UPID:"):
        return _follow(answer)
    _print(answer, output)
    return 0


def _follow(text: str) -> int:
    """Show a task's log as it grows; 255 when the task failed."""
    upid, shown = tasks.Upid.parse(text), 0
    while True:
        running = tasks.is_running(upid)
        lines = upid.log.read_text(errors="replace").splitlines()
        end = len(lines) - int(bool(lines) and lines[-1].startswith("TASK "))
        print("".join(f"{line}\n" for line in lines[shown:end]), end="", flush=True)
        shown = max(shown, end)
        if not running:
            break
        pause(0.05)
    ended = tasks.exit_status("\n".join(lines))
    if ended != "OK":
        print(ended, file=sys.stderr)
    return 0 if ended == "OK" or ended.startswith("WARNINGS") else 255


def _print(answer: Any, output: str) -> None:
    if answer is None:
        return
    if output.startswith("json"):
        print(json.dumps(answer, indent=None if output == "json" else 3))
    elif isinstance(answer, list):
        rows = [[str(row.get(key, "")) for key in _COLUMNS] for row in answer]
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
        for row in [list(_COLUMNS), *rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    else:
        for key in sorted(answer):
            print(f"{key:<24} {answer[key]}")


def _install(words: list[str]) -> int:
    from .ceph_install import install  # noqa: PLC0415

    params = verify(_given(words, (), _INSTALL), _INSTALL)
    install(params.get("version"), params.get("repository", "enterprise"))
    return 0


def _status(_words: list[str]) -> int:
    ceph.check_initialized()
    sys.stdout.flush()
    os.execvp("ceph", ["ceph", "-s"])  # noqa: S606


# -- purge


def _purge(words: list[str]) -> int:
    params = verify(_given(words, (), _PURGE), _PURGE)
    monitors: dict[str, dict[str, Any]] = {}
    try:
        with Rados() as rados:
            monitors = ceph_daemons.services("mon", ceph.config(), rados)
            _check_purge(rados, monitors)
    except Failure as failed:
        if failed.message.startswith("Unable to purge"):
            raise
        warn(f"Error gathering ceph info, already purged? Message: {failed.message}")
    mine = ceph_daemons.local()
    _stop_services(mine)
    _remove_files(mine, monitors, params)
    ceph_daemons.report()
    return 0


def _check_purge(rados: Rados, monitors: Mapping[str, Mapping[str, Any]]) -> None:
    me, steps = node_name(), []
    if rados.command("osd lspools"):
        steps.append("- remove pools, this will !!DESTROY DATA!!")
    if any(row.get("hostname") == me for row in rados.command("osd metadata") or []):
        steps.append(f"- remove active OSD on {me}")
    servers = ceph_daemons.services("mds", ceph.config(), rados)
    if any(row.get("host") == me for row in servers.values()):
        steps.append(f"- remove active MDS on {me}")
    if len(monitors) > 1 and any(row.get("host") == me for row in monitors.values()):
        steps.append(f"- remove other MONs, {me} is not the last MON")
    if steps:
        raise Failure("Unable to purge Ceph!\n\nTo continue:\n" + "\n".join(steps))


def _stop_services(mine: Mapping[str, Mapping[str, Mapping[str, bool]]]) -> None:
    for kind, found in mine.items():
        for name, facts in found.items():
            for action in ("disable", "stop") if facts.get("service") else ():
                try:
                    ceph_daemons.command(action, f"{kind}.{name}")
                except Failure as failed:
                    warn(f"Could not {action} ceph-{kind}@{name}, error: {failed.message}")


def _remove_files(
    mine: Mapping[str, Mapping[str, Mapping[str, bool]]],
    monitors: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, Any],
) -> None:
    folders = [ceph.STATE / kind for kind, found in mine.items()
               if any(facts.get("direxists") for facts in found.values())]  # fmt: skip
    folders += [Path("/var/log/ceph")] * bool(params.get("logs"))
    folders += [ceph.STATE / "crash"] * bool(params.get("crash"))
    for folder in folders:
        _empty(folder)
    here = {name for name, row in monitors.items() if row.get("host") == node_name()}
    if ceph.monitor_addresses(ceph.config()) and not (here or mine["mon"]):
        warn("Foreign MON address in ceph.conf. Keeping config & keyrings")
        return
    say("Removing config & keyring files")
    for file in (ceph.CONFIG, ceph.CRASH_KEYRING, ceph.MON_KEYRING, ceph.ADMIN_KEYRING,
                 ceph.LOCAL_ADMIN_KEYRING, ceph.BOOTSTRAP_OSD_KEYRING, ceph.BOOTSTRAP_MDS_KEYRING,
                 ceph.LOCAL_CONFIG):  # fmt: skip
        file.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    for place in folder.iterdir() if folder.is_dir() else ():
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink()

"""The server step: makes the provisioning server serve DHCP, DNS, TFTP, HTTP, NAT and time to the lab.

Read, compare, act: one command reads what the server holds, and only parts that differ are touched. Their
files are staged and tested by the programs that will read them before anything is replaced; when a service
does not start with the new files, the old ones are put back and it runs as before.

pyinfra's API was looked at and is not used. It runs under gevent over connections of its own, beside this
process's threads and its one verified connection; and each of its operations takes effect by itself, where
here nothing is replaced before all is tested, and all goes back when one service does not start.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address
from itertools import chain
from typing import Any

from provision import certificate, server_media, server_network, server_told
from provision.certificate import Certificate
from provision.errors import LabError
from provision.inventory import Lab
from provision.remote import Remote, Result, alone, script, tail
from provision.run import Done, Run
from provision.secure_boot import require_trust
from provision.server_bridge import Bridging
from provision.server_facts import STATE, Facts, Unit, gather
from provision.server_plan import (
    NODES_SOCKET,
    OPERATOR_SOCKET,
    PACKAGES,
    REQUIREMENTS,
    STAGED,
    UNIT_NAMES,
    File,
    Part,
    boot_files,
    options,
    parts,
    paths,
    requirements_digest,
    service_url,
)
from provision.server_survey import Survey, survey
from provision.together import together

__all__ = ["NODES_SOCKET", "OPERATOR_SOCKET", "arm", "configure", "disarm", "put", "service_url"]

OLD = f"{STATE}/old"
SOCKETS = (("udp", 53), ("tcp", 53), ("udp", 67), ("udp", 69), ("tcp", 80), ("tcp", 443))
UNPACK = """set -eu
state=$1; rm -rf "$state/new"; mkdir -p "$state/applied" "$state/new"; chmod 700 "$state"
cat >"$state/new.tar"; [ "$(sha256sum <"$state/new.tar")" = "$2  -" ]
tar -x -p --same-owner -C "$state/new" -f "$state/new.tar"; rm -f "$state/new.tar"
"""
KEEP_OLD = """set -eu
old=$1; shift; rm -rf "$old"; mkdir -p "$old"; chmod 700 "$old"
for path; do [ ! -e "$path" ] || cp -a --parents -- "$path" "$old"; done
"""
PUT_IN_PLACE = """set -eu
from=$1; shift
for path; do
  folder=$(dirname "$path"); mkdir -p "$folder"
  if [ -e "$from$path" ]; then
    cp -a "$from$path" "$folder/.rackproof.new"; sync "$folder/.rackproof.new"
    mv -fT "$folder/.rackproof.new" "$path"
  else rm -f "$path"; fi
done
"""
PIP = """set -eu
to=$1; mkdir -p "${to%/*}"; cat >"$to.txt"; rm -rf "$to.new"
python3 -m pip install --quiet --no-input --disable-pip-version-check --root-user-action ignore --no-compile \
  --require-hashes --only-binary :all: --target "$to.new" -r "$to.txt"
# on all processors, which pip does not; a file that is no Python of today compiles for nobody
python3 -m compileall -q -j 0 -s "$to.new" -p "$to" "$to.new" >/dev/null || true
echo "$2" >"$to.new/.requirements.sha256"; rm -rf "$to.old"; [ ! -e "$to" ] || mv -T "$to" "$to.old"
mv -T "$to.new" "$to"; rm -rf "$to.old" "$to.txt"
"""
# Debian starts what it installs: a web server on every address, a DNS server beside systemd-resolved. Until
# our files are there nothing is to start; what says so says it only while this shell lives.
INSTALL = """set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
policy=/usr/sbin/policy-rc.d; site=/etc/nginx/sites-enabled/default; [ ! -e /usr/sbin/nginx ] || site=
if [ ! -e $policy ] || grep -q rackproof $policy; then
  trap 'rm -f $policy' EXIT; trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\\n# by rackproof\\nif kill -0 %s 2>/dev/null; then exit 101; fi\\n' $$ >$policy
  chmod 755 $policy
fi
apt() { apt-get -q -y -o DPkg::Lock::Timeout=60 -o DPkg::Options::=--force-confold "$@"; }
dpkg --configure -a
apt update; apt install --no-install-recommends "$@"
[ -z "$site" ] || rm -f $site
"""
ADD_USER = (
    "useradd --system --user-group --no-create-home --home-dir /var/lib/rackproof-boot"
    " --shell /usr/sbin/nologin rackproof"
)


def configure(lab: Lab, server: Remote, run: Run) -> Done:
    """Make the server what the lab asks for; a second time finds nothing to do.

    No node has a permit afterwards. Raises LabError when the machine cannot be this lab's server, when a
    program refuses its rendered configuration (nothing was replaced then), or when a service does not
    start with it (the old files are back then).
    """
    from provision import images  # noqa: PLC0415 (what it stands on takes a while, and checks import this)

    with images.ready(lab, lambda text: run.say("image", text, step="server")):
        if lab.server.bridge:
            server_network.settle(server)
        found = survey(lab, server)
        prepared = found.preparations
        _prepare(server, found, lab.deadlines.server)
    require_trust(lab, server)
    if any(prepared.values()):
        found = _surveyed_again(lab, server)
    changing = found.changing
    put(server, changing, found.facts, run)
    done = {**prepared, **{part.name: part in changing for part in found.parts}}
    done |= server_told.tell(lab, server, found.certificate)
    return Done(
        changed=[name for name, changed in done.items() if changed],
        unchanged=[name for name, changed in done.items() if not changed],
        facts=_read_back(lab, server, found.certificate, found.facts if not changing else None),
    )


def arm(lab: Lab, server: Remote, tokens: Mapping[str, str], fingerprint: str = "") -> None:
    """Tell the nodes named in `tokens`, and no other, by DHCP where their answer is and whom to trust there.

    Raises LabError when dnsmasq does not run on.
    """
    file = options(lab, tokens, fingerprint)
    if server.write(file.path, file.content, mode=file.mode, owner=file.owner):
        result = server.run("systemctl reload dnsmasq && systemctl is-active dnsmasq")
        if result.rc != 0:
            message = "dnsmasq did not run on after the answer URLs changed"
            raise LabError(message, node=server.name, last_seen=_journal(server, "dnsmasq"))


def disarm(lab: Lab, server: Remote) -> None:
    """Take back every answer URL."""
    arm(lab, server, {})


def put(server: Remote, changing: Sequence[Part], before: Facts, run: Run) -> None:
    """Stage and test all of these parts, then replace their files and start their units, or put all back."""
    if not changing:
        return
    _stage(server, [file for part in changing for file in part.files])
    together({part.name: part for part in changing}, lambda part: _test(server, part))
    marks = {f"{STATE}/applied/{part.unit}": part.digest for part in changing}
    server.check(alone(script(KEEP_OLD, OLD, *_paths(changing))))
    with ExitStack() as unless_done:
        unless_done.callback(_put_back, server, changing, before, run)
        replace = f"rm -f {shlex.join(marks)} && {script(PUT_IN_PLACE, STAGED, *_paths(changing))}"
        server.check(alone(replace))
        _start(server, changing, before)
        unless_done.pop_all()
    keep = " && ".join(f"echo {digest} >{mark}" for mark, digest in marks.items())
    server.check(alone(f"{keep} && rm -rf {STAGED} {OLD}"))


def _prepare(server: Remote, found: Survey, timeout: float) -> None:
    """What the parts stand on, apart from the certificate; the network first, by which all else comes."""
    if found.bridge and found.bridge.changes:
        _bridge(server, found.bridge, timeout)
    if found.packages:
        server.check(alone(script(INSTALL, *found.packages)), timeout=timeout)
    if not found.facts.user:
        server.check(ADD_USER)
    if found.lacks_libraries:
        command = alone(script(PIP, PACKAGES, requirements_digest()))
        server.check(command, stdin=REQUIREMENTS, timeout=timeout)
    for delivery in chain.from_iterable(found.media.values()):
        server_media.deliver(server, delivery)


def _bridge(server: Remote, bridging: Bridging, timeout: float) -> None:
    if bridging.packages:
        server.check(alone(script(INSTALL, *bridging.packages)), timeout=timeout)
    server_network.put(server, bridging, tar(bridging.files))


def _surveyed_again(lab: Lab, server: Remote) -> Survey:
    """What the server holds now that everything is there that its parts stand on."""
    shown = certificate.ensure(lab, server)
    facts = gather(server, paths(), UNIT_NAMES, boot_files(lab))
    return Survey(facts, shown, {}, parts(lab, facts, shown))


def _stage(server: Remote, files: Sequence[File]) -> None:
    archive = tar(files)
    command = script(UNPACK, STATE, hashlib.sha256(archive).hexdigest())
    server.check(alone(command), stdin=archive)


def tar(files: Sequence[File]) -> bytes:
    """The files as a tar archive, with mode and owner by name."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode = len(file.content), file.mode
            entry.uname, entry.gname = file.owner.split(":")
            archive.addfile(entry, io.BytesIO(file.content))
    return target.getvalue()


def _test(server: Remote, part: Part) -> None:
    result = server.run(part.test)
    if result.rc != 0:
        names = ", ".join(file.path for file in part.files[:3])
        message = f"{part.name} refuses its rendered configuration ({names}); nothing was replaced"
        raise LabError(message, node=server.name, last_seen=tail(result.stderr) or tail(result.stdout))


def _start(server: Remote, changing: Sequence[Part], before: Facts) -> None:
    """Start all units at once: systemd does it side by side, and reads its own files once."""
    units = [part.unit for part in changing]
    prepare = " && ".join(part.prepare for part in changing)
    restart = f"systemctl daemon-reload && systemctl restart {shlex.join(units)}"
    start = server.run(alone(f"{prepare} && {restart}"), timeout=180)
    if start.rc != 0:
        raise _did_not_start(server, changing, start)
    new = [unit for unit in units if before.units.get(unit, Unit()).enabled != "enabled"]
    _systemctl(server, {"enable --quiet": new})


def _put_back(server: Remote, changing: Sequence[Part], before: Facts, run: Run) -> None:
    """The old files, and the units as they were; a failure here is told, so that it hides no other."""
    states = {part.unit: before.units.get(part.unit, Unit()) for part in changing}
    new = [unit for unit, state in states.items() if not state.enabled]
    off = [unit for unit, state in states.items() if state.enabled and state.enabled != "enabled"]
    idle = [unit for unit, state in states.items() if state.enabled and state.active != "active"]
    running = [unit for unit, state in states.items() if state.active == "active"]
    names = ", ".join(part.name for part in changing)
    try:
        # A unit that is about to go again can be stopped only while its file is there.
        _systemctl(server, {"disable --quiet --now": new})
        server.check(alone(script(PUT_IN_PLACE, OLD, *_paths(changing))))
        server.check(" && ".join(["systemctl daemon-reload", *(part.undo for part in changing)]))
        _systemctl(server, {"disable --quiet": off, "stop": idle, "restart": running})
        # It says no of a unit without a failure to forget.
        server.run(f"systemctl reset-failed {shlex.join(idle)}" if idle else "true")
        run.say("undone", f"{names}: the old configuration is back", step="server")
    except LabError as error:
        run.say("undo-failed", f"{names}: {error}", step="server")


def _systemctl(server: Remote, actions: Mapping[str, Sequence[str]]) -> None:
    commands = [f"systemctl {action} {shlex.join(units)}" for action, units in actions.items() if units]
    if commands:
        server.check(" && ".join(commands), timeout=180)


def _did_not_start(server: Remote, changing: Sequence[Part], start: Result) -> LabError:
    states = server.run(f"systemctl is-active {shlex.join(part.unit for part in changing)}").stdout.split()
    failed = [part for part, state in zip(changing, states, strict=False) if state != "active"]
    names = ", ".join(part.name for part in failed) or "a service"
    message = f"{names} did not start with the new configuration; the old one is put back"
    words = "\n".join(_journal(server, part.unit) for part in failed) or tail(start.stderr)
    return LabError(message, node=server.name, last_seen=words)


def _journal(server: Remote, unit: str) -> str:
    return tail(server.run(f"journalctl -u {unit} -n 8 -o cat --no-pager").stdout, 8)


def _paths(changing: Sequence[Part]) -> list[str]:
    return [file.path for part in changing for file in part.files]


def _listens(facts: Facts, socket: tuple[str, int], address: IPv4Address) -> bool:
    kind, port = socket
    # Where another site of nginx has port 80 of every address, nginx opens that one alone for both.
    return not {f"{kind} {address}:{port}", f"{kind} 0.0.0.0:{port}"}.isdisjoint(facts.listening)


def _read_back(lab: Lab, server: Remote, shown: Certificate, known: Facts | None) -> dict[str, Any]:
    facts = known or gather(server, paths(), UNIT_NAMES, boot_files(lab))
    address = lab.server.address
    silent = [socket for socket in SOCKETS if not _listens(facts, socket, address)]
    if silent:
        wanted = ", ".join(f"{kind} {address}:{port}" for kind, port in silent)
        message = f"nothing listens on {wanted}"
        raise LabError(message, node=server.name, last_seen=f"listening: {', '.join(facts.listening)}")
    certificate.read_back(lab, server, shown)
    return {
        "system": facts.system,
        "address": str(address),
        "versions": dict(facts.versions),
        "services": {name: unit.active for name, unit in facts.units.items() if unit.enabled},
        "listening": list(facts.listening),
        "certificate": shown.facts,
        "media": server_media.sizes(lab),
        "media_sha256": server_media.checksums(lab),
        "nat": f"out of {lab.server.wan}" if lab.server.wan else "none: the lab file names no wan interface",
    }

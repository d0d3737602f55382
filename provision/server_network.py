"""Changes the server's network so that it comes back by itself when the change cuts the connection."""

from __future__ import annotations

from contextlib import suppress

from provision.errors import GaveUp, LabError, Unreachable
from provision.remote import Remote, script, tail
from provision.server_bridge import ARMED, Bridging, hold, wrong
from provision.server_facts import STATE
from provision.wait import NotYet, Patience

FOLDER = f"{STATE}/network"
CHANGE, RETURN = "rackproof-network-change", "rackproof-network-return"
RETURN_AFTER = 30
"""Seconds after which the server goes back, unless it is told that all is well."""
RETURN_TAKES = 30
"""Seconds within which it has gone back, then."""

STAGE = """set -eu
folder=$1; etc=$2; rm -rf "$folder"; mkdir -p "$folder/old" "$folder/new"; chmod 700 "${folder%/*}" "$folder"
cp -a --parents "$etc" "$folder/old"; cp -a "$folder/old/." "$folder/new"
tar -x -p --same-owner -C "$folder/new"
"""
# Each reads its files below /etc: in a mount namespace of its own that is the staged folder.
TEST = {
    "netplan": 'netplan generate --root-dir "$1/new"',
    # Its return code tells of warnings, too.
    "ifupdown2": """unshare -m sh -ec 'mount --bind "$1/new/etc/network" /etc/network
! ifreload --syntax-check -a 2>&1 | grep ^error:' sh "$1" >&2""",
    "ifupdown": """unshare -m sh -ec 'mount --bind "$1/new/etc/network" /etc/network
ifup --no-act --force -a >/dev/null' sh "$1" """,
}
SWITCH = """#!/bin/sh
# by rackproof: `new` makes the network what the lab file asks for, `old` what it was before
cd {folder} || exit
if [ "$1" = old ]; then
  mv {armed} {armed}.begun || exit 0
  systemctl stop {change}.service 2>/dev/null
fi
{before}
while read -r path; do
  into=$(dirname "$path")
  if [ -e "$1$path" ]; then
    cp -a "$1$path" "$into/.rackproof.new"; sync "$into/.rackproof.new"; mv -fT "$into/.rackproof.new" "$path"
  else rm -f "$path"; fi
done <paths
{after}
# It may have bound the interface that had the address.
systemctl try-restart dnsmasq
rm -f {armed}.begun
"""
DOWN_UP = (
    'ifdown $(cat interfaces)\nxargs -n1 ip address flush dev <flush',
    "ifup -a",
)  # fmt: skip
NETPLAN = ("", 'netplan apply\n[ "$1" = new ] || xargs -r -n1 ip link delete <made')
# The timer's accuracy is a minute otherwise.
ARM = """set -eu
systemctl stop {change}.timer {return_}.timer 2>/dev/null || true
systemctl reset-failed {change} {return_} 2>/dev/null || true
touch {armed}
run() {{
  systemd-run --quiet --collect --timer-property=AccuracySec=10ms --on-active="$1" --unit="$2" \\
    sh {folder}/switch "$3"
}}
run {after} {return_} old || {{ rm {armed}; exit 1; }}
run 0.5 {change} new
"""
DISARM = f"mv {ARMED} {ARMED}.off && rm {ARMED}.off && systemctl stop {RETURN}.timer"
BUSY = f"systemctl is-active --quiet {CHANGE}.timer || systemctl is-active --quiet {CHANGE}.service"


def settle(server: Remote) -> None:
    """Wait while the server may still go back to the network it had before a run that was ended."""

    def probe() -> bool | NotYet:
        try:
            return server.run(f"[ ! -e {ARMED} ] && [ ! -e {ARMED}.begun ]", timeout=10).rc == 0 or NotYet(
                "the old network is about to come back"
            )
        except (Unreachable, GaveUp) as error:
            server.close()
            return NotYet(str(error))

    goal = "the server's network is at rest after a run that was ended"
    Patience(RETURN_AFTER + RETURN_TAKES).until(goal, probe, node=server.name)


def put(server: Remote, bridging: Bridging, archive: bytes) -> None:
    """Make the bridge; `archive` is a tar of its files.

    Raises LabError when the manager refuses the files (nothing was changed then), and when the bridge is not
    there afterwards or the server out of reach: the server is then as before, by itself.
    """
    _stage(server, bridging, archive)
    server.check(ARM.format(armed=ARMED, folder=FOLDER, after=RETURN_AFTER, change=CHANGE, return_=RETURN))
    server.close()
    try:
        _stands(server, bridging)
        server.check(DISARM, timeout=10)
    except LabError as error:
        raise _returned(server, bridging, error) from error
    server.run(f"rm -rf {FOLDER}")


def _stage(server: Remote, bridging: Bridging, archive: bytes) -> None:
    manager, links = bridging.held.manager, bridging.held.links
    etc = "/etc/netplan" if manager == "netplan" else "/etc/network"
    server.check(script(STAGE, FOLDER, etc), stdin=archive)
    result = server.run(script(TEST[manager], FOLDER))
    if result.rc != 0:
        message = f"{manager} refuses the rendered network; nothing was changed"
        raise LabError(message, node=server.name, last_seen=tail(result.stderr) or tail(result.stdout))
    before, after = NETPLAN if manager == "netplan" else DOWN_UP
    flush = [name for name in bridging.interfaces if name in links and name != bridging.wanted.name]
    made = [] if bridging.wanted.name in links else [bridging.wanted.name]
    lists = {"paths": [file.path for file in bridging.files], "interfaces": bridging.interfaces,
             "flush": flush, "made": made}  # fmt: skip
    for name, lines in lists.items():
        server.write(f"{FOLDER}/{name}", "".join(f"{line}\n" for line in lines))
    switch = SWITCH.format(folder=FOLDER, armed=ARMED, change=CHANGE, before=before, after=after)
    server.write(f"{FOLDER}/switch", switch, mode=0o700)


def _stands(server: Remote, bridging: Bridging) -> None:
    """Wait until the server can be reached anew and has the bridge; raises GaveUp."""

    def probe() -> bool | NotYet:
        try:
            if server.run(BUSY, timeout=5).rc == 0:
                return NotYet("the change is under way")
            seen = wrong(bridging.wanted, hold(server).links)
        except (Unreachable, GaveUp) as error:
            server.close()
            return NotYet(str(error))
        return NotYet(seen) if seen else True

    # Before the server goes back: what it is then is no answer.
    Patience(RETURN_AFTER - 5, most=1.0).until(f"{bridging.name} stands", probe, node=server.name)


def _returned(server: Remote, bridging: Bridging, error: LabError) -> LabError:
    """The error that says what became of the server."""
    name = bridging.wanted.name
    seen = error.last_seen or str(error)
    with suppress(LabError):
        settle(server)
        message = f"it had no {name}, or could not be reached, by the new network; its old network is back"
        ports, mtu = ", ".join(bridging.wanted.ports), bridging.wanted.mtu
        likely = f"{ports} is not the port to the lab, or its switch has a smaller MTU than {mtu}"
        return LabError(message, node=server.name, last_seen=seen, likely=likely)
    message = f"it cannot be reached after its network was changed; it was to go back after {RETURN_AFTER} s"
    return LabError(
        message, node=server.name, last_seen=seen, likely=f"on its console: sh {FOLDER}/switch old"
    )

"""Reads what a provisioning server holds and runs, in one command."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from provision.inventory import boot_chains
from provision.remote import Remote

STATE = "/var/lib/rackproof-server"
PACKAGES_MARK = "/opt/rackproof/lib/.requirements.sha256"
TFTP_ROOT = "/srv/rackproof/tftp"

# What the step needs, by the file that shows it is there: "nginx" may come from several packages.
NEEDED = {
    "dnsmasq": "/usr/share/dnsmasq/systemd-helper",
    "nginx-light": "/usr/sbin/nginx",
    "nftables": "/usr/sbin/nft",
    "chrony": "/usr/sbin/chronyd",
    "ipxe": "/usr/lib/ipxe/snponly.efi",
    "python3": "/usr/bin/python3",
    "curl": "/usr/bin/curl",
    "openssl": "/usr/bin/openssl",
    "bind9-dnsutils": "/usr/bin/dig",
    "python3-pip": "/usr/lib/python3/dist-packages/pip",
    "prometheus-node-exporter": "/usr/bin/prometheus-node-exporter",
}
PROGRAMS = (
    "dnsmasq-base", "nginx", "nftables", "chrony", "ipxe", "shim-signed", "grub-efi-amd64-signed", "python3",
)  # fmt: skip

GATHER = """export LC_ALL=C
section() { printf '== %s\\n' "$1"; }
units=$1; packages=$2; programs=$3; mark=$4; state=$5; tftp=$6; shift 6
section digests; sha256sum -- "$@" 2>/dev/null
section modes; stat -c '%a %U:%G %n' -- "$@" 2>/dev/null
section missing; for need in $packages; do [ -e "${need#*=}" ] || echo "${need%%=*}"; done
section units; systemctl show -p Id -p ActiveState -p UnitFileState $units 2>/dev/null
section applied; cd "$state/applied" 2>/dev/null && grep -H . -- *
section boot-files; ls -L -- "$tftp" 2>/dev/null
section resolvers; grep '^nameserver' /etc/resolv.conf
section requirements; cat "$mark" 2>/dev/null
section forwarding; cat /proc/sys/net/ipv4/ip_forward
section nat; nft list chain inet rackproof postrouting 2>/dev/null | grep masquerade
section links; ip -o link
section addresses; ip -o -4 address
section listening; ss -Hlntu
section versions; dpkg-query -W -f '${Package} ${Version}\\n' $programs 2>/dev/null
section user; id -u rackproof 2>/dev/null
section came; [ -z "$SSH_CONNECTION" ] || { set -- $SSH_CONNECTION
  echo "$(ip -o route get "$1" | sed 's/.* dev \\([^ ]*\\).*/\\1/') $4"; }
section root; id -u
section system; . /etc/os-release; echo "$PRETTY_NAME"
exit 0
"""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file as it is on the server; `mode` in octal, `owner` as user:group."""

    sha256: str
    mode: str
    owner: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd unit; both states are empty for one that is not known."""

    active: str = ""
    enabled: str = ""

    @property
    def good(self) -> bool:
        """Runs, and will after the next boot."""
        return self.active == "active" and self.enabled == "enabled"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server holds and runs. `listening` has lines such as "udp 10.10.1.1:53".

    `came` is the interface and the port by which this session came in; None: it is on the machine itself.
    """

    root: bool
    system: str
    files: Mapping[str, OnDisk]
    missing: tuple[str, ...]
    units: Mapping[str, Unit]
    applied: Mapping[str, str]
    boot_files: tuple[str, ...]
    resolvers: bool
    requirements: str
    forwarding: bool
    nat: bool
    links: tuple[str, ...]
    addresses: tuple[str, ...]
    listening: tuple[str, ...]
    versions: Mapping[str, str]
    user: bool
    came: tuple[str, int] | None = None


def gather(
    server: Remote, paths: Iterable[str], units: Iterable[str], boot_files: Iterable[str] = ()
) -> Facts:
    """Read everything that the step judges by; `boot_files` are those that the lab's nodes need."""
    needs = NEEDED | {boot_chains.PACKAGES[file]: boot_chains.SOURCES[file] for file in boot_files}
    needed = " ".join(f"{package}={path}" for package, path in needs.items())
    arguments = [" ".join(units), needed, " ".join(PROGRAMS), PACKAGES_MARK, STATE, TFTP_ROOT, *paths]
    return parse(server.check(f"sh -s -- {shlex.join(arguments)}", stdin=GATHER))


def parse(text: str) -> Facts:
    """Facts from what GATHER prints."""
    said = _sections(text)
    return Facts(
        root=said["root"] == ["0"],
        system="".join(said["system"]),
        files=_files(said["digests"], said["modes"]),
        missing=tuple(said["missing"]),
        units=_units(said["units"]),
        applied=dict(line.split(":", 1) for line in said["applied"]),
        boot_files=tuple(said["boot-files"]),
        resolvers=bool(said["resolvers"]),
        requirements="".join(said["requirements"]),
        forwarding=said["forwarding"] == ["1"],
        nat=bool(said["nat"]),
        links=tuple(line.split()[1].rstrip(":").partition("@")[0] for line in said["links"]),
        addresses=tuple(line.split()[3].partition("/")[0] for line in said["addresses"]),
        listening=tuple(sorted({_listener(line) for line in said["listening"]})),
        versions=dict(line.split(" ", 1) for line in said["versions"]),
        user=bool(said["user"]),
        came=_came(said["came"]),
    )


def _came(lines: list[str]) -> tuple[str, int] | None:
    """None also when the way back to where it came from is not known."""
    words = " ".join(lines).split()
    return (words[0], int(words[1])) if len(words) == 2 else None


def _sections(text: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in text.splitlines():
        if line.startswith("== "):
            name = line[3:]
        elif line or name == "units":
            sections[name].append(line)
    return sections


def _files(digests: Iterable[str], modes: Iterable[str]) -> dict[str, OnDisk]:
    sums = {line[66:]: line[:64] for line in digests}
    shown = [line.split(" ", 2) for line in modes]
    return {path: OnDisk(sums[path], mode, owner) for mode, owner, path in shown if path in sums}


def _units(lines: Iterable[str]) -> dict[str, Unit]:
    """From the blocks of `systemctl show`, each of which has the unit's Id among its lines."""
    blocks = [block.splitlines() for block in "\n".join(lines).split("\n\n")]
    shown = [dict(line.split("=", 1) for line in block if line) for block in blocks]
    return {
        block["Id"].removesuffix(".service"): Unit(block["ActiveState"], block["UnitFileState"])
        for block in shown
        if "Id" in block
    }


def _listener(line: str) -> str:
    """ "udp 10.10.1.1:53" from a line of `ss -Hlntu`."""
    fields = line.split()
    return f"{fields[0]} {fields[4]}"

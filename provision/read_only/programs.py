"""The list: the programs that a session which only reads may run, each in those of its forms that only read.

A program is here by its name alone where nothing it can be told makes it write (PLAIN), else with the options
and operands of its reading forms (FORMS), by the manual pages of Debian 13. Whatever is not here is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from provision.read_only.forms import Form, NotReading, Told
from provision.read_only.shell import UNKNOWN, Command, Unreadable, Word, commands, shown

ROOT = Path(__file__).parents[2]

_PLAIN = """
: true false exit return break continue cd pwd echo test [ sleep
cat tac head tail cut tr wc nl fold paste column comm join expr seq grep egrep fgrep zcat jq strings od
cmp diff md5sum sha1sum sha256sum sha512sum b2sum cksum base64
ls stat readlink realpath basename dirname findmnt lsblk df du mountpoint getfacl lsattr
id whoami groups who last uname arch nproc getconf getent uptime free vmstat lscpu lspci lsusb lsmod modinfo
ps pgrep which dig host dpkg-query lsb_release
"""
PLAIN = frozenset(_PLAIN.split())
"""Programs that write nothing, whatever they are told, apart from the few words in NEVER."""

NEVER = {"test": frozenset({"-v", "-R"}), "[": frozenset({"-v", "-R"})}
"""Words that a program of PLAIN must not be told: of a variable so tested, bash runs the subscript."""


def _curl(told: Told) -> None:
    """GET and HEAD of URLs that are spelled out, into the pipe or into nothing."""
    urls = [urlsplit(word.text) for word in told.operands]
    if not urls or UNKNOWN in told.rest or any(url.scheme not in ("http", "https", "tftp") for url in urls):
        raise NotReading("curl is to be told the whole of an http, https or tftp URL")
    if any(url.path.endswith("/user-data") for url in urls):
        raise NotReading("the GET of user-data spends the permit of an install")
    if any(value != "/dev/null" for value in told.of("-o")):
        raise NotReading("curl writes what it fetches into a file")
    if any("%output" in value or value.startswith("@") for value in told.of("-w")):
        raise NotReading("curl -w is not known to only read with %output or a file")
    if strange := {value.partition(":")[0].lower() for value in told.of("-H")} - _HEADERS:
        raise NotReading(f"curl is not known to only read with the header {min(strange)}")
    sends = told.of("-d", "--data") or set(told.of("-X")) - {"GET", "HEAD"}
    if sends and {url.path for url in urls} != {ANSWER_OF_NOBODY}:
        raise NotReading("curl sends something")


_HEADERS = frozenset({"accept", "content-type", "host", "range"})
ANSWER_OF_NOBODY = "/answer/made-up-by-a-check"
"""Whoever posts here is refused: a token that no permit has. It shows that a stranger gets nothing."""


def _sed(told: Told) -> None:
    """One command, of those that neither write nor run anything."""
    scripts = told.of("-e") or [word.text for word in told.operands[:1] if word.is_fixed]
    if len(scripts) != 1 or not _SED.fullmatch(scripts[0]):
        raise NotReading("sed is not known to only read with this script; one s, p, d or q command is")


_SED = re.compile(
    r"(?:\d+|\$|/[^/\\\n\0]*/)?(?:,(?:\d+|\$|/[^/\\\n\0]*/))?"
    r"(?:[pdq]|s(?P<by>[/|,#])(?:[^\\\n\0/|,#]|\\.|(?!(?P=by))[/|,#])*(?P=by)"
    r"(?:[^\\\n\0/|,#]|\\.|(?!(?P=by))[/|,#])*(?P=by)[gpI0-9]*)"
)


def _openssl(told: Told) -> None:
    """A certificate, of a file or of a server, to which nothing is sent."""
    if told.rest == "s_client" and not told.fed:
        raise NotReading("openssl s_client sends on what comes in: say </dev/null")


def _ssh(told: Told) -> None:
    """Another machine, without questions and without noting its key, and there what is on the list."""
    settings = [value.partition("=")[0] for value in told.of("-o")]
    if strange := set(settings) - _SSH_SETTINGS:
        raise NotReading(f"ssh is not known to only read with -o {min(strange)}")
    if not {"BatchMode", "UserKnownHostsFile"} <= set(settings):
        raise NotReading("ssh is to be told BatchMode, and a UserKnownHostsFile, which it then leaves alone")
    if len(told.operands) < 2 or not all(word.is_fixed for word in told.operands):
        raise NotReading("ssh is to be told what to run there, spelled out")
    if judge_text(" ".join(word.text for word in told.operands[1:])):
        raise NotReading("a shell runs what comes in")


_SSH_SETTINGS = frozenset({
    "BatchMode", "ConnectTimeout", "HostKeyAlias", "UserKnownHostsFile", "GlobalKnownHostsFile",
})  # fmt: skip

_UNITS = """
-a --all -l --full --no-pager --no-legend --plain --failed -q --quiet --value
-p= --property= -P= -t= --type= --state= -n= --lines= -o= --output=
"""
_JOURNAL = """
-b -k -r -q -x -e -a --no-pager --no-hostname --utc --list-boots -u= --unit= -n= --lines= -o= --output=
-p= --priority= -t= --identifier= -g= --grep= -S= --since= -U= --until=
"""
_FIND = """
-L -P -H -xdev -mount -not -a -o -print -print0 -ls -empty -readable -depth -prune -quit -type= -name= -iname=
-path= -ipath= -regex= -maxdepth= -mindepth= -mtime= -mmin= -newer= -size= -user= -group= -perm= -links=
-printf= -samefile=
"""
_CERTIFICATE = """
-noout -text -subject -issuer -serial -dates -startdate -enddate -fingerprint -sha256 -brief -showcerts
-in= -inform= -outform= -connect= -servername= -CAfile= -checkend= -nameopt=
"""
_CURL = "-f -s -S -I -v -k -L --cacert= --max-time= --connect-timeout= -m= -w= -o= -H= -X= -d= --data="
_CEPH = "|".join((
    r"", r"status", r"health( detail)?", r"versions", r"quorum_status", r"time-sync-status", r"df( detail)?",
    r"crash (ls|stat|info .*)", r"(mon|mgr|mds|osd|fs|pg) (stat|dump|ls|status|metadata)( [\w.-]+)?",
    r"osd (tree|df( tree)?|perf)", r"osd crush (tree|rule (ls|dump))",
    r"osd pool (ls( detail)?|stats|get .*|autoscale-status)", r"mgr (services|module ls)",
    r"config (dump|get .*)", r"fs get .*",
))  # fmt: skip
_LVM = "-a --noheadings --nosuffix --readonly -o= --options= --units= --reportformat= -S= --select="
_OBJECT = r"a|addr|address|l|link|r|route|neigh|rule|maddr|netns|vrf|tunnel"
_SOCKETS = """
-H -O -n -r -a -l -o -e -m -p -i -s -t -u -w -x -4 -6 -Z -E -N= -f=
--no-header --numeric --all --listening --processes --tcp --udp --unix
"""
_GUEST = r"list|(config|status|pending|listsnapshot) \d+"
_DPKG = ("-l", "-s", "-L", "-S", "-V", "--print-architecture", "--verify", "--audit")
_UNIT_VERBS = r"show|status|cat|is-active|is-enabled|is-failed|is-system-running|get-default|list-[a-z-]+"

FORMS = {
    "apt-mark": Form("", r"show(auto|manual|hold)"),
    "blockdev": Form("--report --getsize64 --getsz --getss --getbsz --getro"),
    "bridge": Form("-j -d -s -p -c", r"(link|vlan|fdb|mdb)( show( .*)?)?"),
    "ceph": Form("-s -f= --format= --connect-timeout=", _CEPH),
    "chronyc": Form("-n -c -h=", r"sources|sourcestats|tracking|activity|serverstats|ntpdata|rtcdata"),
    "command": Form("-v -V", early=True, also=lambda told: _must(told, "-v", "-V")),
    "corosync-cfgtool": Form("-s -n -b", r""),
    "corosync-cmapctl": Form("-b -g="),
    "corosync-quorumtool": Form("-s -l -i", r""),
    "curl": Form(_CURL, also=_curl),
    "date": Form("-u -R -I -d= -r=", r"(\+.*)?"),
    "dmesg": Form("-T -H -x -k -r -u -L -l= --level="),
    "dmidecode": Form("-q -s= -t=", r""),
    "dpkg": Form(" ".join(_DPKG), also=lambda told: _must(told, *_DPKG)),
    "efibootmgr": Form("-v", r""),
    "env": Form("-0", r""),
    "ethtool": Form("-a -c -g -i -k -l -m -n -P -S -T -x", r"[^ ]*"),
    "find": Form(_FIND),
    "ha-manager": Form("", r"status|config"),
    "hostname": Form("-f -s -d -i -I -A --fqdn --short", r""),
    "hostnamectl": Form("--json=", r"(status)?"),
    "ip": Form(
        "-4 -6 -f= -j -p -s -d -o -br -json --json -brief -details -stats",
        rf"({_OBJECT})( (show|list|ls|get)( .*)?)?",
    ),
    "iptables": Form("-S -L -n -v -t= -w=", r"\w*"),
    "journalctl": Form(_JOURNAL),
    "lvs": Form(_LVM),
    "modprobe": Form("-c --showconfig", r"", also=lambda told: _must(told, "-c", "--showconfig")),
    "mokutil": Form("--sb-state", r""),
    "mount": Form("-l", r""),
    "netplan": Form("--all", r"(get|status)( .*)?"),
    "networkctl": Form("--no-pager --no-legend --json=", r"|(list|status|lldp)( .*)?"),
    "nft": Form("-j -a -n -s", r"list [\w ./-]*"),
    "numactl": Form("-H --hardware -s --show", r""),
    "nvme": Form("-o= -v", r"(list|list-subsys|smart-log|id-ctrl|id-ns)( [\w/]*)?"),
    "openssl": Form(_CERTIFICATE, r"x509|s_client|crl|version", also=_openssl),
    "pct": Form("", _GUEST),
    "ping": Form("-4 -6 -n -q -O -c= -w= -W= -i= -s= -I= -M= -t=", r"[^ ]*"),
    "printf": Form("", early=True),
    "proxmox-boot-tool": Form("", r"status"),
    "pve-firewall": Form("", r"status|compile|localnet"),
    "pveceph": Form("", r"status|pool ls"),
    "pvecm": Form("", r"status|nodes"),
    "pvesh": Form("--output-format= --noborder --noheader", r"(get|ls|usage) .*"),
    "pvesm": Form("--storage= --content= --enabled=", r"status|list .*"),
    "pveversion": Form("-v --verbose", r""),
    "pvs": Form(_LVM),
    "qm": Form("", _GUEST),
    "rados": Form("-p= -f= --format=", r"lspools|df|ls"),
    "rbd": Form("-p= --pool= -l --long --format=", r"(ls|list|info|status|du|snap ls)( .*)?"),
    "read": Form("-r", r"[a-z_][a-z0-9_]*( [a-z_][a-z0-9_]*)*"),
    "resolvectl": Form("--no-pager", r"|(status|query)( .*)?|dns|domain|statistics"),
    "sed": Form("-n -E -r -s -u -z -e=", also=_sed),
    "service": Form("", r"[\w@.-]+ status"),
    "set": Form("-e -u -f -x", r""),
    "smartctl": Form("-a -i -H -A -x -c -j -d= -l="),
    "sort": Form("-b -d -f -g -h -i -M -n -r -s -u -V -z -c -k= -t="),
    "ss": Form(_SOCKETS),
    "ssh": Form("-o= -p= -i= -q", early=True, also=_ssh),
    "sysctl": Form("-n -e -N -b -a --values --ignore", r"[\w./ *-]*"),
    "systemctl": Form(_UNITS, rf"|({_UNIT_VERBS})( .*)?"),
    "systemd-analyze": Form("--no-pager", r"|(cat-config|verify|blame|critical-chain|time|unit-paths)( .*)?"),
    "systemd-detect-virt": Form("-c -v -q", r""),
    "timedatectl": Form("-a -p= --value --no-pager", r"(status|show|timesync-status|show-timesync)?"),
    "type": Form(),
    "uniq": Form("-c -d -D -u -i -z -f= -s= -w=", r""),
    "vgs": Form(_LVM),
    "xxd": Form("-p -l= -s=", r"[^ ]*"),
    "zfs": Form("-H -p -r -o= -t= -d=", r"(list|get|version)( .*)?"),
    "zpool": Form("-H -p -v -L -P -o=", r"(list|status|get|version)( .*)?"),
}
"""Options and operands of the forms in which a program only reads."""


def _must(told: Told, *names: str) -> None:
    if not any(option in names for option, _ in told.options):
        raise NotReading(f"it only reads with {' or '.join(names)}")


@dataclass(frozen=True, slots=True)
class Reader:
    """A program that runs what it is sent, and the arguments that this will have."""

    program: str
    arguments: tuple[str, ...]


def judge_text(text: str) -> Reader | None:
    """Raise NotReading when a command of shell text is not on the list.

    Returns the program that is to run what it is sent, if that is what the text says.
    """
    try:
        found = commands(text)
    except Unreadable as error:
        raise NotReading(str(error)) from None
    # Of several commands any may be fed by another: what comes in then, nobody has seen.
    if len(found) == 1 and not found[0].fed and (reader := _reader(found[0].words)):
        return reader
    for command in found:
        _judge(command)
    return None


def _reader(words: Sequence[Word]) -> Reader | None:
    texts = [word.text for word in words]
    told_to_read = texts[:2] in (["sh", "-s"], ["bash", "-s"], ["python3", "-"])
    if not (told_to_read and all(word.is_fixed for word in words)):
        return None
    return Reader(texts[0], tuple(texts[2:]))


def _judge(command: Command) -> None:
    program = _program(command.words[0])
    if program in _RUNNERS:
        _RUNNERS[program](command)
    elif program in FORMS:
        FORMS[program].judge(program, command)
    elif program not in PLAIN:
        raise NotReading(f"{program} is not on the list")
    elif bad := NEVER.get(program, frozenset()) & {word.text for word in command.words}:
        raise NotReading(f"{program} is not known to only read with {min(bad)}")


def _program(word: Word) -> str:
    if not word.is_fixed and word.text != "[":
        raise NotReading(f"which program {shown(word)} is, only the shell will know")
    folder, _, name = word.text.rpartition("/")
    return name if folder in ("/bin", "/sbin", "/usr/bin", "/usr/sbin") else word.text


def _shell(command: Command) -> None:
    """`sh -c TEXT NAME ARGUMENT…`: the text is judged, its arguments are data."""
    told = command.words[1:]
    if len(told) < 2 or not (told[0].is_fixed and told[0].text == "-c" and told[1].is_fixed):
        raise NotReading("a shell runs what is not known before; say sh -c and the text")
    if judge_text(told[1].text):
        raise NotReading("a shell runs what comes in")


_TIMEOUT = Form("-k= -s= --foreground", early=True)


def _timeout(command: Command) -> None:
    """`timeout SECONDS COMMAND`: the command is judged."""
    told = _TIMEOUT.read("timeout", command)
    if len(told.operands) < 2:
        raise NotReading("timeout is to be told seconds and a command")
    _judge(Command(told.operands[1:], command.fed))


def _source(command: Command) -> None:
    if command.words[1:] != (Word("/etc/os-release"),):
        raise NotReading("a file is run, and it is not /etc/os-release")


_RUNNERS = {"sh": _shell, "bash": _shell, "dash": _shell, "timeout": _timeout, ".": _source}
"""Programs that run others, or a file."""


def _asked_of_ceph(order: str) -> Iterable[str]:
    return [f"ceph {prefix}" for prefix in json.loads(order)]


def _asked_of_the_shell(order: str) -> Iterable[str]:
    return [str(command) for command in json.loads(order)["commands"]]


def _asked_nothing(order: str) -> Iterable[str]:
    raise ValueError(order)


SCRIPTS: Mapping[str, Callable[[str], Iterable[str]]] = {
    "checks/on_node/ask_ceph.py": _asked_of_ceph,
    "checks/on_node/ask_many.py": _asked_of_the_shell,
    "checks/on_node/cluster_facts.py": _asked_nothing,
    "checks/on_node/machine_facts.py": _asked_nothing,
}
"""Scripts of this project that a machine's python3 runs, and that only read if what they are told does.

Each is known by its digest, and has a function that finds the commands in an argument of it.
"""


@cache
def known_scripts() -> Mapping[str, Callable[[str], Iterable[str]]]:
    """SCRIPTS by the SHA-256 that each has in this checkout."""
    return {sha256((ROOT / name).read_bytes()).hexdigest(): told for name, told in SCRIPTS.items()}


def told_to(script: str, arguments: Iterable[str]) -> list[str]:
    """The commands that a script for python3 is told to run; raises NotReading for one that is not known."""
    find = known_scripts().get(sha256(script.encode()).hexdigest())
    if find is None:
        raise NotReading("python3 is sent a script that is not on the list")
    try:
        return [command for argument in arguments for command in find(argument)]
    except (ValueError, LookupError, TypeError):
        raise NotReading("python3 is sent a script that is told nobody knows what") from None

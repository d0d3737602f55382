"""Prints the facts of a machine that last: what it is made of, what is on it, how it is set up.

It only reads, and nothing secret: no private key, nothing of /etc/shadow, and the content of no file that not
everybody may read, but for rules of sudo. Nothing that changes by itself is told: no counter, time, process
number, or name that is another at each boot.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import socket
import stat
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

SECONDS = 10
GUESTS = re.compile(r"veth|(tap|fwbr|fwpr|fwln)\d+")
"""Network devices of guests and containers: they come and go with them."""
MADE = re.compile(r"loop|zd|zram|rbd|nbd|ram|dm-|drbd")
"""Disks that software makes."""
LEARNT = {"kernel", "ra", "redirect", "bgp", "ospf", "isis", "eigrp", "rip", "babel", "zebra", "bird"}
"""Whose routes follow from an address, or come and go with what others say."""
UNSTABLE = re.compile(r"(run-|session-|user@|user-|systemd-fsck@|dev-|lvm2-pvscan@)")
"""Units that are named anew, or come with a device."""
REAL = {
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "vfat", "nfs", "nfs4", "cifs", "ceph", "overlay", "fuse",
}  # fmt: skip
"""File systems that hold something."""
MOUNTED = {"ro", "rw", "noexec", "nosuid", "nodev", "noatime", "relatime", "discard"}
WEIGHTY = (
    "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.default.rp_filter", "net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce",
    "net.ipv6.conf.all.disable_ipv6", "net.ipv4.tcp_congestion_control", "net.core.default_qdisc",
)  # fmt: skip
"""Kernel settings that are read also where no file sets them; all of a network namespace's own."""
SSHD = {
    "port", "listenaddress", "addressfamily", "permitrootlogin", "passwordauthentication",
    "pubkeyauthentication", "kbdinteractiveauthentication", "gssapiauthentication",
    "hostbasedauthentication", "permitemptypasswords", "permituserenvironment", "permittunnel",
    "allowtcpforwarding", "allowagentforwarding", "gatewayports", "x11forwarding", "usepam", "strictmodes",
    "maxauthtries", "maxsessions", "authenticationmethods", "authorizedkeysfile", "authorizedkeyscommand",
    "trustedusercakeys", "authorizedprincipalsfile", "hostkey", "allowusers", "allowgroups", "denyusers",
    "denygroups", "forcecommand", "chrootdirectory", "acceptenv", "ciphers", "macs", "kexalgorithms",
    "hostkeyalgorithms", "subsystem",
}  # fmt: skip
FILES = (
    "/etc/dnsmasq.conf", "/etc/dnsmasq.d/*", "/etc/nginx/nginx.conf", "/etc/nginx/conf.d/*",
    "/etc/nginx/sites-enabled/*", "/etc/chrony/chrony.conf", "/etc/chrony/conf.d/*", "/etc/nftables.conf",
    "/etc/rackproof/*", "/etc/rackproof/tls/*", "/srv/rackproof/tftp/*", "/srv/rackproof/tftp/grub/*",
    "/etc/systemd/system/*", "/etc/systemd/system/*.d/*", "/etc/crontab", "/etc/cron.d/*", "/etc/hosts",
    "/etc/modules", "/etc/modules-load.d/*", "/etc/modprobe.d/*", "/etc/default/grub", "/etc/kernel/cmdline",
    "/etc/default/pveproxy", "/etc/pam.d/*", "/etc/rc.local",
)  # fmt: skip
"""Files that set a machine up, and are not read in another subject."""
UNITS = Path("/etc/systemd/system")
PASSING = {"/etc/rackproof/dhcp-options", "/etc/rackproof/install.json"}
"""What each run writes anew."""
NOT_TOLD = re.compile(r"pass|cred|secret|key|token", re.IGNORECASE)


def main() -> None:
    """Print JSON: `facts` by subject, and `unread`: why a subject could not be read."""
    facts, unread = {}, {}
    for read in SUBJECTS:
        try:
            facts[read.__name__] = read()
        except (OSError, subprocess.SubprocessError, LookupError, ValueError, TypeError) as error:
            unread[read.__name__] = f"{type(error).__name__}: {error}"
    json.dump({"facts": facts, "unread": unread}, sys.stdout)


# Subjects


def hardware() -> dict[str, Any]:
    """Maker, model and serial; processors, memory (bytes), disks by serial, network cards by MAC."""
    processors = re.findall(r"^model name\s*:\s*(.*)$", text("/proc/cpuinfo"), re.MULTILINE)
    memory = int(text("/proc/meminfo").split()[1]) * 1024
    return {
        "maker": dmi("sys_vendor"), "model": dmi("product_name"), "serial": dmi("product_serial"),
        "board": dmi("board_name"), "processor": processors[0] if processors else None,
        "processors": len(processors) or os.cpu_count(), "memory": memory, "disks": disks(), "nics": nics(),
    }  # fmt: skip


def firmware() -> dict[str, Any]:
    """The BIOS, and the processors' microcode; what the BMC knows is asked of the BMC."""
    microcode = re.search(r"^microcode\s*:\s*(\S+)$", text("/proc/cpuinfo"), re.MULTILINE)
    return {
        "BIOS vendor": dmi("bios_vendor"), "BIOS": dmi("bios_version"), "BIOS date": dmi("bios_date"),
        "microcode": microcode and microcode[1],
        "boots by": "UEFI" if Path("/sys/firmware/efi").is_dir() else "BIOS",
    }  # fmt: skip


def kernel() -> dict[str, Any]:
    """The running kernel, and the command line without what the boot loader adds of its own."""
    words = text("/proc/cmdline").split()
    return {
        "release": os.uname().release, "architecture": os.uname().machine,
        "command line": sorted({word for word in words if not word.startswith(("BOOT_IMAGE=", "initrd="))}),
    }  # fmt: skip


def packages() -> dict[str, str]:
    """Version by package; one that is held says so."""
    rows = lines("dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${binary:Package}\t${Version}\n")
    found = (row.split("\t") for row in rows)
    return {
        name: version + (" (held)" if state[0] == "h" else "")
        for state, name, version in found
        if state[1] == "i"
    }


def repositories() -> dict[str, str]:
    """Where packages come from: each source without the log-in that may be in it, and whether it is on."""
    found: dict[str, str] = {}
    for path in matching("/etc/apt/sources.list", "/etc/apt/sources.list.d/*"):
        if path.endswith(".sources"):
            found.update(stanzas(text(path)))
        elif path.endswith("list"):
            rows = (row.partition("#")[0].split() for row in text(path).splitlines())
            found.update({plain(" ".join(row)): "on" for row in rows if row})
    return found


def network() -> dict[str, Any]:
    """Name, interfaces, bridges, routes, name servers, and what is set up at a boot."""
    resolv = [row.split() for row in text("/etc/resolv.conf", "").splitlines()]
    if ["nameserver", "127.0.0.53"] in resolv:
        resolv = [row.split() for row in text("/run/systemd/resolve/resolv.conf", "").splitlines()]
    return {
        "name": socket.gethostname(),
        "interfaces": interfaces(),
        "routes": routes("-4") | routes("-6"),
        "name servers": [row[1] for row in resolv if row[:1] == ["nameserver"]],
        "search": [name for row in resolv if row[:1] == ["search"] for name in row[1:]],
        "configuration": {path: masked(text(path)) for path in network_files()},
    }


def sysctl() -> dict[str, Any]:
    """Kernel settings: as they are, of all that a file sets, and as that file has them for the next boot."""
    asked = {}
    for path in sysctl_files():
        for row in text(path).splitlines():
            key, sign, value = row.strip().partition("=")
            if sign and not key.startswith(("#", ";")):
                asked[dotted(key.strip().lstrip("-"))] = " ".join(value.split())
    settled = {key: value for key, value in asked.items() if "*" not in key}
    running = {key: " ".join(text(proc(key)).split()) for key in {*settled, *WEIGHTY} if readable(proc(key))}
    return {"running": running, "at boot": asked}


def ssh() -> dict[str, Any]:
    """What sshd goes by, of its settings those of weight."""
    found: dict[str, list[str]] = {}
    for row in sshd("root"):
        key, _, value = row.partition(" ")
        if key in SSHD:
            found.setdefault(key, []).append(value)
    return {key: values if len(values) > 1 else values[0] for key, values in found.items()}


def keys() -> dict[str, Any]:
    """Public keys as they are written: of the host, of every account with a shell, and certificates."""
    accounts = {}
    for user in pwd.getpwall():
        if logs_in(user):
            found = [row for path in authorised_files(user) for row in text(path).splitlines()]
            accounts[user.pw_name] = found
    return {
        "host": [text(path) for path in matching("/etc/ssh/ssh_host_*_key.pub")],
        "authorised": accounts,
        "certificates": {path: text(path) for path in matching("/etc/rackproof/tls/*.crt")},
    }


def users() -> dict[str, Any]:
    """Accounts and groups, and what sudo allows."""
    rows = [row.split(":") for row in text("/etc/passwd").splitlines() if row.count(":") == 6]
    groups = [row.split(":") for row in text("/etc/group").splitlines() if row.count(":") == 3]
    rules = [
        " ".join(row.split())
        for path in matching("/etc/sudoers", "/etc/sudoers.d/*")
        for row in text(path, "").splitlines()
        if row.strip() and not row.lstrip().startswith("#")
    ]
    return {
        "accounts": {row[0]: f"uid {row[2]}, gid {row[3]}, {row[5]}, {row[6]}" for row in rows},
        "groups": {row[0]: {"gid": row[2], "members": [name for name in row[3].split(",") if name]}
                   for row in groups},
        "sudo": rules,
    }  # fmt: skip


def services() -> dict[str, Any]:
    """Units that start at a boot or may not start, those that failed, and what starts without being asked."""
    files = (
        row.split() for row in lines("systemctl", "list-unit-files", "--no-legend", "--plain", "--no-pager")
    )
    states = {row[0]: row[1] for row in files if len(row) > 1}
    failed = (row.split()[0] for row in lines(
        "systemctl", "list-units", "--state=failed", "--no-legend", "--plain", "--no-pager"))  # fmt: skip
    wanted = map(Path, matching("/etc/systemd/system/*.wants/*", "/etc/systemd/system/*.requires/*"))
    instances = {path.name for path in wanted if re.search(r"@.+\.", path.name)}
    return {
        "at boot": {name: state for name, state in states.items()
                    if state in ("enabled", "masked") and not UNSTABLE.match(name)},
        "instances": sorted(name for name in instances if not UNSTABLE.match(name)),
        "failed": sorted(name for name in failed if not UNSTABLE.match(name)),
    }  # fmt: skip


def sockets() -> dict[str, Any]:
    """Who listens where, by protocol and address; ports that are given out by chance have no number."""
    found: dict[str, set[str]] = {}
    for row in lines("ss", "-H", "-t", "-u", "-l", "-n", "-p"):
        protocol, _, _, _, local = row.split()[:5]
        names = re.findall(r'\("([^"]+)"', row)
        address, _, port = local.rpartition(":")
        place = listens(protocol, address, int(port) if port.isdigit() else 0, names)
        if place:
            found.setdefault(place, set()).update(
                map(unit_or_name, re.findall(r'\("([^"]+)",pid=(\d+)', row))
            )
    return {place: sorted(names) for place, names in found.items()}


def storage() -> dict[str, Any]:
    """What is mounted, and what a boot mounts."""
    listed = json.loads("\n".join(lines("findmnt", "-J", "-l", "-o", "TARGET,SOURCE,FSTYPE,OPTIONS,UUID")))
    mounts = {}
    for row in listed["filesystems"]:
        if row["fstype"].partition(".")[0] in REAL and not row["target"].startswith(
            ("/run/", "/sys/", "/proc/")
        ):
            options = sorted(MOUNTED & set(row["options"].split(",")))
            mounts[row["target"]] = ", ".join([*options, row["fstype"], source(row)])
    rows = [row.split() for row in text("/etc/fstab", "").splitlines() if row.strip()]
    return {"mounts": mounts, "at boot": [" ".join(row[:3]) for row in rows if not row[0].startswith("#")]}


def files() -> dict[str, str]:
    """Owner and mode of files that set the machine up, and a checksum of those that everybody may read."""
    paths = map(Path, {*matching(*FILES)} - PASSING)
    # A link in systemd's own folder says that a unit is enabled or masked, which services() tells.
    wanted = (path for path in paths if path.is_file() and not (path.is_symlink() and path.parent == UNITS))
    return {str(path): looked_at(path) for path in wanted}


SUBJECTS = (
    hardware, firmware, kernel, packages, repositories, network, sysctl, ssh, keys, users, services, sockets,
    storage, files,
)  # fmt: skip


# Parts


def disks() -> dict[str, Any]:
    """Disks by serial number, or by name where they have none; sizes in bytes."""
    wanted = "NAME,SERIAL,MODEL,SIZE,ROTA,TRAN,REV,TYPE"
    listed = json.loads("\n".join(lines("lsblk", "-J", "-b", "-d", "-o", wanted)) or '{"blockdevices": []}')
    by_link = {Path(path).resolve().name: path.rpartition("_")[2]
               for path in matching("/dev/disk/by-id/[ans][tcv]*_*") if "-part" not in path}  # fmt: skip
    return {
        row["serial"] or by_link.get(row["name"]) or row["name"]: {
            "model": row["model"], "size": int(row["size"]), "firmware": row["rev"],
            "kind": row["tran"] or ("turning" if row["rota"] else "solid"),
        }
        for row in listed["blockdevices"]
        if row["type"] == "disk" and int(row["size"]) and not MADE.match(row["name"])
    }  # fmt: skip


def nics() -> dict[str, Any]:
    """Network cards by their own MAC: name, driver, Mbit/s (None while there is no link)."""
    found = {}
    for row in links():
        path = f"/sys/class/net/{row['ifname']}"
        kind = row.get("linkinfo", {}).get("info_kind")
        if row["link_type"] == "ether" and kind in (None, "veth") and not GUESTS.match(row["ifname"]):
            driver = Path(f"{path}/device/driver").resolve().name
            speed = text(f"{path}/speed", "").strip()
            found[row.get("permaddr", row["address"])] = {
                "name": row["ifname"], "driver": kind or driver, "speed": int(speed) if speed > "0" else None,
            }  # fmt: skip
    return found


@cache
def links() -> list[dict[str, Any]]:
    """Interfaces with their addresses, as `ip` has them."""
    found: list[dict[str, Any]] = json.loads("\n".join(lines("ip", "-j", "-d", "addr", "show")))
    return found


def interfaces() -> dict[str, Any]:
    """Interfaces by name, without those of guests."""
    rows = [row for row in links() if not GUESTS.match(row["ifname"])]
    found = {}
    for row in rows:
        info = row.get("linkinfo", {})
        kind, data = info.get("info_kind"), info.get("info_data", {})
        addresses = [
            f"{each['local']}/{each['prefixlen']}"
            for each in row["addr_info"]
            # What IPv6 made up by itself is renewed by itself.
            if each["scope"] != "link" and not (each["family"] == "inet6" and each.get("dynamic"))
        ]
        found[row["ifname"]] = {
            "addresses": addresses, "mac": row.get("address"), "mtu": row["mtu"], "up": "UP" in row["flags"],
            "kind": kind, "vlan": data.get("id") if kind == "vlan" else None,
            "bond": data.get("mode") if kind == "bond" else None,
            "vlan aware": bool(data.get("vlan_filtering")) if kind == "bridge" else None,
            "ports": [each["ifname"] for each in rows if each.get("master") == row["ifname"]],
        }  # fmt: skip
    return found


def routes(family: str) -> dict[str, Any]:
    """Ways by target, gateway and interface, without those that follow from an address."""
    rows = json.loads("\n".join(lines("ip", "-j", family, "route", "show")) or "[]")
    return {
        " ".join(filter(None, [row["dst"], row.get("gateway") and f"via {row['gateway']}", row.get("dev")])):
            f"metric {row.get('metric', 0)}"
        for row in rows
        if row.get("protocol") not in LEARNT
    }  # fmt: skip


def network_files() -> list[str]:
    """The files by which a boot sets up the network, as far as everybody may read them."""
    patterns = ("/etc/network/interfaces", "/etc/network/interfaces.d/*", "/etc/netplan/*.yaml",
                "/etc/systemd/network/*", "/etc/hostname")  # fmt: skip
    return [path for path in matching(*patterns) if Path(path).is_file()]


def masked(content: str) -> list[str]:
    """The lines that say something, without what a password may stand in."""
    rows = (row.rstrip() for row in content.splitlines())
    said = [row for row in rows if row.strip() and not row.lstrip().startswith("#")]
    return [re.split(r"[:=]", row)[0] + " (not told)" if NOT_TOLD.search(row) else row for row in said]


def sysctl_files() -> list[str]:
    """In the order in which they count, later ones over earlier ones (sysctl.d(5))."""
    by_name = {}
    for folder in ("/usr/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d"):
        for path in matching(f"{folder}/*.conf"):
            by_name[Path(path).name] = path
    found = [by_name[name] for name in sorted(by_name)] + ["/etc/sysctl.conf"]
    return [path for path in found if Path(path).is_file()]


def dotted(key: str) -> str:
    """A setting's name with dots: files may have it with slashes."""
    return key.replace("/", ".") if re.match(r"[^.]*/", key) else key


def proc(key: str) -> str:
    """Where the kernel shows a setting."""
    return "/proc/sys/" + key.replace(".", "/")


def readable(path: str) -> bool:
    """Whether it can be read: some settings can only be written."""
    try:
        text(path)
    except OSError:
        return False
    return True


def stanzas(content: str) -> dict[str, str]:
    """Sources in the newer form (deb822, sources.list(5)), each as the line it would be in the older form."""
    found = {}
    for stanza in re.split(r"\n\s*\n", content):
        fields = dict(re.findall(r"^(\S+):[ \t]*((?:.*)(?:\n[ \t]+.*)*)", stanza, re.MULTILINE))
        words = {name.lower(): value.split() for name, value in fields.items()}
        state = "off" if words.get("enabled", ["yes"])[0].lower() in ("no", "false") else "on"
        for sort in words.get("types", ()):
            for uri in words.get("uris", ()):
                for suite in words.get("suites", ()):
                    found[plain(" ".join([sort, uri, suite, *words.get("components", ())]))] = state
    return found


def plain(source: str) -> str:
    """A source without the log-in in its URL."""
    return re.sub(r"://[^/@\s]*@", "://", source)


def logs_in(user: pwd.struct_passwd) -> bool:
    """Whether an account has a shell."""
    return not user.pw_shell.endswith(("nologin", "false", "sync")) and user.pw_shell != ""


@cache
def sshd(user: str) -> list[str]:
    """What sshd goes by when an account is asked for from elsewhere."""
    return lines("sshd", "-T", "-C", f"user={user},host=rackproof,addr=192.0.2.1")


@cache
def has_match() -> bool:
    """Whether some of sshd's settings are for some accounts alone."""
    paths = matching("/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*.conf")
    return any(re.search(r"^\s*match\s", text(path), re.IGNORECASE | re.MULTILINE) for path in paths)


def authorised_files(user: pwd.struct_passwd) -> list[str]:
    """Where sshd looks for the keys of an account; what is in /etc/pve is the cluster's."""
    patterns = [".ssh/authorized_keys", ".ssh/authorized_keys2"]
    # Asking takes time, and only a Match block has another answer for one account than for another.
    for row in sshd(user.pw_name if has_match() else "root"):
        if row.startswith("authorizedkeysfile "):
            patterns = row.split()[1:]
    paths = (each.replace("%h", user.pw_dir).replace("%u", user.pw_name) for each in patterns)
    found = (str(Path(user.pw_dir, path).resolve()) for path in paths)
    return [path for path in found if not path.startswith("/etc/pve/") and Path(path).is_file()]


def listens(protocol: str, address: str, port: int, names: list[str]) -> str | None:
    """The name of a place where somebody listens, None for one that only waits for an answer."""
    if "%" in address and address.startswith("[fe80"):
        return None
    # Of Ceph's managers the active one alone listens, and which one that is changes by itself.
    if "ceph-mgr" in names:
        return None
    if any(name.startswith("ceph-") for name in names) and 6800 <= port <= 7568:
        return f"{protocol} {address} Ceph's range"
    # Who asks by UDP waits for the answer on a port of any number.
    if protocol == "udp" and port > 1023 and "dnsmasq" in names:
        return None
    low = int(text("/proc/sys/net/ipv4/ip_local_port_range").split()[0])
    if port >= low:
        return None if protocol == "udp" else f"{protocol} {address} any port"
    return f"{protocol} {address}:{port}"


def unit_or_name(process: tuple[str, str]) -> str:
    """The unit that a process is of: what a process calls itself may be another after each start."""
    name, number = process
    unit = text(f"/proc/{number}/cgroup", "").strip().rpartition("/")[2]
    return unit if unit.endswith((".service", ".socket")) else name.split()[0]


def source(row: dict[str, str]) -> str:
    """What a mount is of: by UUID where it has one, because names of disks are another at each boot."""
    return (
        f"UUID {row['uuid']}"
        if row.get("uuid")
        else row["source"]
        if row["fstype"] != "overlay"
        else "overlay"
    )


def looked_at(path: Path) -> str:
    """A file in words."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    state = path.stat()
    told = f"{state.st_uid}:{state.st_gid} {stat.S_IMODE(state.st_mode):o}"
    return f"{told} {digest(path.read_bytes())}" if state.st_mode & stat.S_IROTH else told


def digest(content: bytes) -> str:
    """A few characters that stand for a content."""
    return hashlib.sha256(content).hexdigest()[:16]


def dmi(name: str) -> str | None:
    """What the firmware says of the machine, None where it says nothing."""
    return text(f"/sys/class/dmi/id/{name}", "").strip() or None


def matching(*patterns: str) -> list[str]:
    """Paths that fit shell patterns, in the order of the patterns and then of their names."""
    return [str(path) for pattern in patterns for path in sorted(Path("/").glob(pattern.lstrip("/")))]


def text(path: str, otherwise: str | None = None) -> str:
    """A file's text; `otherwise` when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        if otherwise is None:
            raise
        return otherwise


def lines(*command: str) -> list[str]:
    """The lines that a command prints; none where there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS,
                              check=True, env={**os.environ, "LC_ALL": "C", "PATH": PATH})  # fmt: skip
    except FileNotFoundError:
        return []
    return [row for row in done.stdout.splitlines() if row.strip()]


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

main()

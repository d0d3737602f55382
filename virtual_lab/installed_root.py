"""What the Proxmox VE installer leaves on the root file system that sets one node apart from any other."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

from passlib.hash import sha512_crypt

from virtual_lab import first_boot
from virtual_lab.answer import Answer
from virtual_lab.udev import Device

SEED = "var/lib/pve-cluster/seed"
"""Where the cluster file system finds what /etc/pve holds at its first start."""

LINK_FILES = "usr/local/lib/systemd/network"

_HOSTS = """\
127.0.0.1 localhost.localdomain localhost
{address} {host}.{domain} {host}

# The following lines are desirable for IPv6 capable hosts

::1     ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
ff02::3 ip6-allhosts
"""
_SOURCES = """\
Types: deb
URIs: {uri}
Suites: {suites}
Components: {components}
Signed-By: /usr/share/keyrings/{keyring}-archive-keyring.gpg
"""
_ENTERPRISE = "https://enterprise.proxmox.com/debian"
_LVM = "lvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n\tcontent rootdir,images\n"
_SECOND_STORAGE = {
    "zfs": "zfspool: local-zfs\n\tpool rpool/data\n\tsparse\n\tcontent images,rootdir\n",
    "btrfs": "btrfs: local-btrfs\n\tpath /var/lib/pve/local-btrfs\n"
    "\tcontent iso,vztmpl,backup,import,images,rootdir\n",
}
_NOT_KEPT = re.compile(
    r"(BOOT_IMAGE|root|ramdisk_size|splash|vga|hdsize|swapsize|maxroot|minfree|maxvz)=.*"
    r"|ro|rw|quiet|ext4|xfs|prox.*"
)


@dataclass(frozen=True, slots=True)
class Installation:
    """One installation, decided.

    `names` are the NICs' names on the installed system by their names now, in name order; `links` the pinned
    ones by MAC; `first_boot` is the script.
    """

    answer: Answer
    host: str
    domain: str
    disks: tuple[Device, ...]
    management: str
    names: Mapping[str, str]
    links: Mapping[str, str]
    address: IPv4Interface | IPv6Interface
    gateway: IPv4Address | IPv6Address
    dns: IPv4Address | IPv6Address
    kernel_args: str
    first_boot: bytes | None = None

    @property
    def fqdn(self) -> str:
        """The node's full name."""
        return f"{self.host}.{self.domain}"


@dataclass(frozen=True, slots=True)
class Laid:
    """What stands on the disk: machine id, and public host keys by kind."""

    machine_id: str
    host_keys: Mapping[str, str]


def write(root: Path, plan: Installation) -> str:
    """Write everything but the SSH host keys; returns the new machine id."""
    machine_id = secrets.token_hex(16)
    for name, text in _files(plan).items():
        _put(root / name, text)
    _put(root / "etc/machine-id", machine_id + "\n")
    _remove(root / "etc/apt/sources.list")
    _local_time(root, plan.answer.global_.timezone)
    _access(root, plan.answer)
    (root / "etc/pve").mkdir(parents=True, exist_ok=True)
    first_boot.write_units(root)
    if plan.first_boot is not None and plan.answer.first_boot is not None:
        first_boot.enable(root, plan.first_boot, plan.answer.first_boot.ordering)
    return machine_id


def new_host_keys(root: Path) -> dict[str, str]:
    """Fresh SSH host keys of the three kinds; the public lines by kind."""
    folder = root / "etc/ssh"
    folder.mkdir(parents=True, exist_ok=True)
    keys = {}
    for kind, bits in (("ecdsa", "256"), ("ed25519", "256"), ("rsa", "2048")):
        path = folder / f"ssh_host_{kind}_key"
        _remove(path)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-C", "root@proxmox", "-f", str(path)],
            check=True, capture_output=True,
        )  # fmt: skip
        keys[kind] = path.with_suffix(".pub").read_text().strip()
    return keys


def kept_kernel_args(command_line: str) -> list[str]:
    """What of the installer's kernel command line the installed system is booted with."""
    return [word for word in command_line.split() if not _NOT_KEPT.fullmatch(word)]


def interfaces(plan: Installation) -> str:
    """/etc/network/interfaces: the management bridge, every NIC manual."""
    family = "inet6" if plan.address.version == 6 else "inet"
    manual = {name: f"iface {new} inet manual\n" for name, new in plan.names.items()}
    bridge = (
        f"auto vmbr0\niface vmbr0 {family} static\n\taddress {plan.address}\n\tgateway {plan.gateway}\n"
        f"\tbridge-ports {plan.names[plan.management]}\n\tbridge-stp off\n\tbridge-fd 0\n"
    )
    stanzas = ["auto lo\niface lo inet loopback\n", manual.pop(plan.management), bridge, *manual.values()]
    return "\n".join([*stanzas, "source /etc/network/interfaces.d/*\n"])


def storage(plan: Installation) -> str:
    """storage.cfg of a fresh node."""
    setup = plan.answer.disk_setup
    second = _SECOND_STORAGE.get(setup.filesystem, _LVM)
    no_pool = setup.filesystem in ("ext4", "xfs") and setup.lvm is not None and setup.lvm.maxvz == 0
    content = "iso,vztmpl,backup,import" + (",rootdir,images" if no_pool else "")
    local = f"dir: local\n\tpath /var/lib/vz\n\tcontent {content}\n"
    return local if no_pool else f"{local}\n{second}"


def _files(plan: Installation) -> dict[str, str]:
    choices = plan.answer.global_
    files = {
        "etc/hostname": f"{plan.host}\n",
        "etc/hosts": _HOSTS.format(address=plan.address.ip, host=plan.host, domain=plan.domain),
        "etc/resolv.conf": f"search {plan.domain}\nnameserver {plan.dns}\n",
        "etc/network/interfaces": interfaces(plan),
        "etc/timezone": f"{choices.timezone}\n",
        "etc/default/keyboard": f'XKBLAYOUT="{choices.keyboard.removeprefix("en-")}"\n',
        f"{SEED}/storage.cfg": storage(plan),
        f"{SEED}/user.cfg": f"user:root@pam:1:0:::{choices.mailto}::\n",
    }
    return files | _boot_files(plan) | _apt_files() | _link_files(plan)


def _boot_files(plan: Installation) -> dict[str, str]:
    kept = " ".join(kept_kernel_args(plan.kernel_args))
    if plan.answer.disk_setup.filesystem in ("zfs", "btrfs"):
        root = {
            "zfs": "root=ZFS=rpool/ROOT/pve-1 boot=zfs",
            "btrfs": "root=LABEL=pve-root rootflags=subvol=@",
        }
        return {"etc/kernel/cmdline": f"{root[plan.answer.disk_setup.filesystem]} {kept}".rstrip() + "\n"}
    if not kept:
        return {}
    text = f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {kept}"\n'
    if serial := re.search(r"console=ttyS(\d)(?:,(\d+))?", kept):
        unit, speed = serial[1], serial[2] or "115200"
        text += 'GRUB_TERMINAL_INPUT="console serial"\nGRUB_TERMINAL_OUTPUT="gfxterm serial"\n'
        text += f'GRUB_SERIAL_COMMAND="serial --unit={unit} --speed={speed}"\n'
    return {"etc/default/grub.d/installer.cfg": text}


def _apt_files() -> dict[str, str]:
    def source(uri: str, suites: str, components: str, keyring: str) -> str:
        return _SOURCES.format(uri=uri, suites=suites, components=components, keyring=keyring)

    folder, parts = "etc/apt/sources.list.d", "main contrib non-free-firmware"
    debian = source("http://debian.example.net/debian/", "trixie trixie-updates", parts, "debian")
    security = source("http://debian.example.net/debian-security/", "trixie-security", parts, "debian")
    return {
        f"{folder}/debian.sources": f"{debian}\n{security}",
        f"{folder}/pve-enterprise.sources": source(
            f"{_ENTERPRISE}/pve", "trixie", "pve-enterprise", "proxmox"
        ),
        f"{folder}/ceph.sources": source(f"{_ENTERPRISE}/ceph-tentacle", "trixie", "enterprise", "proxmox"),
    }


def _link_files(plan: Installation) -> dict[str, str]:
    return {
        f"{LINK_FILES}/50-pmx-{name}.link": f"[Match]\nMACAddress={mac}\nType=ether\n\n[Link]\nName={name}\n"
        for mac, name in plan.links.items()
    }


def _access(root: Path, answer: Answer) -> None:
    choices = answer.global_
    hashed = choices.root_password_hashed or sha512_crypt.using(rounds=5000).hash(choices.root_password)
    shadow = root / "etc/shadow"
    _put(shadow, _with_password(shadow.read_text(), hashed), 0o640)
    sshd = root / "etc/ssh/sshd_config"
    _put(sshd, _with_root_login(sshd.read_text() if sshd.exists() else ""))
    if choices.root_ssh_keys:
        folder = root / "root/.ssh"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        _put(folder / "authorized_keys", "".join(f"{key}\n" for key in choices.root_ssh_keys), 0o600)


def _with_password(shadow: str, hashed: str) -> str:
    lines = [line.split(":") for line in shadow.splitlines()]
    return "".join(":".join([f[0], hashed, *f[2:]] if f[0] == "root" else f) + "\n" for f in lines)


def _with_root_login(config: str) -> str:
    line = "PermitRootLogin yes"
    changed, count = re.subn(r"^#?\s*PermitRootLogin.*$", line, config, count=1, flags=re.MULTILINE)
    return changed if count else f"{line}\n{config}"


def _local_time(root: Path, timezone: str) -> None:
    link = root / "etc/localtime"
    _remove(link)
    link.symlink_to(f"/usr/share/zoneinfo/{timezone}")


def _put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    path.write_text(text)
    path.chmod(mode)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)

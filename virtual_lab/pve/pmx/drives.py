"""The strings of a guest's configuration: drives, NICs, addresses, boot order, agent."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import options
from .propstring import parse_property_string
from .schema import Rule, check_format, is_ip

DRIVES = (*(f"ide{n}" for n in range(4)), *(f"sata{n}" for n in range(6)), *(f"scsi{n}" for n in range(31)),
          *(f"virtio{n}" for n in range(16)), "efidisk0", "tpmstate0")  # fmt: skip
NEW_DISK = re.compile(r"^(?:([a-zA-Z][a-zA-Z0-9\-_.]*[a-zA-Z0-9]):)?(\d+(?:\.\d+)?)$")
"""`STORAGE:GIB`: a volume that is to be made."""

_FLAG: Rule = {"type": "boolean", "optional": True}
_TEXT: Rule = {"type": "string", "optional": True}
_SIZE: Rule = {"type": "string", "pattern": r"\d+(\.\d+)?[KMGT]?", "optional": True}
_FORMAT: Rule = {"type": "string", "enum": ("raw", "qcow", "qed", "qcow2", "vmdk", "cloop"), "optional": True}
_FILE: dict[str, Rule] = {"file": {"type": "string"}, "format": _FORMAT, "size": _SIZE, "import-from": _TEXT}
_DISK: dict[str, Rule] = {
    **_FILE,
    "media": {"type": "string", "enum": ("cdrom", "disk"), "optional": True},
    "cache": {"type": "string", "enum": ("none", "writethrough", "writeback", "unsafe", "directsync"),
              "optional": True},
    "aio": {"type": "string", "enum": ("native", "threads", "io_uring"), "optional": True},
    "discard": {"type": "string", "enum": ("ignore", "on"), "optional": True},
    "serial": _TEXT, "wwn": _TEXT, "product": _TEXT, "vendor": _TEXT,
    **dict.fromkeys(("backup", "detect_zeroes", "iothread", "replicate", "ro", "shared", "snapshot", "ssd"),
                    _FLAG),
}  # fmt: skip
_EFI: dict[str, Rule] = {
    **_FILE,
    "efitype": {"type": "string", "enum": ("2m", "4m"), "optional": True},
    "pre-enrolled-keys": _FLAG,
    "ms-cert": {"type": "string", "enum": ("2011", "2023", "2023w", "2023k"), "optional": True},
}
_TPM: dict[str, Rule] = {
    **_FILE,
    "version": {"type": "string", "enum": ("v1.2", "v2.0"), "optional": True},
}
_MODELS = ("e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551", "i82557b",
           "i82559er", "ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "virtio", "vmxnet3")  # fmt: skip
_NET: dict[str, Rule] = {
    "model": {"type": "string", "enum": _MODELS},
    "macaddr": {"type": "string", "pattern": r"[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}",
                "optional": True},
    "bridge": {"type": "string", "pattern": r"[-_.\w\d]+", "optional": True},
    "tag": {"type": "integer", "minimum": 1, "maximum": 4094, "optional": True},
    "mtu": {"type": "integer", "minimum": 1, "maximum": 65520, "optional": True},
    "queues": {"type": "integer", "minimum": 0, "maximum": 64, "optional": True},
    "rate": _TEXT, "trunks": _TEXT, "firewall": _FLAG, "link_down": _FLAG,
}  # fmt: skip
_IPCONFIG: dict[str, Rule] = dict.fromkeys(("ip", "gw", "ip6", "gw6"), _TEXT)
_AGENT: dict[str, Rule] = {
    "enabled": {"type": "boolean"},
    "type": {"type": "string", "enum": ("virtio", "isa"), "optional": True},
    **dict.fromkeys(("fstrim_cloned_disks", "freeze-fs", "freeze-fs-on-backup"), _FLAG),
}
_CICUSTOM: dict[str, Rule] = dict.fromkeys(("meta", "network", "user", "vendor"), _TEXT)


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive: the volume's id, or what stands for one, and its options as written."""

    file: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_cloudinit(self) -> bool:
        """Whether it is the guest's cloud-init drive, there or asked for."""
        return bool(re.search(r"[:/]vm-\d+-cloudinit(?:\.\w+)?$|(?:^|:)cloudinit$", self.file))

    @property
    def is_cdrom(self) -> bool:
        """Whether it is an optical drive, the cloud-init drive among them."""
        return self.options.get("media") == "cdrom" or self.is_cloudinit or self.file in ("cdrom", "none")

    def with_volume(self, volid: str, size: int) -> Drive:
        """The same drive with another volume of so many bytes."""
        kept = {key: value for key, value in self.options.items() if key not in ("format", "import-from")}
        return Drive(volid, {**kept, "size": size_text(size)} if size else kept)

    def __str__(self) -> str:
        return ",".join([self.file, *(f"{key}={value}" for key, value in sorted(self.options.items()))])


def check_drive(text: str) -> None:
    """ValueError when no drive is written so."""
    parse_property_string(text, _DISK, default_key="file")


def check_efidisk(text: str) -> None:
    """ValueError when no EFI disk is written so."""
    parse_property_string(text, _EFI, default_key="file")


def check_tpmstate(text: str) -> None:
    """ValueError when no TPM state is written so."""
    parse_property_string(text, _TPM, default_key="file")


def drive(text: str) -> Drive:
    """A drive from its text, which was checked before."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    named = {key: value for key, equals, value in pairs if equals}
    bare = next((key for key, equals, _ in pairs if not equals), "")
    return Drive(bare or named["file"], {key: value for key, value in named.items() if key != "file"})


def drives(conf: Mapping[str, str]) -> dict[str, Drive]:
    """The drives of a configuration, by their names in order."""
    return {key: drive(conf[key]) for key in sorted(conf) if key in DRIVES}


def size_text(size: int) -> str:
    """Bytes in the largest unit that loses nothing, as 8G."""
    for unit, letter in ((1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def size_bytes(text: str) -> int:
    """Bytes of a size as 8G."""
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    letter = text[-1:] if text[-1:].isalpha() else ""
    return int(float(text.removesuffix(letter)) * units[letter])


# -- NICs


def net(text: str) -> dict[str, Any]:
    """A NIC's parts; ValueError when it is written wrong. `virtio=MAC` is model and macaddr."""
    words = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        words += [f"model={key}", f"macaddr={value}"] if equals and key in _MODELS else [part]
    return parse_property_string(",".join(words), _NET, default_key="model")


def check_net(text: str) -> None:
    """ValueError when no NIC is written so."""
    net(text)


def net_text(nic: Mapping[str, Any]) -> str:
    """A NIC as the configuration has it."""
    rest = [f"{key}={int(value) if isinstance(value, bool) else value}" for key, value in sorted(nic.items())
            if key not in ("model", "macaddr")]  # fmt: skip
    return ",".join([f"{nic['model']}={nic['macaddr']}", *rest])


def random_mac() -> str:
    """A MAC with the cluster's prefix."""
    prefix = options.read().get("mac_prefix", "BC:24:11")
    have = len(prefix.split(":"))
    return ":".join([prefix, *(f"{byte:02X}" for byte in secrets.token_bytes(6 - have))]).upper()


def with_mac(text: str, *, new: bool = False) -> str:
    """A NIC with a MAC, a new one if it has none or if asked for."""
    nic = net(text)
    return net_text({**nic, "macaddr": random_mac() if new or "macaddr" not in nic else nic["macaddr"]})


# -- the rest


def ipconfig(text: str) -> dict[str, Any]:
    """The parts of an ipconfig; ValueError when it is written wrong."""
    parts = parse_property_string(text, _IPCONFIG)
    for gateway, address in (("gw", "ip"), ("gw6", "ip6")):
        if gateway in parts and address not in parts:
            raise ValueError(f"invalid format - format error\n{gateway}: missing property - '{gateway}' "
                             f"requires this property: {address}")  # fmt: skip
        if gateway in parts and not is_ip(parts[gateway]):
            wrong = "value does not look like a valid IP address"
            raise ValueError(f"invalid format - format error\n{gateway}: invalid format - {wrong}")
    for key, words in (("ip", ("dhcp",)), ("ip6", ("dhcp", "auto"))):
        if key in parts and parts[key] not in words:
            _check_cidr(key, parts[key])
    return parts


def _check_cidr(key: str, text: str) -> None:
    try:
        check_format(text, "CIDR")
        fits = bool(re.search(r"/\d+$", text))
    except ValueError:
        fits = False
    if not fits:
        name = "IPv4" if key == "ip" else "IPv6"
        raise ValueError(f"invalid format - format error\n{key}: invalid format - value does not look like a "
                         f"valid {name} network")  # fmt: skip


def check_ipconfig(text: str) -> None:
    """ValueError when no address is configured so."""
    ipconfig(text)


def agent(text: str) -> dict[str, Any]:
    """The agent's options; ValueError when they are written wrong."""
    return parse_property_string(text, _AGENT, default_key="enabled")


def check_agent(text: str) -> None:
    """ValueError when the agent is not configured so."""
    agent(text)


def has_agent(conf: Mapping[str, str]) -> bool:
    """Whether the guest is to have an agent."""
    return "agent" in conf and bool(agent(conf["agent"])["enabled"])


def cicustom(text: str) -> dict[str, Any]:
    """Which snippets take the place of which generated files; ValueError when it is written wrong."""
    return parse_property_string(text, _CICUSTOM)


def check_cicustom(text: str) -> None:
    """ValueError when no snippets are named so."""
    cicustom(text)


def boot_order(conf: Mapping[str, str]) -> list[str]:
    """The drives, and NICs, to boot from, first one first."""
    for part in conf.get("boot", "").split(","):
        key, _, value = part.partition("=")
        if key == "order":
            return [name for name in value.split(";") if name]
    return [name for name, one in drives(conf).items() if not one.is_cdrom and name[-2:] != "k0"
            and not name.startswith("tpm")]  # fmt: skip


def check_boot(text: str) -> None:
    """ValueError when no boot order is written so."""
    order: dict[str, Rule] = {"order": _TEXT, "legacy": _TEXT}
    parts = parse_property_string(text, order, default_key="legacy")
    for name in filter(None, parts.get("order", "").split(";")):
        if name not in DRIVES and not re.fullmatch(r"(net|usb|hostpci)\d+", name):
            raise ValueError(
                f"invalid format - format error\norder: invalid format - invalid boot device '{name}'"
            )


def check_urlencoded(text: str) -> None:
    """ValueError when the text was not percent-encoded by itself, before the form was."""
    if not re.fullmatch(r"[-%a-zA-Z0-9_.!~*'()]*", text):
        raise ValueError("invalid format - invalid urlencoded string\n")


def check_dns_name(text: str) -> None:
    """ValueError when nothing can be called so in DNS."""
    label = r"[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?"
    if not re.fullmatch(rf"(?:{label}\.)*{label}", text):
        raise ValueError("invalid format - value does not look like a valid DNS name")


def check_tags(text: str) -> None:
    """ValueError when these are no tags."""
    for tag in filter(None, re.split(r"[,; ]+", text)):
        if not re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9_\-+.]*", tag):
            raise ValueError(f"invalid format - invalid characters in tag '{tag}'")

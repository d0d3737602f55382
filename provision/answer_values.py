"""The rules on the values of an answer: by each the installer refuses it, or falls into a trap unheard.

Sources: pve-installer 9.2.7 (proxmox-auto-installer/src/utils.rs, proxmox-installer-common, and
Proxmox/Install.pm).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Any, Literal

from provision.answer_tables import BTRFS_RAID, ZFS_RAID
from provision.inventory.disk_options import LEAST_DISKS, SINGLE, installer_glob, names_one
from provision.inventory.install_rules import countries, time_zones
from provision.inventory.words import KEYBOARDS, parse_mac

Body = Mapping[str, Any]
Weight = Literal["refused", "deprecated", "trap", "note"]

LABEL = re.compile("[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
MAIL = re.compile(rf"[a-zA-Z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{LABEL.pattern}(\.{LABEL.pattern})*")
NIC_NAME = re.compile("[a-zA-Z][a-zA-Z0-9_]{1,14}")
SUBSCRIPTION = re.compile("pve[0-9]+[cbsp]-[0-9a-f]{10}")
CRYPT = re.compile(r"\$(y|gy|7|2[aby]|5|6)\$\S+")
FINGERPRINT = re.compile("([0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}")
URL = re.compile(r"https?://[^\s/]+(/\S*)?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong at one place, such as `disk-setup.zfs.raid`.

    `refused` by the installer; `deprecated`, and so refused by the official tool alone; a `trap`, where the
    installer does something else than the answer says; or a `note`, where there may be no better way to say
    it. No value of a secret is in `words`.
    """

    place: str
    words: str
    weight: Weight = "refused"

    def __str__(self) -> str:
        told = f"{self.place}: {self.words}" if self.place else self.words
        return told if self.weight == "refused" else f"{told} ({self.weight})"


# What a rule may look at: a value of another kind is told already


def _table(tables: Body, *path: str) -> Body:
    found: Any = tables
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _text(table: Body, key: str) -> str | None:
    value = table.get(key)
    return value if isinstance(value, str) else None


def _texts(table: Body, key: str) -> list[str]:
    value = table.get(key)
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _number(table: Body, key: str) -> float | None:
    value = table.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


# [global]


def _locale(tables: Body) -> Iterator[Fault]:
    table = _table(tables, "global")
    known = (("country", countries()), ("keyboard", KEYBOARDS), ("timezone", time_zones()))
    for key, words in known:
        if (value := _text(table, key)) is not None and value not in words:
            yield Fault(f"global.{key}", f"{value!r} is none that the installer knows")


def fqdn_fault(name: str) -> str | None:
    """What is wrong with a full name; None when nothing is."""
    labels = name.split(".")
    if len(name) > 253 or not all(LABEL.fullmatch(label) for label in labels):
        return f"{name!r} is no full name: labels are letters, digits and inner dashes, at most 63 long"
    if len(labels) < 2:
        return f"{name!r} has no domain"
    return f"the host name of {name!r} is digits alone" if labels[0].isdigit() else None


def _identity(tables: Body) -> Iterator[Fault]:
    table = _table(tables, "global")
    if (fqdn := _text(table, "fqdn")) is not None and (wrong := fqdn_fault(fqdn)):
        yield Fault("global.fqdn", wrong)
    mail = _text(table, "mailto")
    if mail is not None and (not MAIL.fullmatch(mail) or mail == "mail@example.invalid"):
        yield Fault("global.mailto", f"{mail!r} is no mail address that the installer takes")
    key = _text(table, "subscription-key")
    if key is not None and not SUBSCRIPTION.fullmatch(key):
        yield Fault("global.subscription-key", "is not the key of a Proxmox VE subscription")


def _password(tables: Body) -> Iterator[Fault]:
    table = _table(tables, "global")
    plain, hashed = table.get("root-password"), table.get("root-password-hashed")
    if plain is not None and hashed is not None:
        yield Fault("global.root-password", "and root-password-hashed cannot be set at the same time")
    elif plain is None and hashed is None and table:
        yield Fault("global", "one of root-password and root-password-hashed must be set")
    if isinstance(plain, str):
        if len(plain.encode()) < 8:
            yield Fault("global.root-password", "must be at least 8 characters long")
        yield Fault("global.root-password", "is readable by whoever reads the answer; hash it", "trap")
    if isinstance(hashed, str) and not CRYPT.fullmatch(hashed):
        yield Fault("global.root-password-hashed", "is no hash of crypt(3): nobody could log in", "trap")


# [network]


def _addresses(tables: Body) -> Iterator[Fault]:
    table = _table(tables, "network")
    if table.get("source") != "from-answer":
        return
    cidr = _text(table, "cidr")
    if cidr is not None and not (_is_ip(ip_interface, cidr) and re.search(r"/[0-9]{1,3}$", cidr)):
        yield Fault("network.cidr", f"{cidr!r} is no address with a prefix length, such as 10.0.0.11/24")
    for key in ("dns", "gateway"):
        if (value := _text(table, key)) is not None and not _is_ip(ip_address, value):
            yield Fault(f"network.{key}", f"{value!r} is not one IP address")
    if not table.get("filter"):
        yield Fault("network.filter", "is missing: no filter defined")


def _parses(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _is_ip(kind: Callable[[str], object], text: str) -> bool:
    # Python takes the zone of an IPv6 address, too, and the installer does not.
    return "%" not in text and _parses(kind, text)


def _pinned_names(tables: Body) -> Iterator[Fault]:
    place = "network.interface-name-pinning"
    pinning = _table(tables, *place.split("."))
    if pinning.get("enabled") is False:
        yield Fault(f"{place}.enabled", "is false, and yet names are pinned; leave the table out", "trap")
    first: dict[str, str] = {}
    for mac, name in _table(pinning, "mapping").items():
        where = f"{place}.mapping.{mac}"
        if not isinstance(name, str):
            continue
        if not NIC_NAME.fullmatch(name):
            yield Fault(where, f"{name!r} is no name: 2 to 15 letters, digits or underscores, a letter first")
        elif first.setdefault(name, mac) != mac:
            yield Fault(where, f"{name!r} is the name of {first[name]}, too")
        yield from _pinned_traps(where, mac, name)


def _pinned_traps(where: str, mac: str, name: str) -> Iterator[Fault]:
    try:
        written = parse_mac(mac) == mac
    except ValueError:
        written = False
    if not written:
        yield Fault(where, "is no MAC in lower case with colons: no NIC would match before 9.1.7", "trap")
    if re.fullmatch("(nic|eth)[0-9]+", name):
        yield Fault(where, f"{name!r} is what the installer or the kernel calls another NIC", "trap")


# [disk-setup]


def _selection(tables: Body) -> Iterator[Fault]:
    table = _table(tables, "disk-setup")
    if not table:
        return
    listed, filters = table.get("disk-list"), table.get("filter")
    if listed and filters:
        yield Fault("disk-setup", "has both disk-list and filter")
    elif not listed and not filters:
        yield Fault("disk-setup", "needs either disk-list or filter")
    disks = _texts(table, "disk-list")
    if twice := next((disk for disk in disks if disks.count(disk) > 1), None):
        yield Fault("disk-setup.disk-list", f"{twice!r} stands there twice")
    for index, disk in enumerate(disks):
        if not re.fullmatch("[a-z]+[a-z0-9]*", disk):
            words = f"{disk!r} must be the end of a path such as /dev/sda; links never match"
            yield Fault(f"disk-setup.disk-list.{index}", words, "trap")


def _filters(tables: Body) -> Iterator[Fault]:
    for name in ("network", "disk-setup"):
        filters, place = _table(tables, name, "filter"), f"{name}.filter"
        for key, glob in filters.items():
            if isinstance(glob, str) and not _parses(installer_glob, glob):
                yield Fault(f"{place}.{key}", f"{glob!r} is no glob that the installer can read")
        if len(filters) > 1:
            keys = " or ".join(filters)
            yield Fault(place, f"the first that matches by {keys} is taken; keep one key", "trap")


def _filter_match(tables: Body) -> Iterator[Fault]:
    table = _table(tables, "disk-setup")
    match = table.get("filter-match")
    if match is None:
        return
    if table.get("filesystem") in SINGLE:
        yield Fault("disk-setup.filter-match", "is not heeded for ext4 and xfs: any key is enough", "trap")
    elif match == "all":
        yield Fault("disk-setup.filter-match", "'all' also takes disks that lack the property", "trap")


def _layout(tables: Body) -> Iterator[Fault]:
    setup = _table(tables, "disk-setup")
    filesystem = setup.get("filesystem")
    if filesystem not in (*SINGLE, "zfs", "btrfs"):
        return
    own = "lvm" if filesystem in SINGLE else str(filesystem)
    for other in ("zfs", "lvm", "btrfs"):
        if other != own and setup.get(other) is not None:
            yield Fault(f"disk-setup.{other}", f"make sure only '{own}' options are set for {filesystem}")
    yield from _swap(_table(setup, "lvm"))
    if own == "lvm":
        yield from _one_disk(setup)
    else:
        yield from _raid(setup, own)


def _swap(lvm: Body) -> Iterator[Fault]:
    swap, size = _number(lvm, "swapsize"), _number(lvm, "hdsize")
    if swap is not None and size is not None and swap > size / 2:
        yield Fault("disk-setup.lvm.swapsize", f"{swap} cannot be more than half of hdsize {size}")


def _one_disk(setup: Body) -> Iterator[Fault]:
    if len(_texts(setup, "disk-list")) > 1:
        yield Fault("disk-setup.disk-list", "make sure to define only one disk for ext4 and xfs")


def _raid(setup: Body, own: str) -> Iterator[Fault]:
    place, level = f"disk-setup.{own}.raid", _table(setup, own).get("raid")
    known = ZFS_RAID if own == "zfs" else BTRFS_RAID
    if level is None:
        yield Fault(place, f"is missing: {own} needs a raid level")
    elif not isinstance(level, str):
        return
    elif level not in (*known, *(word.upper() for word in known)):
        yield Fault(place, f"{level!r} must be one of {', '.join(known)}")
    elif setup.get("disk-list"):
        yield from _count(own, level.lower(), len(_texts(setup, "disk-list")))
    else:
        yield from _alone(setup, level.lower())


def _count(own: str, level: str, count: int) -> Iterator[Fault]:
    place = "disk-setup.disk-list"
    if count < LEAST_DISKS[level]:
        yield Fault(place, f"{own} {level} needs at least {LEAST_DISKS[level]} disks, and {count} are listed")
    elif (own, level) == ("zfs", "raid10") and count % 2:
        yield Fault(place, f"zfs raid10 needs an even number of disks, and {count} are listed")
    if count > 1:
        yield Fault(place, "a listed disk that is not there is left out without a word", "note")


def _alone(setup: Body, level: str) -> Iterator[Fault]:
    """One property whose value no two disks share names one disk, whatever the RAID."""
    for key, glob in _table(setup, "filter").items():
        one = key in ("ID_SERIAL_SHORT", "ID_WWN", "ID_SERIAL") and isinstance(glob, str) and names_one(glob)
        if one and LEAST_DISKS[level] > 1 and len(_table(setup, "filter")) == 1:
            yield Fault(
                "disk-setup.filter", f"names one disk, and {level} needs {LEAST_DISKS[level]}", "trap"
            )


# The hooks


def _hooks(tables: Body) -> Iterator[Fault]:
    boot = _table(tables, "first-boot")
    if boot.get("source") == "from-url" and boot.get("url") is None:
        yield Fault("first-boot.url", "is missing: the source is from-url")
    if boot.get("source") == "from-iso" and boot.get("url") is not None:
        yield Fault("first-boot.url", "is not heeded: the source is from-iso", "trap")
    for name in ("post-installation-webhook", "first-boot"):
        table = _table(tables, name)
        url, pinned = _text(table, "url"), _text(table, "cert-fingerprint")
        if url is not None and not URL.fullmatch(url):
            yield Fault(f"{name}.url", "is no http or https URL")
        elif url is not None and url.startswith("https:") and pinned is None:
            words = "is judged by the installer's own CAs; give cert-fingerprint"
            yield Fault(f"{name}.url", words, "trap")
        if pinned is not None and not FINGERPRINT.fullmatch(pinned):
            yield Fault(f"{name}.cert-fingerprint", "is no SHA-256 fingerprint: 64 hex digits")


RULES: tuple[Callable[[Body], Iterator[Fault]], ...] = (
    _locale, _identity, _password, _addresses, _pinned_names, _selection, _filters, _filter_match, _layout,
    _hooks,
)  # fmt: skip

"""What a node says of its Ceph over SSH, in one command that only reads: programs, daemons, volumes."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from configparser import Error as ConfigError
from configparser import RawConfigParser
from dataclasses import dataclass
from functools import partial
from typing import Any

from provision.errors import LabError
from provision.remote import Remote

# What `pveceph install` brings and Proxmox asks for (PVE/Ceph/Tools.pm); its flag stands while it works.
PROGRAMS = ("ceph", "ceph-mon", "ceph-mgr", "ceph-osd", "ceph-mds", "ceph-volume")
INSTALL_FLAG = "/run/pve-ceph-install-flag"
SURVEY = rf"""
export LC_ALL=C
tell() {{ printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr '\n' ' ')"; }}
tell programs "$(for name in {" ".join(PROGRAMS)}; do command -v $name; done)"
tell installing "$(ls {INSTALL_FLAG} 2>/dev/null)"
tell version "$(! command -v ceph-mon >/dev/null || ceph-mon --version 2>/dev/null)"
tell sources "$(sed -n 's/^\(URIs\|Components\): *//p' /etc/apt/sources.list.d/ceph.sources 2>/dev/null)"
tell linked "$(readlink /etc/ceph/ceph.conf)"
tell conf "$(base64 -w0 /etc/pve/ceph.conf 2>/dev/null)"
tell homes "$(cd /var/lib/ceph 2>/dev/null && ls -d mon/ceph-* mgr/ceph-* mds/ceph-* 2>/dev/null)"
tell active "$(systemctl list-units --plain --no-legend --state=active,activating 'ceph-*@*.service' |
  cut -d ' ' -f 1)"
root=$(findmnt -nvo SOURCE /)
case $root in
  /dev/*) parts=$root ;;
  */*) parts=$(zpool list -vHPL "${{root%%/*}}" | awk '$1 ~ "^/dev/" {{print $1}}') ;;
  *) parts= ;;
esac
tell system "$([ -z "$parts" ] || lsblk -snrpo NAME,TYPE $parts | awk '$2 == "disk" {{print $1}}')"
tell links "$(cd /dev/disk/by-id 2>/dev/null && for name in *; do echo $name=$(readlink -f $name); done)"
tell volumes "$(pvs --reportformat json -o pv_name,vg_name,lv_name,lv_tags,lv_attr)"
"""
_VERSION = re.compile(r"ceph version (\S+) .*?\b([a-z]+) \((?:stable|rc|dev)")
_UNIT = re.compile(r"ceph-(mon|mgr|mds|osd)@(.+)\.service")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_GROUP = re.compile(f"ceph-{_UUID}")
_NAME = re.compile(f"osd-(?:block|db|wal)-{_UUID}")
_OPEN_AT = 5


@dataclass(frozen=True, slots=True)
class Volume:
    """A logical volume; without `name` an empty volume group, without `group` a mark of LVM and nothing else.

    `tags` are those of Ceph.
    """

    group: str
    name: str
    tags: Mapping[str, str]
    open: bool = False

    @property
    def path(self) -> str:
        """As LVM's commands take it."""
        return f"{self.group}/{self.name}"

    @property
    def fsid(self) -> str | None:
        """The Ceph cluster that it is of; None when it is of none, or was never finished."""
        return self._tag("cluster_fsid")

    @property
    def osd(self) -> int | None:
        """The id of its OSD."""
        text = self._tag("osd_id")
        return int(text) if text and text.isdigit() else None

    @property
    def osd_fsid(self) -> str | None:
        """The UUID of its OSD, which, unlike its id, is never given again."""
        return self._tag("osd_fsid")

    @property
    def part(self) -> str:
        """What it is of its OSD: block, db or wal."""
        return self._tag("type") or ""

    @property
    def unfinished(self) -> bool:
        """Whether it holds nothing: ceph-volume was stopped while it made or removed it."""
        named = _GROUP.fullmatch(self.group) and (not self.name or _NAME.fullmatch(self.name))
        return not self.group or (bool(named) and self.fsid is None)

    def _tag(self, name: str) -> str | None:
        value = self.tags.get(name)
        return None if value in (None, "", "null") else value


@dataclass(frozen=True, slots=True)
class Conf:
    """Proxmox' ceph.conf, which all nodes of the cluster share; all None and empty where there is none."""

    fsid: str | None = None
    public: str | None = None
    cluster: str | None = None
    mon_host: str = ""
    sections: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """A node's Ceph: daemons are called as Proxmox calls them, "mon.node1", "osd.3".

    `homes` are the daemons (but OSDs) that have their directory there, `active` those that run; `system` the
    disks under the root file system; `links` devices by their names in /dev/disk/by-id; `volumes` by disk.
    """

    node: str
    installed: bool
    version: str
    release: str
    sources: tuple[str, ...]
    linked: bool
    conf: Conf
    homes: frozenset[str]
    active: frozenset[str]
    system: frozenset[str]
    links: Mapping[str, str]
    volumes: Mapping[str, tuple[Volume, ...]]


def survey(remote: Remote) -> Found:
    """What a node says of its Ceph."""
    return parse(remote.name, remote.check(SURVEY))


def parse(node: str, output: str) -> Found:
    """The survey in the command's output; raises LabError when the command did not run as it should."""
    said = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    try:
        return _found(node, {key: value.strip() for key, value in said.items()})
    except (KeyError, ValueError, ConfigError, binascii.Error):
        raise LabError("its Ceph survey came back incomplete", node=node, last_seen=output[-500:]) from None


def _found(node: str, said: Mapping[str, str]) -> Found:
    version = _VERSION.search(said["version"])
    units = map(_UNIT.fullmatch, said["active"].split())
    complete = len(said["programs"].split()) == len(PROGRAMS)
    return Found(
        node=node,
        installed=complete and not said["installing"],
        version=version[1] if version else "",
        release=version[2] if version else "",
        sources=tuple(said["sources"].split()),
        linked=said["linked"] == "/etc/pve/ceph.conf",
        conf=_conf(base64.b64decode(said["conf"], validate=True).decode()),
        homes=frozenset(home.replace("/ceph-", ".") for home in said["homes"].split()),
        active=frozenset(f"{unit[1]}.{unit[2]}" for unit in units if unit),
        system=frozenset(said["system"].split()),
        links=dict(link.split("=", 1) for link in said["links"].split()),
        volumes=_volumes(json.loads(said["volumes"] or '{"report": []}')),
    )


def _conf(text: str) -> Conf:
    parser = RawConfigParser(strict=False, allow_no_value=True)
    parser.optionxform = partial(re.sub, r"[-\s]+", "_")  # type: ignore[method-assign]
    parser.read_string("\n".join(line.strip() for line in text.splitlines()))
    values = dict(parser["global"]) if parser.has_section("global") else {}
    return Conf(
        fsid=values.get("fsid"),
        public=values.get("public_network"),
        cluster=values.get("cluster_network"),
        mon_host=values.get("mon_host") or "",
        sections=frozenset(parser.sections()),
    )


def _volumes(report: Mapping[str, Any]) -> dict[str, tuple[Volume, ...]]:
    """By disk; a disk whose group has no volume there keeps one without a name."""
    found: dict[str, dict[str, Volume]] = {}
    for row in (row for part in report["report"] for row in part["pv"]):
        here = found.setdefault(row["pv_name"], {})
        here[row["lv_name"]] = _volume(row)
    return {
        disk: tuple(v for name, v in here.items() if name or len(here) == 1) for disk, here in found.items()
    }


def _volume(row: Mapping[str, str]) -> Volume:
    pairs = (
        tag.removeprefix("ceph.").partition("=") for tag in row["lv_tags"].split(",") if tag[:5] == "ceph."
    )
    tags = {key: value for key, _, value in pairs}
    return Volume(row["vg_name"], row["lv_name"], tags, open=row["lv_attr"][_OPEN_AT : _OPEN_AT + 1] == "o")

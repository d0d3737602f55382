"""Answers of any lab file that is taken, and the same answers spoiled: both judges of them say the same.

One is the harness's own, the other the played installer's reader; neither knows of the other.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_uppercase, digits
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import inventory, proxmox_answer
from provision.answer_rules import faults_of_json, faults_of_toml, installer_refuses
from provision.answers import preview
from provision.inventory import Disk, Lab, Locale, Node, Secret
from provision.inventory.disk_options import LEAST_DISKS
from provision.inventory.install_rules import countries, time_zones
from provision.inventory.words import KEYBOARDS
from virtual_lab.answer import InvalidAnswer, read

settings.register_profile("contract", deadline=None, max_examples=100)
settings.load_profile("contract")

ROOT = Path(__file__).parents[2]
LAB = inventory.load(ROOT / "labs" / "virtual.yaml", {})
SERIAL = st.text(ascii_uppercase + digits, min_size=3, max_size=12)
GLOB = SERIAL.map(lambda text: f"{text}*") | SERIAL.map(lambda text: f"?{text}") | SERIAL.map("*{}*".format)
SIZE = st.integers(2, 4000) | st.floats(2, 4000)
DEVICES = st.sampled_from("abcdefgh").map("sd{}".format)


def _maybe(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any] | None]:
    return st.none() | st.fixed_dictionaries({}, optional=options)


ZFS = _maybe(
    ashift=st.integers(9, 16), arc_max=st.integers(64, 1 << 20), copies=st.integers(1, 3), hdsize=SIZE,
    checksum=st.sampled_from(["on", "fletcher4", "sha256"]),
    compress=st.sampled_from(["on", "off", "lzjb", "lz4", "zle", "gzip", "zstd"]),
)  # fmt: skip
BTRFS = _maybe(hdsize=SIZE, compress=st.sampled_from(["on", "off", "zlib", "lzo", "zstd"]))
LVM = _maybe(hdsize=st.integers(64, 4000), swapsize=st.integers(0, 32), maxroot=SIZE, maxvz=SIZE | st.just(0), minfree=SIZE)  # fmt: skip
SELECTED = st.one_of(
    st.fixed_dictionaries({"serial": GLOB}), st.fixed_dictionaries({"model": SERIAL | GLOB}),
    st.fixed_dictionaries({"wwn": GLOB}), st.fixed_dictionaries({"udev": st.fixed_dictionaries({"ID_PATH": GLOB})}),
)  # fmt: skip


@st.composite
def disks(draw: st.DrawFn) -> Disk:
    """Any disk, or disks, that a lab file may say."""
    kind = draw(st.sampled_from(["ext4", "xfs", "zfs", "btrfs"]))
    if kind in ("ext4", "xfs"):
        one = draw(SELECTED | st.fixed_dictionaries({"device": DEVICES}))
        return Disk.model_validate({"filesystem": kind, "lvm": draw(LVM), **one})
    levels = [level for level in LEAST_DISKS if kind == "zfs" or not level.startswith("raidz")]
    level = draw(st.sampled_from(levels))
    least = LEAST_DISKS[level]
    # An even number suits every level.
    even = least + least % 2
    devices = st.sampled_from([even, even + 2]).map(
        lambda count: [f"sd{letter}" for letter in "abcdefgh"[:count]]
    )
    serials = SERIAL.map(lambda text: [f"{text}{end}" for end in range(even)])
    chosen: dict[str, Any] = draw(
        SELECTED | st.fixed_dictionaries({"devices": devices}) | st.fixed_dictionaries({"serials": serials})
    )
    options = draw(ZFS if kind == "zfs" else BTRFS)
    return Disk.model_validate({"filesystem": kind, "raid": level, kind: options, **chosen})


LOCALES = st.builds(
    Locale,
    country=st.sampled_from(sorted(countries())),
    keyboard=st.sampled_from(KEYBOARDS),
    timezone=st.sampled_from(sorted(time_zones())),
)
NAMES = st.from_regex(r"m[A-Za-z0-9_]{1,14}", fullmatch=True)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    """Any Proxmox node that a lab file may say, as far as its answer goes."""
    node = LAB.nodes["node2"]
    pinned = draw(st.none() | NAMES)
    key = draw(st.none() | st.from_regex(r"pve[0-9][cbsp]-[0-9a-f]{10}", fullmatch=True))
    changes = {
        "disk": draw(disks()), "locale": draw(LOCALES), "reboot_on_error": draw(st.booleans()),
        "interface_names": {pinned: node.mac} if pinned else {},
        "subscription": key and Secret.known(key),
        "mailto": draw(st.none() | st.just("ops+lab@example.net")),
    }  # fmt: skip
    return node.model_copy(update=changes)


def forms(lab: Lab, node: Node) -> tuple[str, str]:
    """The answer in TOML, and in JSON with what is for newer installers."""
    answer = preview(lab, node)
    return proxmox_answer.as_toml(answer), proxmox_answer.as_json(answer, "a-token", node.subscription)


@given(node=nodes())
def test_whatever_a_lab_file_may_say_both_judges_take(node: Node) -> None:
    toml, newer = forms(LAB, node)
    found = [*faults_of_toml(toml, (9, 1)), *faults_of_json(newer)]
    assert [fault for fault in found if fault.weight != "note"] == []
    for text, kind in ((toml, "application/toml"), (newer, "application/json")):
        taken = read(text.encode(), kind)
        assert (taken.disk_setup.filesystem, taken.disk_setup.raid) == (node.disk.filesystem, node.disk.raid)
        assert taken.global_.timezone == node.locale.timezone


Table = dict[str, Any]
Spoil = Callable[[Table], object]


def put(place: str, value: object) -> Spoil:
    """Sets the value at a place of the answer."""

    def spoil(answer: Table) -> None:
        *path, key = place.split("/")
        for part in path:
            answer = answer.setdefault(part, {})
        answer[key] = value

    return spoil


def drop(place: str) -> Spoil:
    """Takes away what stands at a place of the answer."""

    def spoil(answer: Table) -> None:
        *path, key = place.split("/")
        for part in path:
            answer = answer[part]
        del answer[key]

    return spoil


TABLES = ["global", "network", "disk-setup", "post-installation-webhook", "first-boot"]
REQUIRED = ["global", "network", "disk-setup", "global/country", "global/keyboard", "global/timezone", "global/fqdn",
            "global/mailto", "global/root-password-hashed", "network/source", "network/cidr", "network/dns",
            "network/gateway", "network/filter", "disk-setup/filesystem", "post-installation-webhook/url",
            "first-boot/source", "first-boot/url"]  # fmt: skip
TEXTS = [place for place in REQUIRED if "/" in place and not place.endswith("filter")]
LETTERS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=9)
SPOILED: st.SearchStrategy[Spoil] = st.one_of(
    st.builds(lambda table, key: put(f"{table}/x-{key}", 1), st.sampled_from(TABLES), LETTERS),
    st.builds(lambda key, value: put(f"x-{key}", value), LETTERS, st.just({}) | st.just(1)),
    st.builds(drop, st.sampled_from(REQUIRED)),
    st.builds(put, st.sampled_from(TEXTS), st.booleans() | st.integers() | st.just([]) | st.just({"a": 1})),
    st.builds(put, st.sampled_from(TABLES), st.integers() | st.text(max_size=3)),
    st.sampled_from([
        put("global/root-password", "Sesame-12"), put("global/country", "xx"), put("global/keyboard", "xx"),
        put("global/timezone", "US/Eastern"), put("global/timezone", "Europe/Kiev"), put("global/mailto", "a b@c"),
        put("global/fqdn", "1.lab.local"), put("global/fqdn", "node2"), put("global/reboot-on-error", 1),
        put("global/reboot-mode", "halt"), put("global/root-ssh-keys", "key"), put("global/root_ssh_keys", []),
        put("global/fqdn", {"source": "from-answer"}), put("network/source", "from-dhcp"),
        put("network/cidr", "10.0.0.1"), put("network/cidr", "10.0.0.1/255.0.0.0"), put("network/cidr", "10.0.0.1/33"),
        put("network/dns", "10.0.0.1,10.0.0.2"), put("network/filter", {}), put("network/filter", {"A": "**"}),
        put("network/filter-match", "any"), put("network/interface-name-pinning", {}),
        put("network/interface-name-pinning", {"enabled": True, "mapping": {"02:00:00:00:00:01": "x"}}),
        put("network/interface-name-pinning", {"enabled": True, "mapping": {"a": "x1", "b": "x1"}}),
        put("disk-setup/filter-match", "none"), put("disk-setup/filesystem", "ext3"),
        put("disk-setup/lvm", {"maxvz": "0"}), put("disk-setup/lvm", {"maxvz": -1}),
        put("disk-setup/filter", {"ID_MODEL": "a[b"}), put("disk-setup/disk-list", "sda"),
        put("disk-setup/zfs", {"raid": "raid7"}), put("disk-setup/zfs", {"raid": "Raid1"}),
        put("disk-setup/btrfs", {"raid": "raidz-1"}), put("first-boot/ordering", "last"),
    ]),
)  # fmt: skip


@given(node=nodes(), spoil=SPOILED, newer=st.booleans())
def test_a_spoiled_answer_neither_judge_takes(node: Node, spoil: Spoil, newer: bool) -> None:
    toml, text = forms(LAB, node)
    answer = json.loads(text) if newer else copy.deepcopy(preview(LAB, node))
    spoil(answer)
    spoiled = json.dumps(answer) if newer else tomli_w.dumps(answer)
    found = faults_of_json(spoiled) if newer else faults_of_toml(spoiled)
    assert installer_refuses(found), f"{spoiled} is taken: {found}; it was {toml}"
    with pytest.raises(InvalidAnswer):
        read(spoiled.encode(), "application/json" if newer else "application/toml")


WORDS = ["raid0", "RAID1", "raidz-1", "on", "off", "zstd", "any", "all", "reboot", "UTC", "de", "en-us", "10.0.0.1", "::1",
         "10.0.0.1/24", "fe80::1/64", "fe80::1%a", "from-iso", "from-url", "from-dhcp", "from-answer", "fully-up", "a.b",
         "a@b", "http://x/y", "*", "a**", "sda", "$6$x", "ext4", "btrfs", ""]  # fmt: skip
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 5000), st.sampled_from([0.5, 2.0, 40.5]), st.sampled_from(WORDS),
    st.lists(st.sampled_from(["sda", "sdb", "sdc"]), max_size=4), st.just({}), st.just({"raid": "raid0"}),
    st.just({"enabled": True}), st.just({"hdsize": 3, "swapsize": 2}), st.just({"source": "from-dhcp"}),
    st.just({"A": "b"}),
)  # fmt: skip
KEYS = {
    "global": "country keyboard timezone fqdn mailto root-password root-password-hashed root-ssh-keys reboot-on-error "
              "reboot-mode subscription-key root_password reboot_mode",
    "network": "source cidr dns gateway filter interface-name-pinning",
    "disk-setup": "filesystem disk-list filter filter-match zfs lvm btrfs disk_list",
    "disk-setup/zfs": "raid ashift arc-max checksum compress copies hdsize arc_max",
    "disk-setup/lvm": "hdsize swapsize maxroot maxvz minfree",
    "disk-setup/btrfs": "raid compress hdsize",
    "post-installation-webhook": "url auth-token auth_token",
    "first-boot": "source url ordering",
}  # fmt: skip
PLACES = st.sampled_from([f"{table}/{key}" for table, keys in KEYS.items() for key in keys.split()])
STRICTER = ("hdsize", "maxroot")
"""Where ours goes by the least that Proxmox's schema allows, which the installer does not try."""


@given(node=nodes(), place=PLACES, value=ODD)
def test_of_whatever_stands_anywhere_both_judges_think_the_same(node: Node, place: str, value: Any) -> None:
    answer = json.loads(forms(LAB, node)[1])
    put(place, copy.deepcopy(value))(answer)
    text = json.dumps(answer)
    found = [each for each in faults_of_json(text) if not each.place.endswith(STRICTER)]
    try:
        read(text.encode(), "application/json")
        said = None
    except InvalidAnswer as refusal:
        said = str(refusal)
    assert installer_refuses(found) == bool(said) or (said and place.endswith(STRICTER)), f"{found}; {said}"

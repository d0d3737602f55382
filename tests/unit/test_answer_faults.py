"""The harness's own judgement of an answer: every rule of the installer, each at its place, and every trap."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from provision.answer_rules import (
    faults_of,
    faults_of_json,
    faults_of_toml,
    installer_refuses,
    tool_refuses,
)
from provision.answer_values import Fault
from tests.answers import GONE, GOOD, answer

HASH, MAC = "$6$x$y", "ac:1f:6b:6c:5a:76"
PIN = "network/interface-name-pinning"


def faults(changes: dict[str, Any]) -> list[Fault]:
    return faults_of(answer(changes))


def places(changes: dict[str, Any], weight: str = "refused") -> list[str]:
    return [fault.place for fault in faults(changes) if fault.weight == weight]


def raid(kind: str, level: object, **more: object) -> dict[str, Any]:
    return {"disk-setup/filesystem": kind, f"disk-setup/{kind}": {"raid": level, **more}}


def listed(*disks: str) -> dict[str, Any]:
    return {"disk-setup/filter": GONE, "disk-setup/disk-list": list(disks)}


def test_a_good_answer_has_no_fault_in_either_form() -> None:
    assert faults_of_toml(tomli_w.dumps(GOOD)) == []
    assert faults_of_json(json.dumps(GOOD)) == []
    assert (installer_refuses([]), tool_refuses([])) == (False, False)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("bogus", 1), ("global/bogus", 1), ("network/bogus", 1), ("disk-setup/bogus", 1), ("first-boot/bogus", 1),
        ("disk-setup/lvm/bogus", 1), ("post-installation-webhook/bogus", 1), ("disk_setup", {}),
        ("first_boot", {}), ("network/interface_name_pinning", {}), ("network/filter-match", "all"),
        ("global", GONE), ("network", GONE), ("disk-setup", GONE), ("global", 1), ("network", []),
        ("global/country", GONE), ("global/country", "AT"), ("global/country", "xx"), ("global/country", 1),
        ("global/keyboard", "en"), ("global/keyboard", GONE), ("global/timezone", "Europe/Nowhere"),
        ("global/timezone", "US/Eastern"), ("global/timezone", "utc"), ("global/timezone", "Etc/UTC"),
        ("global/fqdn", "node1"), ("global/fqdn", "1234.lab.local"), ("global/fqdn", "-a.lab.local"),
        ("global/fqdn", "a_b.lab.local"), ("global/fqdn", f"{'a' * 64}.lab.local"),
        ("global/fqdn", ".".join(["a" * 60] * 5)), ("global/fqdn", 1), ("global/fqdn", GONE),
        ("global/mailto", "mail@example.invalid"), ("global/mailto", "root"), ("global/mailto", "a@-b.de"),
        ("global/root-password", "long-enough"), ("global/reboot-mode", "halt"),
        ("global/reboot-on-error", "yes"), ("global/reboot-on-error", 1), ("global/root-ssh-keys", "ssh-rsa A"),
        ("global/root-ssh-keys", [1]), ("global/subscription-key", "pve2c-xyz"),
        ("network/source", "static"), ("network/source", GONE), ("network/cidr", "10.10.1.21"),
        ("network/cidr", "10.10.1.300/24"), ("network/cidr", "10.10.1.2/255.255.255.0"), ("network/cidr", GONE),
        ("network/cidr", "10.0.0.1/33"), ("network/dns", "10.10.1.1 10.10.1.2"), ("network/gateway", 5),
        ("network/gateway", "fe80::1%eth0"), ("network/filter", {}), ("network/filter", {"ID_PATH": 1}),
        ("network/filter/ID_NET_NAME_MAC", "a**"), ("disk-setup/filter/ID_SERIAL_SHORT", "S3[Z8"),
        (f"{PIN}/mapping", {MAC: "mgmt0"}), (f"{PIN}", {"enabled": "yes"}),
        ("disk-setup/filesystem", "ext3"), ("disk-setup/filter-match", "some"),
        ("disk-setup/zfs", {"raid": "raid0"}), ("disk-setup/btrfs", {"raid": "raid0"}),
        ("disk-setup/lvm", {"maxvz": -1}), ("disk-setup/lvm", {"maxvz": "0"}), ("disk-setup/lvm", {"maxvz": True}),
        ("disk-setup/lvm", {"hdsize": 1}), ("disk-setup/lvm", {"hdsize": float("nan")}),
        ("first-boot/source", "from-disk"), ("first-boot/ordering", "last"), ("first-boot/url", GONE),
        ("first-boot/cert-fingerprint", "ab:cd"), ("post-installation-webhook/url", "10.10.1.1/x"),
        ("post-installation-webhook/url", GONE),
    ],
)  # fmt: skip
def test_what_the_installer_refuses_is_told_at_its_place(place: str, value: object) -> None:
    found = [fault for fault in faults({place: value}) if fault.weight == "refused"]
    assert found, "nothing was found"
    assert all(fault.place.startswith(place.replace("/", ".").split(".mapping")[0]) for fault in found), found
    assert tool_refuses(found)


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"global/root-password-hashed": GONE}, "global"),
        ({"global/root-password-hashed": GONE, "global/root-password": "1234567"}, "global.root-password"),
        ({"disk-setup/filter": GONE}, "disk-setup"),
        ({"disk-setup/disk-list": ["sda"]}, "disk-setup"),
        (listed("sda", "sdb"), "disk-setup.disk-list"),
        ({"disk-setup/lvm": {"hdsize": 10, "swapsize": 6}}, "disk-setup.lvm.swapsize"),
        ({"disk-setup/filesystem": "zfs"}, "disk-setup.zfs.raid"),
        ({"disk-setup/filesystem": "btrfs", "disk-setup/btrfs": {}}, "disk-setup.btrfs.raid"),
        ({"disk-setup/lvm": {}, **raid("zfs", "raid0")}, "disk-setup.lvm"),
        (raid("zfs", "raid5"), "disk-setup.zfs.raid"),
        (raid("zfs", "Raid1"), "disk-setup.zfs.raid"),
        (raid("btrfs", "raidz-1"), "disk-setup.btrfs.raid"),
        (raid("zfs", "raid0", ashift=8), "disk-setup.zfs.ashift"),
        (raid("zfs", "raid0", **{"arc-max": 63}), "disk-setup.zfs.arc-max"),
        (raid("zfs", "raid0", compress="lzo"), "disk-setup.zfs.compress"),
        (raid("zfs", "raid0", checksum="md5"), "disk-setup.zfs.checksum"),
        (raid("zfs", "raid0", copies=4), "disk-setup.zfs.copies"),
        (raid("btrfs", "raid0", compress="lz4"), "disk-setup.btrfs.compress"),
        ({**raid("zfs", "raid1"), **listed("sda")}, "disk-setup.disk-list"),
        ({**raid("zfs", "raid1"), **listed("sda", "sda")}, "disk-setup.disk-list"),
        ({**raid("zfs", "raid10"), **listed("sda", "sdb", "sdc", "sdd", "sde")}, "disk-setup.disk-list"),
        ({**raid("btrfs", "RAID10"), **listed("sda", "sdb")}, "disk-setup.disk-list"),
        ({f"{PIN}": {"enabled": True, "mapping": {MAC: "a"}}}, f"network.interface-name-pinning.mapping.{MAC}"),
        ({f"{PIN}": {"enabled": True, "mapping": {MAC: "x1", "02:00:00:00:00:01": "x1"}}},
         "network.interface-name-pinning.mapping.02:00:00:00:00:01"),
        ({"network/source": "from-dhcp", "network/cidr": GONE, "network/dns": GONE, "network/filter": GONE},
         "network.gateway"),
        ({"global/fqdn": {"source": "from-answer"}}, "global.fqdn.source"),
        ({"global/fqdn": {"name": "x"}}, "global.fqdn.name"),
        ({"global/root_ssh_keys": []}, "global.root_ssh_keys"),
        ({"disk-setup/filter": GONE, "disk-setup/disk-list": "sda"}, "disk-setup.disk-list"),
    ],
)  # fmt: skip
def test_what_several_keys_break_together_is_told_at_one_place(changes: dict[str, Any], at: str) -> None:
    assert places(changes) == [at]


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"disk-setup/filter-match": "all"}, "disk-setup.filter-match"),
        ({**raid("zfs", "raid0"), "disk-setup/filter-match": "all"}, "disk-setup.filter-match"),
        ({"disk-setup/filter/ID_WWN": "0x*"}, "disk-setup.filter"),
        ({"network/filter/INTERFACE": "eno1"}, "network.filter"),
        ({**raid("zfs", "raid1"), "disk-setup/filter": {"ID_WWN": "0x1"}}, "disk-setup.filter"),
        (listed("/dev/disk/by-id/wwn-0x1"), "disk-setup.disk-list.0"),
        ({f"{PIN}": {"enabled": False}}, "network.interface-name-pinning.enabled"),
        ({f"{PIN}": {"enabled": True, "mapping": {MAC.upper(): "mgmt0"}}},
         f"network.interface-name-pinning.mapping.{MAC.upper()}"),
        ({f"{PIN}": {"enabled": True, "mapping": {MAC: "nic0"}}}, f"network.interface-name-pinning.mapping.{MAC}"),
        ({"global/root-password-hashed": "Sesame-1"}, "global.root-password-hashed"),
        ({"global/root-password-hashed": GONE, "global/root-password": "Sesame-12"}, "global.root-password"),
        ({"first-boot/source": "from-iso"}, "first-boot.url"),
        ({"post-installation-webhook/url": "https://10.10.1.1/x"}, "post-installation-webhook.url"),
    ],
)  # fmt: skip
def test_a_trap_is_told_and_refused_by_nobody(changes: dict[str, Any], at: str) -> None:
    found = faults(changes)
    assert [(fault.place, fault.weight) for fault in found] == [(at, "trap")]
    assert (installer_refuses(found), tool_refuses(found)) == (False, False)
    assert str(found[0]).endswith("(trap)")


def test_what_may_have_no_better_way_is_a_note() -> None:
    (note,) = faults({**raid("zfs", "raid1"), **listed("sda", "sdb")})
    assert (note.place, note.weight) == ("disk-setup.disk-list", "note")
    assert (installer_refuses([note]), tool_refuses([note])) == (False, False)


def test_old_names_are_minded_by_the_official_tool_alone() -> None:
    old = {"global/root-password-hashed": GONE, "global/root_password_hashed": HASH, "global/reboot_on_error": True,
           "post-installation-webhook/auth_token": "t", "disk-setup/filter_match": "any",
           **raid("zfs", "raid0", arc_max=64)}  # fmt: skip
    found = faults(old)
    assert {fault.place for fault in found} == {
        "global.root_password_hashed", "global.reboot_on_error", "post-installation-webhook.auth_token",
        "disk-setup.filter_match", "disk-setup.zfs.arc_max",
    }  # fmt: skip
    assert (installer_refuses(found), tool_refuses(found)) == (False, True)


def test_every_fault_is_told_at_once() -> None:
    wrong = {"global/country": "xx", "global/keyboard": "xx", "network/cidr": GONE, "first-boot/bogus": 1}
    assert sorted(places(wrong)) == ["first-boot.bogus", "global.country", "global.keyboard", "network.cidr"]


def test_a_typo_is_answered_by_the_key_that_was_meant() -> None:
    (fault,) = faults({"disk-setup/filesytem": "ext4"})
    assert str(fault) == 'disk-setup.filesytem: is an unknown key; did you mean "filesystem"?'


@pytest.mark.parametrize("secret", ["sesame1", "sesame-long-enough"])
def test_no_fault_repeats_a_password(secret: str) -> None:
    for changes in ({"global/root-password": secret}, {"global/root-password-hashed": secret},
                    {"global/subscription-key": secret}, {"global/root-password": [secret]}):  # fmt: skip
        assert secret not in " ".join(map(str, faults(changes)))


def test_older_installers_know_less() -> None:
    newer = {"global/subscription-key": "pve1c-0123456789", "post-installation-webhook/auth-token": "t"}
    assert faults(newer) == []
    told = {fault.place for fault in faults_of(answer(newer), (9, 1))}
    assert told == {"global.subscription-key", "post-installation-webhook.auth-token"}
    pinned = {PIN: {"enabled": True, "mapping": {MAC: "mgmt0"}}}
    assert [str(fault) for fault in faults_of(answer(pinned), (9, 0))] == [
        "network.interface-name-pinning: is for installers from 9.1 on; older ones refuse it"
    ]
    assert installer_refuses(faults_of_json(json.dumps(GOOD), (9, 1)))


def test_what_is_allowed_although_one_would_not_think_so() -> None:
    dhcp = {"network/cidr": GONE, "network/gateway": GONE, "network/dns": GONE, "network/filter": GONE}
    for changes in (
        {**dhcp, "network/source": "from-dhcp", PIN: {"enabled": True}}, {"global/fqdn": {"domain": "lab.local"}},
        raid("zfs", "RAIDZ-1"), {"disk-setup/lvm": {"hdsize": 10, "swapsize": 5, "maxvz": 0}},
        {"disk-setup/filter": {"ID_MODEL": "S[]]*"}}, {"global/timezone": "Europe/Vienna"}, listed("nvme0n1"),
    ):  # fmt: skip
        assert faults(changes) == []


@pytest.mark.parametrize("text", ["", "not toml", "[global]\n[global]\n", "a = " + "[" * 5000])
def test_what_is_no_toml_or_no_answer(text: str) -> None:
    assert installer_refuses(faults_of_toml(text))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"global": {}, "global": {}}', "[" * 100_000])
def test_what_is_no_json_or_no_answer(text: str) -> None:
    assert installer_refuses(faults_of_json(text))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
PLACES = st.sampled_from(sorted({"/".join(path) for path in (
    ("global",), ("network",), ("disk-setup",), ("first-boot",), ("post-installation-webhook",), ("global", "fqdn"),
    ("global", "root-password"), ("network", "filter"), ("network", "source"), ("network", "interface-name-pinning"),
    ("disk-setup", "zfs"), ("disk-setup", "lvm"), ("disk-setup", "disk-list"), ("disk-setup", "filter"),
    ("disk-setup", "filesystem"),
)}))  # fmt: skip


@given(changes=st.dictionaries(PLACES, VALUES, max_size=1))
def test_whatever_stands_there_is_judged_and_not_stumbled_over(changes: dict[str, Any]) -> None:
    for fault in faults_of(answer(changes)):
        assert fault.words


@given(text=st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_is_judged(text: str | bytes) -> None:
    assert faults_of_toml(text)
    assert faults_of_json(text)

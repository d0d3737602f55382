"""Every rule by which the installer refuses an answer, and what it takes although one would not think so."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tomli_w

from tests.answers import GONE, GOOD, answer
from virtual_lab import udev
from virtual_lab.answer import COUNTRIES, KEYBOARDS, InvalidAnswer, check_disk_count, read


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(InvalidAnswer) as refused:
        read(tomli_w.dumps(answer(changes)).encode(), "application/toml")
    return str(refused.value)


def accepted(changes: dict[str, Any]) -> Any:
    return read(tomli_w.dumps(answer(changes)).encode(), "application/toml")


def test_a_good_answer_is_taken_as_toml_and_as_json() -> None:
    by_toml = accepted({})
    by_json = read(json.dumps(GOOD).encode(), "application/json; charset=utf-8")
    assert by_toml == by_json
    assert by_toml.first_boot.ordering == "fully-up"
    assert by_toml.global_.reboot_mode == "reboot"


def test_json_is_read_as_json_only_when_the_server_says_so() -> None:
    with pytest.raises(InvalidAnswer, match="could not parse"):
        read(json.dumps(GOOD).encode(), "application/toml")


@pytest.mark.parametrize("text", [b"", b"not toml", b"\xff\xfe", b"global = 1\n"])
def test_nonsense_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidAnswer):
        read(text, "text/plain")


@pytest.mark.parametrize(
    "place",
    ["bogus", "global/bogus", "network/bogus", "disk-setup/bogus", "disk-setup/lvm/bogus", "first-boot/bogus",
     "post-installation-webhook/bogus", "network/interface-name-pinning/bogus"],
)  # fmt: skip
def test_an_unknown_key_is_fatal_in_every_table(place: str) -> None:
    changes: dict[str, Any] = {place: 1}
    if "pinning" in place:
        changes["network/interface-name-pinning/enabled"] = True
    assert "unknown field `bogus`" in refusal(changes)


@pytest.mark.parametrize(
    "place",
    ["global", "network", "disk-setup", "global/country", "global/keyboard", "global/timezone", "global/fqdn",
     "global/mailto", "network/source", "network/cidr", "network/dns", "network/gateway",
     "disk-setup/filesystem", "post-installation-webhook/url", "first-boot/source"],
)  # fmt: skip
def test_what_is_required_is_missed(place: str) -> None:
    assert f"missing field `{place.rsplit('/', maxsplit=1)[-1]}`" in refusal({place: GONE})


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("global/country", "AT", "country code 'AT' is not valid"),
        ("global/country", "xx", "country code 'xx' is not valid"),
        ("global/keyboard", "en", "keyboard"),
        ("global/timezone", "Europe/Nowhere", "timezone"),
        ("global/timezone", "US/Eastern", "timezone"),
        ("global/timezone", "utc", "timezone"),
        ("global/timezone", "../etc/passwd", "timezone"),
        ("global/fqdn", "node1", "FQDN"),
        ("global/fqdn", "1234.lab.local", "purely numeric"),
        ("global/fqdn", "-a.lab.local", "FQDN"),
        ("global/fqdn", "a_b.lab.local", "FQDN"),
        ("global/fqdn", f"{'a' * 64}.lab.local", "FQDN"),
        ("global/fqdn", ".".join(["a" * 60] * 5), "FQDN"),
        ("global/mailto", "mail@example.invalid", "email"),
        ("global/mailto", "root", "email"),
        ("global/root-password-hashed", GONE, "must be set"),
        ("global/root-password", "long-enough", "cannot be set at the same time"),
        ("global/reboot-mode", "halt", "reboot-mode"),
        ("global/reboot-on-error", "yes", "reboot-on-error"),
        ("global/root-ssh-keys", "ssh-ed25519 AAAA", "root-ssh-keys"),
        ("global/subscription-key", "pve2c-xyz", "subscription"),
        ("network/source", "static", "source"),
        ("network/cidr", "10.10.1.21", "CIDR"),
        ("network/cidr", "10.10.1.300/24", "CIDR"),
        ("network/dns", "10.10.1.1 10.10.1.2", "IP address"),
        ("network/gateway", 5, "IP address"),
        ("network/filter", GONE, "no filter defined"),
        ("network/filter", {}, "no filter defined"),
        ("network/filter-match", "all", "unknown field"),
        ("disk-setup/filesystem", "ext3", "filesystem"),
        ("disk-setup/filter", GONE, "Need either 'disk-list' or 'filter' set"),
        ("disk-setup/disk-list", ["sda"], "Cannot use both, 'disk-list' and 'filter'"),
        ("disk-setup/filter-match", "some", "filter-match"),
        ("disk-setup/zfs", {"raid": "raid0"}, "make sure only 'lvm' options are set"),
        ("disk-setup/btrfs", {"raid": "raid0"}, "make sure only 'lvm' options are set"),
        ("disk-setup/lvm", {"hdsize": 10, "swapsize": 6}, "swapsize"),
        ("disk-setup/lvm", {"maxvz": -1}, "maxvz"),
        ("disk-setup/lvm", {"maxvz": "0"}, "maxvz"),
        ("first-boot/source", "from-disk", "source"),
        ("first-boot/ordering", "last", "ordering"),
        ("first-boot/url", GONE, "URL missing"),
        ("post-installation-webhook/url", "10.10.1.1/x", "URL"),
    ],
)
def test_a_wrong_value_is_refused(place: str, value: object, complaint: str) -> None:
    assert complaint in refusal({place: value})


def test_a_plain_password_has_eight_characters() -> None:
    changes = {"global/root-password-hashed": GONE, "global/root-password": "1234567"}
    assert "at least 8 characters" in refusal(changes)
    assert accepted(changes | {"global/root-password": "12345678"}).global_.root_password == "12345678"


@pytest.mark.parametrize(
    "changes",
    [
        {"disk-setup/filesystem": "zfs"},
        {"disk-setup/filesystem": "btrfs"},
        {"disk-setup/filesystem": "zfs", "disk-setup/lvm": {}},
        {"disk-setup/filesystem": "zfs", "disk-setup/zfs": {}},
        {"disk-setup/filesystem": "zfs", "disk-setup/zfs": {"raid": "raid5"}},
        {"disk-setup/filesystem": "zfs", "disk-setup/zfs": {"raid": "raid0", "ashift": 8}},
        {"disk-setup/filesystem": "zfs", "disk-setup/zfs": {"raid": "raid0", "arc-max": 63}},
        {"disk-setup/filesystem": "zfs", "disk-setup/zfs": {"raid": "raid0", "compress": "lzo"}},
        {"disk-setup/filesystem": "zfs", "disk-setup/zfs": {"raid": "raid0", "checksum": "md5"}},
        {"disk-setup/filesystem": "zfs", "disk-setup/zfs": {"raid": "raid0", "copies": 4}},
        {"disk-setup/filesystem": "btrfs", "disk-setup/btrfs": {"raid": "raidz-1"}},
        {"disk-setup/filesystem": "btrfs", "disk-setup/btrfs": {"raid": "raid0", "compress": "lz4"}},
    ],
)
def test_the_options_of_zfs_and_btrfs(changes: dict[str, Any]) -> None:
    assert refusal(changes)


def test_raid_levels_may_be_written_in_capitals() -> None:
    got = accepted({"disk-setup/filesystem": "zfs", "disk-setup/zfs": {"raid": "RAIDZ-1"}})
    assert (got.disk_setup.raid, got.disk_setup.label) == ("raidz-1", "zfs (RAIDZ-1)")


@pytest.mark.parametrize(
    ("raid", "disks", "fits"),
    [("raid0", 1, True), ("raid1", 1, False), ("raid1", 2, True), ("raid10", 3, False), ("raid10", 4, True),
     ("raid10", 5, False), ("raidz-1", 2, False), ("raidz-1", 3, True), ("raidz-2", 3, False),
     ("raidz-2", 4, True), ("raidz-3", 4, False), ("raidz-3", 5, True)],
)  # fmt: skip
def test_the_number_of_disks_suits_the_raid_level(raid: str, disks: int, fits: bool) -> None:
    names = [f"sd{letter}" for letter in "abcdefgh"[:disks]]
    changes = {"disk-setup/filesystem": "zfs", "disk-setup/zfs": {"raid": raid}, "disk-setup/filter": GONE,
               "disk-setup/disk-list": names}  # fmt: skip
    assert bool(accepted(changes)) if fits else bool(refusal(changes))


def test_ext4_takes_one_disk() -> None:
    changes = {"disk-setup/filter": GONE, "disk-setup/disk-list": ["sda", "sdb"]}
    assert "exactly one disk" in refusal(changes)
    with pytest.raises(ValueError, match="exactly one"):
        check_disk_count(accepted({}).disk_setup, 0)


def test_a_disk_is_listed_once() -> None:
    changes = {"disk-setup/filesystem": "zfs", "disk-setup/zfs": {"raid": "raid1"}, "disk-setup/filter": GONE,
               "disk-setup/disk-list": ["sda", "sda"]}  # fmt: skip
    assert "duplicate" in refusal(changes)


def test_old_names_are_still_read() -> None:
    got = accepted({"global/root-password-hashed": GONE, "global/root_password_hashed": "$6$a$b",
                    "global/root-ssh-keys": GONE, "global/root_ssh_keys": ["k"],
                    "global/reboot_on_error": True, "post-installation-webhook/auth_token": "t",
                    "disk-setup/filter_match": "all"})  # fmt: skip
    assert got.global_.root_password_hashed == "$6$a$b"
    assert got.global_.root_ssh_keys == ("k",)
    assert got.global_.reboot_on_error
    assert got.post_installation_webhook.auth_token == "t"
    assert got.disk_setup.filter_match == "all"


def test_an_old_name_beside_the_new_one_is_a_duplicate() -> None:
    assert "duplicate field `root-ssh-keys`" in refusal({"global/root_ssh_keys": []})


@pytest.mark.parametrize("place", ["disk_setup", "network/interface_name_pinning", "first_boot"])
def test_names_that_never_were_in_snake_case_are_unknown(place: str) -> None:
    assert "unknown field" in refusal({place: {}})


def test_udev_keys_keep_their_underscores() -> None:
    assert accepted({}).network.filter == {"ID_NET_NAME_MAC": "*ac1f6b6c5a76"}


def test_from_dhcp_takes_nothing_but_pinning() -> None:
    own = {"network/cidr": GONE, "network/gateway": GONE, "network/dns": GONE, "network/filter": GONE,
           "network/source": "from-dhcp"}  # fmt: skip
    assert accepted(own | {"network/interface-name-pinning": {"enabled": True}}).network.cidr is None
    assert "unknown field `gateway`" in refusal(own | {"network/gateway": "10.10.1.1"})


def test_a_name_from_dhcp() -> None:
    assert accepted({"global/fqdn": {"source": "from-dhcp", "domain": "lab.local"}})
    assert refusal({"global/fqdn": {"source": "from-answer"}})
    assert refusal({"global/fqdn": {"source": "from-dhcp", "name": "x"}})


@pytest.mark.parametrize("name", ["a", "1nic", "nic-0", "a" * 16, "nic 0", ""])
def test_names_of_nics(name: str) -> None:
    assert "interface name" in refusal(
        {"network/interface-name-pinning": {"enabled": True, "mapping": {"ac:1f:6b:6c:5a:76": name}}}
    )


def test_pinned_names_are_distinct_and_macs_of_any_case() -> None:
    pinning = {"enabled": True, "mapping": {"AC:1F:6B:6C:5A:76": "mgmt0", "ac:1f:6b:6c:5a:77": "ceph0"}}
    got = accepted({"network/interface-name-pinning": pinning}).network.interface_name_pinning
    assert got.name_of("ac:1f:6b:6c:5a:76") == "mgmt0"
    pinning["mapping"] = dict.fromkeys(("ac:1f:6b:6c:5a:76", "ac:1f:6b:6c:5a:77"), "same0")
    assert "duplicate" in refusal({"network/interface-name-pinning": pinning})


def test_the_lists_are_whole() -> None:
    assert len(KEYBOARDS) == 25
    assert len(COUNTRIES) == 249
    assert all(len(code) == 2 for code in COUNTRIES)


NICS = [
    udev.Device("eno3", {"ID_NET_NAME_MAC": "enx02", "ID_PATH": "pci-3"}),
    udev.Device("eno1", {"ID_NET_NAME_MAC": "enx01", "ID_PATH": "pci-1"}),
]
DISKS = [
    udev.Device(index, {"DEVNAME": f"/dev/sd{letter}", "ID_MODEL": "M", **more})
    for index, letter, more in [("2", "c", {"ID_WWN": "0x1"}), ("10", "k", {"ID_WWN": "0x2"}), ("0", "a", {})]
]


def names(devices: tuple[udev.Device, ...]) -> list[str]:
    return [device.name for device in devices]


def test_any_key_of_a_nic_filter_matches_and_the_first_name_wins() -> None:
    found = udev.first_match(NICS, {"ID_NET_NAME_MAC": "enx02", "ID_PATH": "pci-1"})
    assert found is not None
    assert found.name == "eno1"
    assert udev.first_match(NICS, {"ID_NET_NAME_MAC": "*03"}) is None
    assert udev.first_match(NICS, {"ID_NET_NAME_MAC": "nx01"}) is None, "the whole value has to match"
    assert udev.first_match(NICS, {"ID_NET_NAME_MAC": "ENX01"}) is None, "case matters"


def test_disks_are_tried_in_the_order_of_their_index_as_text() -> None:
    found = udev.first_match(DISKS, {"ID_WWN": "0x?"})
    assert found is not None
    assert found.name == "10"


def test_a_disk_without_the_key_passes_a_filter_that_asks_for_all() -> None:
    assert names(udev.all_matches(DISKS, {"ID_MODEL": "M", "ID_WWN": "0x[!2]"}, "all")) == ["2", "0"]
    assert names(udev.all_matches(DISKS, {"ID_WWN": "0x*"}, "any")) == ["2", "10"]


def test_a_listed_disk_that_is_not_there_is_dropped() -> None:
    assert names(udev.listed(DISKS, ["sda", "sdz", "nvme0n1"])) == ["0"]
    assert udev.listed(DISKS, ["/dev/disk/by-id/wwn-0x1"]) == ()

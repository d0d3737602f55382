"""What Ubuntu's installer is handed, held against its published rules (canonical/subiquity, release 24.04)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import inventory
from provision.boot_service.messages import Grant
from provision.certificate import Certificate
from provision.handed import handed
from provision.inventory import Lab, Node, Secret
from provision.password_hash import crypt
from provision.permit import Permit
from virtual_lab import autoinstall as played
from virtual_lab.ipxe import _commands

ROOT = Path(__file__).parents[2]
PASSWORD = "canary-Sesame-2"
CERTIFICATE = Certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ root@mgmt"

# autoinstall-schema.json: the keys of objects that take no other, and the types of those that we write.
CLOSED = {"identity": {"realname", "username", "hostname", "password", "groups"},
          "keyboard": {"layout", "variant", "toggle"}}  # fmt: skip
TYPES = {
    "version": int, "locale": str, "keyboard": dict, "timezone": str, "identity": dict, "ssh": dict,
    "early-commands": list, "storage": dict, "packages": list, "apt": dict, "network": dict, "user-data": dict,
    "late-commands": list, "error-commands": list, "reporting": dict, "shutdown": str,
}  # fmt: skip


def ubuntu(node: Node, **fields: Any) -> Node:
    update = {"os": "ubuntu-24.04", "root_password": Secret.known(PASSWORD), "ssh_keys": (KEY,), **fields}
    return node.model_copy(update=update)


@pytest.fixture
def lab() -> Lab:
    return inventory.load(ROOT / "labs" / "virtual.yaml", {})


def texts_for(lab: Lab, **fields: Any) -> dict[str, Any]:
    node = ubuntu(lab.nodes["node2"], **fields)
    permit = Permit(node, "run-1", 0.0, "answer-token", "report-token", "hook-token", "0123456789abcdef")
    return handed(lab, permit, CERTIFICATE)


def autoinstall(text: str) -> dict[str, Any]:
    """As cloud-init takes it: the first line names the format, the rest is YAML, and one key is the installer's."""
    head, _, rest = text.partition("\n")
    assert head == "#cloud-config"
    config = yaml.safe_load(rest)
    assert set(config) == {"autoinstall"}
    return dict(config["autoinstall"])


def test_it_is_what_a_grant_carries(lab: Lab) -> None:
    digests = dict.fromkeys(("answer_token_sha256", "report_token_sha256"), "5a" * 32)
    grant = Grant(run="run-1", lab="virtual", node="node2", expires=1.0, **digests, **texts_for(lab))
    assert (grant.system, grant.private_boot, grant.answer_json) == ("ubuntu", True, None)


def test_the_user_data_obeys_the_installers_schema(lab: Lab) -> None:
    config = autoinstall(texts_for(lab)["answer"])
    assert {key: type(value) for key, value in config.items()} == TYPES
    assert config["version"] == 1
    for key, allowed in CLOSED.items():
        assert set(config[key]) <= allowed
    assert {"username", "hostname", "password"} <= set(config["identity"])
    assert "layout" in config["keyboard"]
    for command in config["late-commands"] + config["error-commands"]:
        assert all(isinstance(word, str) for word in command)
    assert all("type" in destination for destination in config["reporting"].values())
    assert config["shutdown"] in ("reboot", "poweroff")
    assert config["network"]["version"] == 2


def test_the_disk_is_the_one_of_the_lab_file(lab: Lab) -> None:
    disk = lab.nodes["node2"].disk
    for fields, match in [
        ({}, {"serial": "*RPVDISK0000002*"}),
        ({"serial": None, "model": "SAMSUNG MZ7*"}, {"model": "SAMSUNG MZ7*"}),
        ({"serial": None, "device": "sda"}, {"path": "/dev/sda"}),
        ({"serial": None, "wwn": "0x5002538*"}, {"path": "/dev/disk-with-the-wwn"}),
    ]:
        config = autoinstall(texts_for(lab, disk=disk.model_copy(update=fields))["answer"])
        assert config["storage"] == {"layout": {"name": "direct", "match": match}}


def test_a_logical_volume_takes_the_whole_disk(lab: Lab) -> None:
    config = autoinstall(texts_for(lab, storage_layout="lvm")["answer"])
    match = {"serial": "*RPVDISK0000002*"}
    assert config["storage"] == {"layout": {"name": "lvm", "sizing-policy": "all", "match": match}}


def test_packages_are_the_installers_work(lab: Lab) -> None:
    assert autoinstall(texts_for(lab, packages=("htop",))["answer"])["packages"] == ["htop"]


def test_nothing_of_it_is_what_a_stricter_installer_refuses(lab: Lab) -> None:
    played.check(autoinstall(texts_for(lab, storage_layout="lvm", packages=("htop",))["answer"]))


LINKS = {"wwn-0x5002538e1": "sda", "wwn-0x5002538e1-part1": "sda1", "wwn-0x50014ee2": "sdb",
         "ata-DISK_0x5002538e1": "sda", "nvme-eui.0025385": "nvme0n1"}  # fmt: skip


@pytest.mark.parametrize(
    ("wwn", "found"),
    [("0x5002538*", "sda"), ("eui.0025385", "nvme0n1"), ("0x500*", None), ("0x5002538e2", None)],
)
def test_the_disk_with_a_wwn_is_found_before_the_disk_is_chosen(
    lab: Lab, tmp_path: Path, wwn: str, found: str | None
) -> None:
    text = texts_for(lab, disk=lab.nodes["node2"].disk.model_copy(update={"serial": None, "wwn": wwn}))
    [[_, _, script]] = autoinstall(text["answer"])["early-commands"]
    config, folder = tmp_path / "autoinstall.yaml", tmp_path / "by-id"
    config.write_text("path: /dev/disk-with-the-wwn\n")
    folder.mkdir()
    for name, disk in LINKS.items():
        (folder / name).symlink_to(tmp_path / disk)
    script = script.replace("/autoinstall.yaml", str(config)).replace("/dev/disk/by-id", str(folder))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert config.read_text() == f"path: {tmp_path / found if found else '/dev/disk-with-the-wwn'}\n"
    assert (done.returncode == 0, "Failed to find one disk" in done.stderr) == (bool(found), not found)


def test_the_networks_are_the_lab_files(lab: Lab) -> None:
    network = autoinstall(texts_for(lab)["answer"])["network"]
    assert network["ethernets"]["eno1"] == {
        "match": {"macaddress": "52:54:00:a1:01:22"}, "set-name": "eno1", "dhcp4": False, "mtu": 1500,
    }  # fmt: skip
    assert network["bridges"]["vmbr0"] == {
        "interfaces": ["eno1"], "dhcp4": False, "addresses": ["10.10.1.22/24"], "mtu": 1500,
        "parameters": {"stp": False, "forward-delay": 0},
        "routes": [{"to": "default", "via": "10.10.1.1"}],
        "nameservers": {"addresses": ["10.10.1.1"], "search": ["lab.example.net"]},
    }  # fmt: skip
    storage = network["bridges"]["vmbr1"]
    assert (storage["mtu"], storage["addresses"], "routes" in storage) == (9000, ["10.10.2.22/24"], False)
    unnamed = autoinstall(texts_for(lab, macs={})["answer"])["network"]["ethernets"]["eno3"]
    assert unnamed == {"dhcp4": False, "mtu": 9000}


def test_root_gets_in_by_keys_and_the_password_is_hashed(lab: Lab) -> None:
    text = texts_for(lab)["answer"]
    config = autoinstall(text)
    assert PASSWORD not in text
    hashed = config["identity"]["password"]
    assert hashed.startswith("$y$") and crypt(PASSWORD, hashed) == hashed
    assert config["ssh"] == {"install-server": True, "allow-pw": False, "authorized-keys": [KEY]}
    assert config["user-data"]["ssh_authorized_keys"] == [KEY]
    assert config["user-data"]["disable_root"] is False
    assert config["user-data"]["chpasswd"]["users"][0]["password"] == config["identity"]["password"]


def test_the_installer_reports_to_its_own_path_and_fetches_first_boot_by_tls(lab: Lab) -> None:
    config = autoinstall(texts_for(lab)["answer"])
    assert config["reporting"]["rackproof"]["endpoint"] == "http://10.10.1.1/seed/report-token/reporting"
    [[*_, install]] = config["late-commands"]
    assert "https://10.10.1.1/first-boot/report-token" in install
    assert "https://10.10.1.1/report/report-token" in install
    assert CERTIFICATE.pem in install


@pytest.mark.parametrize("which", ["late-commands", "error-commands", "first_boot"])
def test_every_script_is_one_that_bash_can_read(lab: Lab, which: str) -> None:
    texts = texts_for(lab)
    script = texts["first_boot"] if which == "first_boot" else autoinstall(texts["answer"])[which][0][-1]
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_boot_scripts_hand_the_seed_on_in_one_word(lab: Lab) -> None:
    texts = texts_for(lab)
    seed = "ds=nocloud;s=http://10.10.1.1/seed/answer-token/"
    kernel = next(line for line in texts["boot_script"].splitlines() if line.startswith("kernel "))
    [(_, words)] = _commands(kernel.split())  # one command: the ; ends none
    assert {seed, "autoinstall", "ip=dhcp", "cloud-config-url=/dev/null"} <= set(words)
    assert "iso-url=http://10.10.1.1/media/ubuntu-24.04/ubuntu.iso" in words
    linux = next(line for line in texts["grub_script"].splitlines() if line.startswith("linux "))
    assert f"'{seed}'" in linux.split()
    assert "newc:" not in texts["grub_script"]


def test_the_keyboard_is_x11s(lab: Lab) -> None:
    for keyboard, asked in {"de": ("de", ""), "en-us": ("us", ""), "de-ch": ("ch", "de")}.items():
        locale = lab.nodes["node2"].locale.model_copy(update={"keyboard": keyboard})
        got = autoinstall(texts_for(lab, locale=locale)["answer"])["keyboard"]
        assert (got["layout"], got["variant"]) == asked


@settings(deadline=None, max_examples=50)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_whatever_a_field_holds_it_stays_that_field(text: str) -> None:
    lab = inventory.load(ROOT / "labs" / "virtual.yaml", {})
    disk = lab.nodes["node2"].disk.model_copy(update={"serial": None, "model": text})
    config = autoinstall(texts_for(lab, disk=disk, ssh_keys=(text,))["answer"])
    assert config["storage"]["layout"]["match"] == {"model": text}
    assert config["ssh"]["authorized-keys"] == [text]
    assert set(config) == set(TYPES)


def test_marks_stand_wherever_a_standing_order_replaces_them(lab: Lab) -> None:
    """What each permit has of its own may be put in later, by plain replacement of marks."""
    node = ubuntu(lab.nodes["node2"])
    marks = Permit(node, "@RUN@", 0.0, "@ANSWER_TOKEN@", "@REPORT_TOKEN@", "@HOOK_TOKEN@", "@NONCE@")
    texts = handed(lab, marks, CERTIFICATE)
    assert "/seed/@ANSWER_TOKEN@/" in texts["boot_script"]
    filled = re.sub("@REPORT_TOKEN@", "-t_0-", texts["answer"])
    assert autoinstall(filled)["reporting"]["rackproof"]["endpoint"].endswith("/seed/-t_0-/reporting")

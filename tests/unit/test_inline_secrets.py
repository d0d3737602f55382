"""A secret in a place where no reference can stand is found, named by its place, and not repeated."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import inventory
from provision.errors import InventoryError
from provision.inventory.inline import has_login, plain_password, private_keys

ROOT = Path(__file__).parents[2]
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n"
AGE = "AGE-SECRET-KEY-1HUNTER2"
IMAGE = "http://images.example.net/noble-server-cloudimg-amd64.img"


def told(change: dict[str, Any], folder: Path) -> list[str]:
    """What is wrong with the default lab after a change, `{"nodes.node1.x": …}`, line numbers left out."""
    lab = yaml.safe_load((ROOT / "labs/virtual.yaml").read_text())
    for path, value in change.items():
        *parts, last = (int(part) if part.isdigit() else part for part in path.split("."))
        inner = lab
        for part in parts:
            inner = inner[part]
        inner[last] = value
    (folder / "lab.yaml").write_text(yaml.safe_dump(lab, sort_keys=False))
    with pytest.raises(InventoryError) as caught:
        inventory.load(folder / "lab.yaml")
    assert "hunter2" not in str(caught.value).lower()
    return [f"{mistake.place}: {mistake.message}" for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("defaults.root_password", PEM, "defaults.root_password: holds a private key"),
        ("nodes.node1.ssh_keys", [PEM], "nodes.node1.ssh_keys: holds a private key"),
        ("nodes.node1.serial", AGE.lower(), "nodes.node1.serial: holds a private key"),
        ("identity", {"text": PEM}, "identity.text: holds a private key"),
        ("server.host_key", PEM, "server.host_key: holds a private key"),
        ("templates.9000.cloud_init", f"ssh_keys: {{ed25519_private: {AGE}}}", "templates.9000.cloud_init: holds"),
        ("templates.9000.cloud_init", "password: hunter2", "has a password as it is at password"),
        ("templates.9000.cloud_init", "users: [{name: a, plain_text_passwd: hunter2}]", "at users.plain_text_passwd"),
        ("templates.9000.cloud_init", "users: [{name: a, passwd: hunter2}]", "at users.passwd"),
        ("templates.9000.cloud_init", "chpasswd: {list: 'root:hunter2'}", "at chpasswd.list"),
        ("templates.9000.cloud_init", "chpasswd: {list: [root:hunter2]}", "at chpasswd.list"),
        ("templates.9000.image.url", IMAGE.replace("//", "//bob:hunter2@"), "image.url: has a log-in in it"),
        ("templates.9000.image.url", "ftp://bob:hunter2@x/y", "image.url: has a log-in in it"),
        ("templates.9000.image.mirrors", [IMAGE.replace("//", "//hunter2@")], "image.mirrors: has a log-in in it"),
        ("server.host", "ssh:root:hunter2@10.10.1.1", "server.host: must be local or ssh:user@host"),
        ("nodes.node1.password", "hunter2", "nodes.node1.password: is an unknown key"),
        ("defaults.bmc.passwd", "hunter2", "bmc.passwd: is an unknown key"),
    ],
)  # fmt: skip
def test_a_secret_in_another_place(place: str, value: Any, said: str, tmp_path: Path) -> None:
    assert any(said in each for each in told({place: value}, tmp_path))


@pytest.mark.parametrize("key", ["password", "root_password", "bmc_password"])
def test_a_password_in_a_classic_inventory(key: str, tmp_path: Path) -> None:
    row = {"os_hostname": "pve1", "os_ip": "10.10.1.21", "os_mac": "ac:1f:6b:00:02:21", key: "hunter2"}
    (tmp_path / "nodes.json").write_text(json.dumps({"nodes": [row], key: "hunter2"}))
    with pytest.raises(InventoryError) as caught:
        inventory.load(tmp_path / "nodes.json")
    assert str(caught.value).count("is an unknown key") == 2 and "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"password": "$y$j9T$salt$hash"}, {"users": [{"passwd": "!"}, {"hashed_passwd": "*"}]},
        {"chpasswd": {"expire": False, "list": "root:R\nbob:$6$salt$hash\n"}}, {"ssh_pwauth": False},
        {"chpasswd": {"users": [{"name": "root", "type": "RANDOM"}]}}, {},
    ],
)  # fmt: skip
def test_what_is_no_password(config: dict[str, Any]) -> None:
    assert plain_password(config) is None


def test_an_address_without_a_log_in() -> None:
    assert not has_login(IMAGE) and not has_login("http://h/a@b") and has_login("http://[@")


@settings(max_examples=30)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_whatever_stands_there_it_is_looked_through(data: Any) -> None:
    assert all(message for _, message in private_keys({"any": data}))
    assert plain_password({"any": data}) is None or "password" in str(plain_password({"any": data}))
    assert [at for at, _ in private_keys([data, AGE])][-1] == ("1",)

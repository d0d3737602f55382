"""The judge of Ubuntu's seeds: what rackproof writes passes, what is spoiled does not, and no value is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from checks import check_seed
from provision import autoinstall_rules, inventory, ubuntu_seed
from provision.errors import InventoryError, LabError
from provision.inventory import Lab
from provision.session import SESSION, Request, Session

MIXED = Path(__file__).parents[2] / "labs" / "mixed.yaml"


@pytest.fixture(autouse=True)
def _no_cloud_init(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def lab() -> Lab:
    return inventory.load(MIXED, {})


def spoiled(lab: Lab, place: str, value: Any) -> list[str]:
    """The faults of a seed in which something else stands at a place; None takes away what stood there."""
    content = yaml.safe_load(ubuntu_seed.preview(lab, lab.nodes["apps1"]))
    *path, last = ["autoinstall", *place.split(".")]
    part = content
    for key in path:
        part = part[key]
    part.pop(last, None)
    part |= {} if value is None else {last: value}
    return autoinstall_rules.faults(f"#cloud-config\n{yaml.safe_dump(content)}")


def test_what_is_handed_out_passes(lab: Lab) -> None:
    for update in ({}, {"storage_layout": "lvm", "packages": ("tmux", "htop")}):
        node = lab.nodes["apps1"].model_copy(update=update)
        assert autoinstall_rules.faults(ubuntu_seed.preview(lab, node)) == []
    assert ubuntu_seed.mistakes(lab, MIXED, list(lab.nodes)) == []


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("late-command", [["true"]], "late-command: Extra inputs are not permitted"),
        ("version", "1", "version: Input should be 1"),
        ("identity.password", None, "identity.password: Field required"),
        ("storage.layout.match", {"wwn": "0x5"}, "storage.layout.match.wwn: Extra inputs are not permitted"),
        ("storage.layout.match", {}, "storage.layout.match: Value error, names no disk, and would take any"),
        ("storage.layout.name", "zfs", "storage.layout.name: Input should be 'direct' or 'lvm'"),
        ("ssh.allow-pw", "no", "ssh.allow-pw: Input should be a valid boolean"),
        ("network.version", 1, "network.version: Input should be 2"),
        ("late-commands", ["true"], "late-commands.0: Input should be a valid list"),
        ("shutdown", "halt", "shutdown: Input should be 'reboot' or 'poweroff'"),
    ],
)
def test_what_is_spoiled_is_named_by_its_place(lab: Lab, place: str, value: Any, said: str) -> None:
    assert said in spoiled(lab, place, value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("autoinstall: {}\n", "does not begin with #cloud-config"),
        ("#cloud-config\na: [\n", "is no YAML"),
        ("#cloud-config\n[]\n", "the one key autoinstall"),
        ("#cloud-config\nautoinstall: {}\nhostname: x\n", "the one key autoinstall"),
        ("#cloud-config\nautoinstall: [canary]\n", "autoinstall: Input should be a valid dictionary"),
    ],
)
def test_what_is_no_autoinstall(text: str, said: str) -> None:
    [fault] = autoinstall_rules.faults(text)
    assert said in fault
    assert "canary" not in fault


def test_no_value_is_told(lab: Lab) -> None:
    assert "canary" not in str(spoiled(lab, "identity.password", {"canary": 1}))


@pytest.fixture
def cloud_init(tmp_path: Path) -> Callable[[str], None]:
    """Puts a cloud-init that does as it is told before all other programs."""

    def put(script: str) -> None:
        tool = tmp_path / "cloud-init"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)

    return put


def test_what_cloud_init_minds_is_a_fault(lab: Lab, cloud_init: Callable[[str], None]) -> None:
    text = ubuntu_seed.preview(lab, lab.nodes["apps1"])
    cloud_init("exit 0")
    assert autoinstall_rules.faults(text) == []
    cloud_init('echo "Invalid user-data $3" >&2; exit 1')
    said = "Invalid user-data it"
    assert autoinstall_rules.faults(text) == [f"user-data: {said}", f"autoinstall.user-data: {said}"]
    assert "its autoinstall would be wrong: user-data" in str(ubuntu_seed.mistakes(lab, MIXED, ["apps1"])[0])


def test_a_run_and_the_check_refuse_what_is_spoiled(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(Request("provision", MIXED), lab, "run-1")
    config: Any = SimpleNamespace(stash=pytest.Stash())
    config.stash[SESSION] = session
    session.judge_answers()
    check_seed.test_installer_takes_it_as_its_answer(config, lab.nodes["apps1"])
    monkeypatch.setattr(ubuntu_seed, "_layout", lambda _node: {"name": "direct", "match": {}})
    with pytest.raises(
        InventoryError, match=r"nodes\.apps1: its autoinstall would be wrong: storage\.layout"
    ):
        session.judge_answers()
    with pytest.raises(AssertionError, match="names no disk"):
        check_seed.test_installer_takes_it_as_its_answer(config, lab.nodes["apps1"])


def test_a_cloud_init_without_a_verdict_is_trouble(
    lab: Lab, cloud_init: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud_init("exec /bin/sleep 60")
    monkeypatch.setattr(autoinstall_rules, "SECONDS", 0.05)
    with pytest.raises(LabError, match="gave no verdict"):
        autoinstall_rules.faults(ubuntu_seed.preview(lab, lab.nodes["apps1"]))

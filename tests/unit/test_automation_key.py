"""`server.key`: the key by which the harness logs in to the nodes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from provision import automation_key
from provision.errors import LabError
from provision.inventory import Lab, load
from provision.machines import node_target, server_target
from tests.unit.test_session import home, session

__all__ = ["home"]

LAB = Path(__file__).parents[2] / "labs" / "virtual.yaml"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.read_text().replace("wan: wan0", "wan: wan0\n  key: keys/automation"))
    return load(file, {})


def test_it_is_made_once_for_its_owner_alone(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "automation"
    first = automation_key.given(lab, make=True)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    content = key.read_bytes()
    assert automation_key.given(lab, make=True) == automation_key.given(lab, make=False) == first
    assert key.read_bytes() == content


def test_every_node_lets_in_its_public_half_and_what_it_let_in_before(lab: Lab, tmp_path: Path) -> None:
    own = lab.nodes["node1"].model_copy(update={"ssh_keys": ("ssh-ed25519 AAAA mine",)})
    nodes = automation_key.given(
        lab.model_copy(update={"nodes": {**lab.nodes, "node1": own}}), make=True
    ).nodes  # fmt: skip
    public = " ".join((tmp_path / "keys/automation.pub").read_text().split())
    assert nodes["node1"].ssh_keys == ("ssh-ed25519 AAAA mine", public)
    assert nodes["node2"].ssh_keys == (public,)
    assert public.endswith(" rackproof-virtual")


def test_who_only_looks_makes_none(lab: Lab, tmp_path: Path) -> None:
    looked = automation_key.given(lab, make=False)
    assert not (tmp_path / "keys").exists()
    assert looked.nodes["node1"].ssh_keys == (automation_key.UNMADE,)


def test_a_key_that_others_can_read_is_refused(lab: Lab, tmp_path: Path) -> None:
    automation_key.given(lab, make=True)
    (tmp_path / "keys/automation").chmod(0o640)
    with pytest.raises(LabError, match=r"others can read the private key .*: chmod 600 "):
        automation_key.given(lab, make=False)


def test_what_is_no_key_is_told_and_not_replaced(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "automation"
    key.parent.mkdir()
    key.touch(0o600)
    key.write_text("no key\n")
    with pytest.raises(LabError, match="ssh-keygen cannot use"):
        automation_key.given(lab, make=True)
    assert key.read_text() == "no key\n"


def test_a_lab_without_one_is_left_as_it_is(tmp_path: Path) -> None:
    lab = load(LAB, {})
    assert automation_key.given(lab, make=True) is lab


def test_nodes_are_logged_in_to_by_it_and_the_server_is_not(lab: Lab) -> None:
    identity = Path("/root/identity")
    server = lab.server.model_copy(update={"identity": identity, "host": "ssh:root@10.10.1.1"})
    both = lab.model_copy(update={"server": server})
    assert node_target(both, both.nodes["node1"], None).identity == lab.server.key
    assert server_target(both).identity == identity


@pytest.mark.parametrize("acts", [True, False])
def test_only_a_run_that_acts_makes_it(tmp_path: Path, acts: bool) -> None:
    key = tmp_path / "made"
    prepared = session(tmp_path, selected=("cluster",) if acts else ())
    server = prepared.written.server.model_copy(update={"key": key})
    prepared.written = prepared.written.model_copy(update={"server": server})
    with prepared.run() as run:
        lab = prepared.reach_lab(run)
    assert key.exists() is acts
    assert lab.nodes["node1"].ssh_keys != ()

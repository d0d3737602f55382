"""The suite from outside: exit codes, refusals, what is skipped, and what is left, on a lab that cannot be reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pyrage
import pytest

ROOT = Path(__file__).parents[2]
# On loopback: a check that is let run anyway may ask, and nothing leaves this machine.
LAB = """\
name: attic
domain: lab.example.net
server: {host: "ssh:root@127.0.0.1:9", host_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ"}
networks:
  management: {cidr: 127.10.1.0/24, gateway: 127.10.1.1, bridge: vmbr0, nic: eno1}
defaults:
  os: proxmox-9
  bmc: {user: env:ATTIC_SECRET, password: env:ATTIC_SECRET}
  root_password: env:ATTIC_SECRET
  disk: {serial: "S3Z8*"}
nodes:
  node1: {mac: "ac:1f:6b:00:00:21", management: 127.10.1.21, bmc: {address: 127.10.1.11}}
  node2: {mac: "ac:1f:6b:00:00:22", management: 127.10.1.22, bmc: {address: 127.10.1.12}}
cluster: {name: attic, primary: node1, links: [management]}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "attic.yaml"
    path.write_text(LAB)
    return path


def run_pytest(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "--out", str(tmp_path / "out"), *arguments],
        cwd=ROOT,
        env={**os.environ, "RACKPROOF_HOME": str(tmp_path / "home"), "ATTIC_SECRET": "canary-Sesame-1", **env},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def touched(tmp_path: Path) -> bool:
    return (tmp_path / "home").exists() or (tmp_path / "out").exists()


def test_a_real_lab_needs_leave_to_be_wiped(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab))
    assert result.returncode == 4
    assert "say --wipe attic to allow it" in result.stderr
    assert not touched(tmp_path)


def test_leave_for_another_lab_is_none(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "hall-3")
    assert result.returncode == 4
    assert '--wipe hall-3: this lab is named "attic"' in result.stderr
    assert not touched(tmp_path)


def test_mistakes_in_the_lab_file_are_exit_4_all_at_once(tmp_path: Path, lab: Path) -> None:
    lab.write_text(LAB.replace("00:00:22", "00:00:21").replace("links: [management]", "links: [managment]"))
    result = run_pytest(tmp_path, "-m", "verify", "--lab", str(lab))
    assert result.returncode == 4
    assert f"{lab}:13: nodes.node2.mac" in result.stderr
    assert 'did you mean "management"' in result.stderr
    assert "2 mistakes; nothing was touched" in result.stderr
    assert not touched(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "provision", "-n", "2"], "drop -n"),
        (["-m", "provision", "-d", "--tx", "2*popen"], "drop -n"),
        (["-m", "verify", "-n", "2", "--dist", "loadfile"], "drop --dist"),
        (
            ["-m", "verify", "-d", "--tx", "ssh=site//chdir=x"],
            "write an option's path behind =, as in --lab=",
        ),
        (["-m", "provision and not verify"], "choose by -k"),
        (["-m", "provision", "--only", "power", "--from", "server"], "--only goes with neither"),
        (["-m", "provision", "--from", "install", "--until", "power"], "comes after --until"),
        (["-m", "provision", "--from", "install"], "say --from power"),
        (["-m", "provision", "--only", "install"], "say --from power"),
        (["-m", "provision", "--until", "power"], "say --until install"),
        (["-m", "provision", "--only", "power"], "say --until install"),
        (["-m", "provision", "--until", "ceph", "--templates", "test"], "is not among those asked for"),
        (["-m", "provision", "--only", "ceph", "--templates", "test"], "is not among those asked for"),
        (["-m", "verify", "--templates", "test"], "is not among those asked for"),
        (["-m", "provision", "--from", "ceph", "--templates", "remove"], "goes with neither --from nor"),
        (["-m", "provision", "--templates", "renew"], "invalid choice"),
        (["-m", "verify", "--nodes", "node9"], '"node9" is not a node'),
        (["-m", "verify", "--notify", "teams:https://example.net/hook-1"], "a webhook is SHAPE:URL"),
        (["-m", "verify", "--notify", "slack:hook-1"], "comes an https URL"),
        (["-m", "verify", "--plan"], "--plan says what -m provision would do: give both"),
        (["--plan"], "--plan says what -m provision would do: give both"),
        (["-m", "provison"], "provison"),
    ],
)
def test_a_command_line_that_cannot_be_followed(
    tmp_path: Path, lab: Path, arguments: list[str], said: str
) -> None:
    result = run_pytest(tmp_path, "--lab", str(lab), "--wipe", "attic", *arguments)
    assert result.returncode == 4
    assert said in result.stderr
    assert "hook-1" not in result.stderr
    assert not touched(tmp_path)


def test_a_plan_needs_no_leave_and_leaves_nothing(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--plan", "--until", "install")
    assert result.returncode == 1
    assert result.stdout.startswith("no plan: server: ssh root@127.0.0.1:9: ")
    later = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--plan", "--only", "cluster")
    assert later.returncode == 0
    assert later.stdout == ("step cluster: joins all nodes that are not in it into the cluster attic\n")
    assert not touched(tmp_path)


def test_a_webhook_that_cannot_be_told_is_a_note_and_no_more(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic",
                        "-k", "test_proxmox_version", "--notify", "json:http://127.0.0.1:9/hook")  # fmt: skip
    assert result.returncode == 1
    assert "the json webhook was not told: ConnectionError" in result.stdout


def test_a_missing_secret_is_named_and_its_value_never(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(tmp_path, "-m", "verify", "--lab", str(lab), ATTIC_SECRET="")
    assert result.returncode == 4
    assert "ATTIC_SECRET" in result.stdout + result.stderr


def test_setup_plan_shows_the_steps_and_touches_nothing(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic", "--setup-plan")
    order = [result.stdout.index(f"SETUP    S {name}") for name in (
        "server_configured", "nodes_rebooted", "nodes_installed", "cluster_formed", "ceph_healthy",
        "templates_ready")]  # fmt: skip
    assert order == sorted(order)
    assert not touched(tmp_path)


def test_a_step_that_fails_is_one_error_and_the_rest_is_not_reached(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "NOT PROVED" in result.stdout
    suite = ElementTree.parse(tmp_path / "out" / "latest" / "junit.xml").getroot()[0]
    assert (suite.get("errors"), suite.get("failures")) == ("1", "0")
    skips = {skip.get("message") for skip in suite.iter("skipped")}
    assert skips == {"not reached: server failed"}
    assert len(list(suite.iter("testcase"))) == len(list(suite.iter("skipped"))) + 1
    told = json.loads((tmp_path / "out" / "latest" / "summary.json").read_text())
    assert [step["state"] for step in told["steps"]] == ["failed", *["not reached"] * 5]


def test_a_check_chosen_by_name_makes_no_step_act(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(
        tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic", "-k", "test_proxmox_version"
    )
    events = (tmp_path / "out" / "latest" / "events.jsonl").read_text()
    assert "step-started" not in events
    assert result.returncode == 1


def test_a_step_chosen_alone_recalls_the_earlier_ones(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(
        tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic", "-k", "test_cluster"
    )
    assert result.returncode == 1
    events = (tmp_path / "out" / "latest" / "events.jsonl").read_text()
    assert "step-started" not in events
    assert "left no evidence" in result.stdout


def test_no_secret_is_in_any_output(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic", "-vv")
    assert "canary-Sesame-1" not in result.stdout + result.stderr
    for path in (*(tmp_path / "out").rglob("*"), *(tmp_path / "home").rglob("*")):
        if path.is_file():
            assert b"canary-Sesame-1" not in path.read_bytes(), path


def test_a_secret_that_got_into_a_file_is_struck_out_and_that_is_said(tmp_path: Path, lab: Path) -> None:
    # A secret that is also the name of a check stands in every report, whatever rackproof does.
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic",
                        "-k", "test_proxmox_version", ATTIC_SECRET="proxmox_version")  # fmt: skip
    saved = [path for path in (tmp_path / "out" / "latest").resolve().rglob("*") if path.is_file()]
    assert {"junit.xml", "summary.json", "summary.md", "index.html"} <= {path.name for path in saved}
    assert not [path.name for path in saved if b"proxmox_version" in path.read_bytes()]
    assert "the secret env:ATTIC_SECRET stood in junit.xml; it was struck out there" in result.stdout


def test_no_secret_is_told_in_the_terminal_or_kept_in_the_history(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic",
                        "-k", "test_proxmox_version", ATTIC_SECRET="127.10.1.")  # fmt: skip
    assert "ssh root@[secret]21:22" in result.stdout
    assert b"127.10.1." not in (tmp_path / "out" / "history.sqlite").read_bytes()


def test_a_secret_of_another_kind_is_struck_out_as_well_and_so_is_what_opens_it(
    tmp_path: Path, lab: Path
) -> None:
    identity, credentials = pyrage.x25519.Identity.generate(), tmp_path / "credentials"
    credentials.mkdir(0o700)
    (credentials / "bmc").write_text("127.10.1.\n")
    (credentials / "bmc").chmod(0o400)
    (tmp_path / "secrets.age").write_bytes(pyrage.encrypt(b"ROOT=proxmox_version\n", [identity.to_public()]))
    lab.write_text(LAB.replace("password: env:ATTIC_SECRET}", "password: systemd-cred:bmc}").replace(
        "root_password: env:ATTIC_SECRET", "root_password: age:secrets.age#ROOT"))  # fmt: skip
    result = run_pytest(tmp_path, "-m", "provision", "--lab", str(lab), "--wipe", "attic", "-vv", "-k", "test_proxmox_version",
                        RACKPROOF_AGE_IDENTITY=str(identity), CREDENTIALS_DIRECTORY=str(credentials))  # fmt: skip
    assert (
        f"the secret age:{tmp_path}/secrets.age#ROOT stood in junit.xml; it was struck out there"
        in result.stdout
    )
    assert "ssh root@[secret]21:22" in result.stdout and str(identity) not in result.stdout + result.stderr
    saved = [path for path in (tmp_path / "out" / "latest").resolve().rglob("*") if path.is_file()]
    words = (b"proxmox_version", b"127.10.1.", str(identity).encode())
    assert not [path.name for path in saved if any(word in path.read_bytes() for word in words)]


def test_plain_pytest_collects_only_the_projects_own_tests(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, "--collect-only", "-q", "tests/unit/test_wait.py", "provision", "checks")
    collected = [line for line in result.stdout.splitlines() if "::" in line]
    assert collected
    assert all(line.startswith("tests/") for line in collected)


def test_collecting_loads_nothing_that_only_acting_needs(tmp_path: Path, lab: Path) -> None:
    result = run_pytest(
        tmp_path, "--collect-only", "-q", "-s", "-m", "verify", "--lab", str(lab), PYTHONPROFILEIMPORTTIME="1"
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert {"pytest", "provision", "pydantic", "testinfra"} <= loaded
    assert loaded & {"sqlalchemy", "asyncssh", "proxmoxer", "requests", "sushy", "rich"} == set()

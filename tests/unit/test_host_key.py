"""A host key that is made here is handed over by the first boot alone, and is known from then on."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from provision import install, inventory
from provision.boot_service.masked import masked
from provision.certificate import Certificate
from provision.handed import handed
from provision.host_key import HostKey
from provision.install import Permits
from provision.inventory import Lab
from provision.journal import Evidence
from provision.ledger import Event, Ledger
from provision.permit import Permit
from provision.render import render
from provision.run import Run
from provision.standing import standing_order
from reports.secrecy import strike_out

ROOT = Path(__file__).parents[2]
CERTIFICATE = Certificate(trustme.CA().cert_pem.bytes().decode())


@pytest.fixture(scope="module")
def key() -> HostKey:
    return HostKey.made()


@pytest.fixture(params=["proxmox-9", "ubuntu-24.04"])
def lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The default lab with either operating system; node4's host key is made here."""
    monkeypatch.setenv("RACKPROOF_ROOT_PASSWORD", "canary-Sesame-2")
    lab = inventory.load(ROOT / "labs" / "virtual.yaml")
    nodes = {name: node.model_copy(update={"os": request.param}) for name, node in lab.nodes.items()}
    return lab.model_copy(update={"nodes": nodes})


def permit(lab: Lab, key: HostKey | None) -> Permit:
    return Permit(lab.nodes["node4"], "run-1", 0.0, "answer", "report", "hook", "nonce", host_key=key)


def test_openssh_reads_it(key: HostKey, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(key.private + "\n")
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-f", path], text=True, capture_output=True, check=True
    ).stdout
    assert shown.split()[:2] == key.public.split() and key.public.startswith("ssh-ed25519 AAAA")
    assert HostKey.made().public != key.public


def test_its_private_half_is_known_by_its_lines_and_shown_by_none(key: HostKey) -> None:
    lines, another = list(key.secrets), HostKey.made()
    assert 3 <= len(lines) <= 5 and not set(lines) & set(another.secrets)
    assert not any(line in f"{key} {key!r}" for line in lines)
    assert not any(line in masked(key.private) for line in lines)


def test_it_goes_into_the_first_boot_and_nowhere_else(lab: Lab, key: HostKey) -> None:
    """What Ubuntu's installer is handed goes by plain HTTP; its first boot is fetched by TLS."""
    texts = handed(lab, permit(lab, key), CERTIFICATE)
    holding = {name for name, text in texts.items() if any(line in str(text) for line in key.secrets)}
    assert holding == {"first_boot"}
    assert not any(line in masked(texts["first_boot"]) for line in key.secrets)
    assert subprocess.run(["bash", "-n"], input=texts["first_boot"], text=True, check=False).returncode == 0


def test_without_one_nothing_of_it_is_in_the_first_boot(lab: Lab) -> None:
    assert "ssh_host_" not in handed(lab, permit(lab, None), CERTIFICATE)["first_boot"]


def test_what_stands_on_the_server_for_operators_holds_none(lab: Lab) -> None:
    order = standing_order(lab, lab.nodes["node4"], CERTIFICATE)
    assert "PRIVATE KEY" not in order.model_dump_json()


# The part of the first boot


def first_boot(key: HostKey, folder: Path, *, broken: str = "") -> subprocess.CompletedProcess[str]:
    """Run that part with its files in `folder`, in the frame of a first boot whose reports are printed.

    A `broken` program fails.
    """
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in {"systemctl": 'echo "systemctl $*"', broken or "none": "exit 1"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    frame, part = render("first-boot/frame.sh.j2"), render("first-boot/host_key.sh.j2", host_key=key)
    script = f'set -eEuo pipefail; log=none; report() {{ echo "report $*"; }}\n{frame}\n{part}\npart host_key\ntell\n'
    return subprocess.run(
        ["bash", "-c", script.replace("/etc/ssh/", f"{folder}/")], text=True, capture_output=True, check=False,
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
    )  # fmt: skip


def test_the_node_has_it_after_its_first_boot_and_after_a_second(key: HostKey, tmp_path: Path) -> None:
    private, public = tmp_path / "ssh_host_ed25519_key", tmp_path / "ssh_host_ed25519_key.pub"
    private.write_text("the installer's\n")
    public.write_text("the installer's\n")
    for outcome in ("changed", "as it was"):
        done = first_boot(key, tmp_path)
        told = ["== host_key", "systemctl reload-or-restart ssh", f"report status host_key {outcome}"]
        assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, told, "")
        assert (private.read_text(), public.read_text()) == (f"{key.private}\n", f"{key.public}\n")
        assert (private.stat().st_mode & 0o777, public.stat().st_mode & 0o777) == (0o600, 0o644)
    assert sorted(path.name for path in tmp_path.glob("ssh*")) == [private.name, public.name]


def test_a_node_without_a_key_gets_it(key: HostKey, tmp_path: Path) -> None:
    assert first_boot(key, tmp_path).returncode == 0
    assert (tmp_path / "ssh_host_ed25519_key").read_text() == f"{key.private}\n"


@pytest.mark.parametrize("broken", ["install", "chmod", "sync", "mv", "systemctl"])
def test_a_failure_tells_nothing_of_it(broken: str, key: HostKey, tmp_path: Path) -> None:
    done = first_boot(key, tmp_path, broken=broken)
    assert done.returncode == 1 and "report failed host_key: line " in done.stdout
    assert broken in done.stdout.splitlines()[-1]
    assert not any(line in done.stdout + done.stderr for line in key.secrets)


# The harness


class Service:
    """Takes what a permit carries."""

    def __init__(self) -> None:
        self.granted: list[dict[str, Any]] = []

    def grant(self, **order: Any) -> int:
        self.granted.append(order)
        return 1

    def revoke(self, run: str) -> int:
        return 0


@pytest.fixture
def run(ledger: Ledger) -> Run:
    ledger.remember(
        Evidence("virtual", "server", "run-1", 0.0, 0.0, [], [], {"certificate": CERTIFICATE.facts}, {})
    )
    return Run("virtual", "run-1", ledger, acting=frozenset(["install"]))


@pytest.mark.parametrize("lab", ["proxmox-9"], indirect=True)
def test_the_harness_makes_one_for_the_node_that_asks_and_expects_it(
    lab: Lab, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("provision.server.arm", lambda *_: None)
    service: Any = Service()
    nothing: Any = None
    Permits(lab, run, service, nothing).grant([lab.nodes["node3"], lab.nodes["node4"]])
    scripts = {order["node"]: order["first_boot"] for order in service.granted}
    assert ("PRIVATE KEY" in scripts["node3"], "PRIVATE KEY" in scripts["node4"]) == (False, True)

    permitted = {event.node: event for event in run.events if event.kind == "permitted"}
    reported = Event(
        1.0, "run-1", "virtual", None, None, "installed", "", {"ssh_host_keys": ["ssh-rsa AAAA"]}
    )
    [made] = permitted["node4"].facts["ssh_host_keys"]
    assert made in scripts["node4"]
    assert install._host_keys(run, "node3", permitted["node3"]) == []
    for node in ("node3", "node4"):
        run.take(replace(reported, node=node))
    assert install._host_keys(run, "node4", permitted["node4"]) == [made]
    assert install._host_keys(run, "node3", permitted["node3"]) == ["ssh-rsa AAAA"]

    (tmp_path / "saved.txt").write_text(scripts["node4"])
    assert "host key of node4" in {leak.name for leak in strike_out(tmp_path, run.secrets)}
    assert "b3BlbnNzaC1rZXk" in (tmp_path / "saved.txt").read_text(), "the line that every such key has"
    key_lines = [line for line, name in run.secrets.items() if name == "host key of node4"]
    assert key_lines and not any(line in (tmp_path / "saved.txt").read_text() for line in key_lines)
    assert not any(line in str(run.events) for line in key_lines)

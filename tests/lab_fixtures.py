"""Labs of the tests' own: raised and provisioned by the very commands a user gives, and taken down."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from provision.run import STEPS
from provision.wait import NotYet, Patience
from virtual_lab.places import Places, home

ROOT = Path(__file__).parents[1]
INSTANCE = "-".join(filter(None, [os.environ.get("RACKPROOF_INSTANCE"), "selftest"]))
SOON = Patience(180, first=0.05, most=0.2)


@dataclass
class Lab:
    """A standing virtual lab as a user meets it: pytest and `python -m virtual_lab`, each a process of its own.

    `whole` says whether the last run left it proved; `usual` how many seconds a run takes that does all.
    """

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    instance: str = INSTANCE
    arguments: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    whole: bool = False
    usual: float = 40.0

    def provision(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        self.whole, started = False, time.monotonic()
        result = self.pytest("-m", "provision", *arguments, timeout=timeout)
        if not arguments and result.returncode == 0:
            self.whole, self.usual = True, time.monotonic() - started
        return result

    def rebuild(self) -> str:
        """Provision all of it, which must end green; returns what the terminal said."""
        result = self.provision()
        assert result.returncode == 0, result.stdout + result.stderr + self.consoles()
        return result.stdout

    def consoles(self) -> str:
        """What every node wrote to its console last."""
        texts = {name: self.places.console(name) for name in self.nodes}
        ends = {name: path.read_text()[-1500:] if path.exists() else "" for name, path in texts.items()}
        return "\n".join(f"\n== console of {name}: …{end}" for name, end in ends.items())

    def verify(self, *arguments: str, timeout: float = 200) -> set[str]:
        """Run verify and name what failed, as `subject::check[case]`."""
        result = self.pytest("-m", "verify", *arguments, timeout=timeout)
        assert result.returncode in (0, 1), result.stdout + result.stderr
        return {name for name, bad in self.cases() if bad}

    def cases(self) -> list[tuple[str, bool]]:
        """The test cases of the last run, and whether each failed or met an error."""
        return [
            (
                f"{case.get('classname', '').rpartition('.')[2].removeprefix('check_')}::{case.get('name')}",
                case.find("failure") is not None or case.find("error") is not None,
            )
            for case in self.junit().iter("testcase")
        ]

    @property
    def report(self) -> Path:
        """What the last run left."""
        return self.folder / "out" / "latest"

    def junit(self) -> ElementTree.Element:
        return ElementTree.parse(self.report / "junit.xml").getroot()

    def errors(self) -> dict[str, str]:
        """What the test cases of the last run said that met an error, by name."""
        return {
            str(case.get("name")): str(error.text)
            for case in self.junit().iter("testcase")
            for error in case.iter("error")
        }

    def events(self, kind: str | None = None, node: str | None = None) -> list[dict[str, Any]]:
        """What happened in the last run, so far."""
        path = self.report / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        events = [json.loads(line) for line in lines]
        return [
            event
            for event in events
            if kind in (None, event["kind"]) and node in (None, event["node"])
        ]  # fmt: skip

    def evidence(self, lab: str = "virtual") -> dict[str, Any]:
        """What the ledger has of each step."""
        from provision.ledger import Ledger  # noqa: PLC0415 (every session of pytest loads this module)

        ledger = Ledger(self.state / "ledger.db")
        try:
            return {step: ledger.recall(lab, step) for step in STEPS}
        finally:
            ledger.close()

    def pytest(self, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return self.run(*self.command, *arguments, timeout=timeout)

    def start_pytest(self, *arguments: str) -> subprocess.Popen[str]:
        self.whole = False
        # What is read while it runs is its own report, and not that of the run before.
        self.report.unlink(missing_ok=True)
        return subprocess.Popen(
            [*self.command, *arguments], cwd=ROOT, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def command(self) -> list[str]:
        """The command line of a session, as far as it is the same for all of this lab."""
        out = ("--out", str(self.folder / "out"))
        pytest = [sys.executable, "-m", "pytest", "-c", "pyproject.toml"]
        return [*self.prefix, *pytest, *out, *self.arguments]

    def rack(self, *arguments: str, check: bool = True, timeout: float = 60) -> str:
        result = self.run(
            sys.executable, "-m", "virtual_lab", "--rack", self.instance, *arguments, timeout=timeout
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def on(self, machine: str, command: str, *, check: bool = True) -> str:
        """Run a shell command inside a machine of the rack."""
        return self.rack("exec", machine, "--", "sh", "-c", command, check=check).strip()

    def run(self, *command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "RACKPROOF_INSTANCE": self.instance, **self.env}

    @property
    def places(self) -> Places:
        return Places(home(), self.instance)

    @property
    def state(self) -> Path:
        """The harness's own folder of this lab."""
        return home() / "labs" / self.instance

    @property
    def nodes(self) -> list[str]:
        return [machine["name"] for machine in json.loads(self.places.plan.read_text())["machines"][1:]]

    def board(self, machine: str) -> dict[str, Any]:
        """What a machine's board knows: power, boots, override."""
        from virtual_lab import control  # noqa: PLC0415

        return control.ask(self.places.board(machine), {"do": "state"})

    def quirk(self, node: str, name: str | None) -> None:
        """Give a node's BMC a quirk, or take it away."""
        path = self.places.machine(node) / "bmc.quirk"
        path.write_text(name) if name else path.unlink(missing_ok=True)

    def operator(self, path: str, *more: str) -> Any:
        """Ask the boot service on the server what only its operator may ask."""
        curl = ["curl", "-fsS", "--unix-socket", "/run/rackproof/operator.sock"]
        return json.loads(self.on("server", shlex.join([*curl, *more, f"http://rack{path}"])))

    def leaves(self) -> dict[str, str]:
        """Every leave to install that is still open, by node: of boot service, DHCP and boards."""
        options = self.on("server", "cat /etc/rackproof/dhcp-options")
        permits = [
            permit
            for permit in self.operator("/api/v1/permits")
            if permit["state"] in ("live", "spent")
        ]  # fmt: skip
        boards = {node: self.board(node)["override"] for node in self.nodes}
        pending = {
            node: kept
            for node, kept in boards.items()
            if kept["enabled"] != "Disabled" and kept["target"] != "None"
        }
        return {
            **{permit["node"]: f"permit {permit['state']}" for permit in permits},
            **{line: "answer URL" for line in options.splitlines() if line.startswith("tag:")},
            **{node: f"boot override {kept}" for node, kept in pending.items()},
        }

    def nonce(self, node: str) -> str:
        """The nonce on a node's disk."""
        return str(json.loads(self.on(node, "cat /etc/rackproof/install.json"))["nonce"])

    def until(self, kind: str, *, run: subprocess.Popen[str], least: int = 1) -> None:
        """Wait until a running session has told that many events of a kind."""

        def probe() -> bool | NotYet:
            assert run.poll() is None, run.communicate()
            told = self.events()
            ours = [event for event in told if event["kind"] == kind]
            return len(ours) >= least or NotYet(str(told[-1:]))

        SOON.until(f"{least} x {kind}", probe)

    def down(self) -> None:
        """Take it away, with all that the harness knows of it."""
        self.rack("down")
        shutil.rmtree(self.state, ignore_errors=True)


def raised(folder: Path, instance: str = INSTANCE, **more: Any) -> Lab:
    """A lab of which nothing stands yet."""
    lab = Lab(folder, instance=instance, **more)
    lab.down()
    return lab


@pytest.fixture(scope="session")
def default_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The default lab as far as its cluster, which is where most tests look; only `lab` uses it as it is."""
    lab = raised(tmp_path_factory.mktemp("lab"), arguments=("--until", "cluster"))
    try:
        yield lab
    finally:
        lab.down()


@pytest.fixture
def lab(default_lab: Lab) -> Lab:
    """The default lab, provisioned and proved: once, and again after a test that broke it."""
    if not default_lab.whole:
        default_lab.rebuild()
    return default_lab


@pytest.fixture(scope="session")
def whole_default_lab(default_lab: Lab) -> Lab:
    """The default lab with its Ceph and its templates; only `full_lab` uses it as it is."""
    return replace(default_lab, arguments=(), whole=False)


@pytest.fixture
def full_lab(lab: Lab, whole_default_lab: Lab) -> Lab:
    """The default lab, provisioned to its last step and proved: once, and again after a test that broke it."""
    if not whole_default_lab.whole:
        result = whole_default_lab.provision("--from", "ceph")
        assert result.returncode == 0, result.stdout + result.stderr + lab.consoles()
        whole_default_lab.whole = True
    return whole_default_lab


CLASSIC = {
    "ssh_keys": {"root": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ root@mgmt"},
    "nodes": [
        {
            "hostname": f"console-pve{number}", "console_ip": f"10.10.1.1{number}",
            "console_mac": f"ac:1f:6b:00:01:1{number}", "os_hostname": f"pve{number}",
            "ip": f"10.10.1.2{number}", "mac": f"ac:1f:6b:00:02:2{number}", "ceph_ip": f"10.10.2.2{number}",
        }
        for number in (1, 2, 3)
    ],
}  # fmt: skip
"""A classic inventory of three nodes, with its old field names."""

CANARIES = {
    "PROXMOX_ROOT_PASSWORD": "canary-Root-7Zq4x",
    "BMC_USER": "canaryuserBmc9",
    "BMC_PASSWORD": "canary-Bmc-5Wn8k",
}


@dataclass
class Classic:
    """A classic lab and its first run, with what was seen from outside while that run went on."""

    lab: Lab
    result: subprocess.CompletedProcess[str]
    arguments: frozenset[str]
    tokens: dict[str, str]


@pytest.fixture(scope="session")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classic]:
    """The classic inventory of three nodes on virtual hardware, with canaries for secrets; run once."""
    folder = tmp_path_factory.mktemp("classic")
    inventory = folder / "nodes.json"
    inventory.write_text(json.dumps(CLASSIC))
    lab = raised(
        folder, f"{INSTANCE}-classic", env=CANARIES, arguments=("--lab", str(inventory), "--virtual")
    )
    try:
        lab.rack("up", str(inventory), timeout=300)
        with Watch(lab) as watch:
            result = lab.provision()
        yield Classic(lab, result, frozenset(watch.arguments), watch.tokens())
    finally:
        lab.down()


class Watch:
    """Looks, while a run goes on, at every process's arguments and at the answer paths given out by DHCP."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._ended = lab, threading.Event()
        self.arguments: set[str] = set()
        self._given = ""
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        # One command inside the server that reads over and over: the file is there for seconds only.
        self._reader = subprocess.Popen(
            [sys.executable, "-m", "virtual_lab", "--rack", self._lab.instance, "exec", "server", "--", "sh", "-c",
             "rm -f /run/stop; for i in $(seq 6000); do cat /etc/rackproof/dhcp-options; "
             "[ ! -e /run/stop ] || exit 0; sleep 0.1; done 2>/dev/null | grep --line-buffered tag:"
             " || true"],
            cwd=ROOT, env=self._lab.environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._lab.on("server", "touch /run/stop")
        self._given, _ = self._reader.communicate(timeout=60)

    def tokens(self) -> dict[str, str]:
        """The answer token of each node."""
        found = re.finditer(r'tag:([\w-]+),250,"https://[^"]*/answer/([\w-]+)"', self._given)
        return {given[1]: given[2] for given in found}

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            for process in Path("/proc").iterdir():
                if process.name.isdigit():
                    self.arguments.add(_arguments(process))


def _arguments(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""

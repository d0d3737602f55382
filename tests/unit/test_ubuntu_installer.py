"""The played Ubuntu installer: what it asks for, what stops it for good, what it tells and what it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest
import yaml

from virtual_lab import autoinstall, media, ubuntu_installer, ubuntu_live, ubuntu_media, ubuntu_root
from virtual_lab.dhcp_client import Lease, Message, NoLease
from virtual_lab.hardware import Dmi, Drive, Hang, Hardware, Outcome, PowerOff, Reboot, RunInstaller
from virtual_lab.http_client import HttpFailed, Request, Response
from virtual_lab.ubuntu_live import Surroundings
from virtual_lab.ubuntu_system import LiveSystem

SEED = "http://10.10.1.1/seed/token/"
ISO = "http://10.10.1.1/media/ubuntu-24.04/ubuntu.iso"
ARGS = f"ip=dhcp iso-url={ISO} cloud-config-url=/dev/null autoinstall ds=nocloud;s={SEED} ---"
GOOD: dict[str, Any] = {
    "version": 1,
    "identity": {"hostname": "work1", "username": "ubuntu", "password": "$6$salt$hash"},
    "ssh": {"install-server": True, "allow-pw": False, "authorized-keys": ["ssh-ed25519 AAAA x"]},
    "storage": {"layout": {"name": "direct", "match": {"serial": "*S3Z8NX01*"}}},
    "network": {"version": 2, "ethernets": {"eno1": {"match": {"macaddress": "ac:1f:6b:6c:5a:76"}}}},
    "user-data": {"fqdn": "work1.lab.local", "users": []},
    "late-commands": [["late", "one"], "late two"],
    "error-commands": [["say-so"]],
    "reporting": {"hook": {"type": "webhook", "endpoint": f"{SEED}reporting", "level": "INFO"}},
    "shutdown": "reboot",
}


class System(LiveSystem):
    """A live system in which commands are noted, not run; `fails` are the words of those that fail."""

    def __init__(self, hardware: Hardware, root: Path, world: World) -> None:
        self.hardware, self.root, self.target, self._world = hardware, root, root / "target", world

    def say(self, text: str) -> None:
        self.hardware.console(text)

    def run(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        self._world.ran.append((tuple(words), dict(environment or {})))
        if words[0] == "change":
            (self.root / "autoinstall.yaml").write_text(yaml.safe_dump(self._world.changed))
        return int(words[0] in self._world.fails)

    def in_target(self, *words: str, stdin: str = "") -> None:
        self._world.ran.append((words, {"stdin": stdin}))

    def schema_fault(self, config: Mapping[str, Any]) -> str | None:
        return "Additional properties are not allowed" if "typo" in str(config) else None

    def new_disk(self) -> Path:
        if self._world.breaks:
            raise OSError("no space left on device")
        self.target.mkdir()
        return self.target


@dataclass
class World:
    """The installer's surroundings: what the server says, what was asked, what ran."""

    folder: Path
    config: dict[str, Any] = field(default_factory=lambda: deepcopy(GOOD))
    responses: dict[str, Response | HttpFailed] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    fails: tuple[str, ...] = ()
    lease: bool = True
    breaks: bool = False
    asked: list[Request] = field(default_factory=list)
    ran: list[tuple[tuple[str, ...], dict[str, str]]] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    taken: float = 0.0
    bootable: int = 0

    def live(self) -> ubuntu_installer.Live:
        world = Surroundings(self._send, self._download, self._take)
        return ubuntu_installer.Live(self._lease, world, self._system, self._make_bootable)

    def files(self) -> list[str]:
        return [request.url.removeprefix(SEED) for request in self.asked if request.method == "GET"]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(request.body) for request in self.asked if request.method == "POST"]

    def failed(self) -> dict[str, str]:
        """The descriptions of what finished with FAIL, by name."""
        return {one["name"]: one["description"] for one in self.events() if one.get("result") == "FAIL"}

    def _lease(self, _hardware: Hardware) -> Lease:
        if not self.lease:
            raise NoLease("no DHCP server answered")
        return Lease("eno1", IPv4Interface("10.10.1.21/24"), None, Message(op=2, xid=1, mac="", options={}))

    def _send(self, request: Request, _seconds: float) -> Response:
        self.asked.append(request)
        given = self.responses.get(request.url.removeprefix(SEED))
        if isinstance(given, HttpFailed):
            raise given
        return given or Response(200, {}, self._body(request.url.removeprefix(SEED)))

    def _body(self, name: str) -> bytes:
        if name == "user-data":
            return f"#cloud-config\n{yaml.safe_dump({'autoinstall': self.config})}".encode()
        return b'{"instance-id": "one", "local-hostname": "work1"}\n' if name == "meta-data" else b""

    def _download(self, url: str, to: Path) -> None:
        assert url == ISO
        to.write_bytes((self.folder / "built" / ubuntu_media.ISO_NAME).read_bytes())

    def _take(self, seconds: float) -> None:
        self.taken += seconds

    def _make_bootable(self, _image: Path) -> None:
        self.bootable += 1

    @contextmanager
    def _system(self, hardware: Hardware) -> Iterator[LiveSystem]:
        (self.folder / "live").mkdir()
        yield System(hardware, self.folder / "live", self)


@pytest.fixture
def world(tmp_path: Path) -> World:
    ubuntu_media.build(tmp_path / "built", build_id="one")
    return World(tmp_path)


@pytest.fixture
def hardware(tmp_path: Path) -> Hardware:
    dmi = Dmi(
        "Supermicro", "SYS-2029TP", "S1", "4916e828-6e75-5c5c-9dd5-ad61d583e613", "3.4", "X11", "B1", "C1"
    )
    (tmp_path / "memory").mkdir()
    other = Drive(tmp_path / "b.img", 64 << 30, "PHYF01", "INTEL", "0x55cd", device="sdb", rpm=7200)
    return Hardware(
        name="work1", nics={"eno1": "ac:1f:6b:6c:5a:76", "eno3": "ac:1f:6b:6c:5a:77"},
        drive=Drive(tmp_path / "disk.img", 32 << 30, "S3Z8NX01", "SAMSUNG MZ7LH", "0x5002538e"), dmi=dmi,
        memory_mib=131072, cores=32, console_log=tmp_path / "console.log", layers=(),
        target=tmp_path / "root", osd_drives=(other,),
    )  # fmt: skip


def play(world: World, hardware: Hardware, kernel_args: str = ARGS, **media: bytes | Path) -> Outcome:
    built = world.folder / "built"
    given: dict[str, bytes | Path] = {"kernel": built / "vmlinuz", "initrd.0": built / "initrd"}
    files = {**given, **{name.replace("_", "."): content for name, content in media.items()}}
    run = RunInstaller(kernel_args, files)
    return ubuntu_installer.install(hardware, run, phase=world.phases.append, live=world.live())


def test_a_whole_install(world: World, hardware: Hardware) -> None:
    assert play(world, hardware) == Reboot()
    assert world.files() == ["network-config", "meta-data", "user-data", "vendor-data"]
    assert all("Cloud-Init/" in request.headers["User-Agent"] for request in world.asked[:4])
    assert world.phases == ["installer", "answer", "installing", "installed"]
    assert (world.bootable, world.failed(), world.taken) == (1, {}, 0)
    late = [words for words, env in world.ran if env == {"TARGET_MOUNT_POINT": "/target"}]
    assert late == [("late", "one"), ("sh", "-c", "late two")]
    assert ("say-so",) not in [words for words, _ in world.ran]
    assert (("chpasswd", "--encrypted"), {"stdin": "ubuntu:$6$salt$hash"}) in world.ran
    names = [(one["name"], one["event_type"]) for one in world.events()]
    assert names[0] == ("subiquity/load_autoinstall_config", "start")
    assert names[-1] == ("subiquity/Shutdown/shutdown", "start")
    assert names.index(("subiquity/Late/run", "finish")) < names.index(
        ("subiquity/Install/install", "finish")
    )


def test_what_stands_on_the_disk_is_cloud_inits_work_at_the_first_boot(
    world: World, hardware: Hardware
) -> None:
    play(world, hardware)
    root = world.folder / "live" / "target"
    installer = yaml.safe_load((root / "etc/cloud/cloud.cfg.d/99-installer.cfg").read_text())
    assert installer["datasource_list"] == ["None"]
    done = yaml.safe_load(installer["datasource"]["None"]["userdata_raw"])
    assert done["users"] == [
        {"name": "ubuntu", "lock_passwd": False, "ssh_authorized_keys": ["ssh-ed25519 AAAA x"]}
    ]
    assert (done["ssh_pwauth"], done["preserve_hostname"], done["fqdn"]) == (False, True, "work1.lab.local")
    network = yaml.safe_load((root / "etc/cloud/cloud.cfg.d/90-installer-network.cfg").read_text())
    assert network == {"network": GOOD["network"]}
    assert (root / "etc/hosts").read_text().splitlines()[1] == "127.0.1.1 work1"
    assert "datasource_list: [None]" in (root / "etc/cloud/cloud.cfg.d/99-installer.cfg").read_text()
    assert "PermanentMACAddress=\n" in next((root / "etc/systemd/network").rglob("*.conf")).read_text()


@pytest.mark.parametrize(
    ("args", "stuck"),
    [
        (ARGS.replace(" autoinstall ", " "), ubuntu_installer.UNCONFIRMED),
        (ARGS.replace("ip=dhcp ", ""), "no ip= brings the network up"),
        (ARGS.replace("iso-url=", "url="), "no iso-url="),
        (ARGS.replace("ds=nocloud;s=", "ds=nocloud s="), "no datasource found"),
        (ARGS.replace("ds=nocloud", "ds=ec2"), "no datasource found"),
    ],
)
def test_a_word_missing_on_the_kernels_command_line_stops_it(
    world: World, hardware: Hardware, args: str, stuck: str
) -> None:
    outcome = play(world, hardware, args)
    assert isinstance(outcome, Hang)
    assert stuck in outcome.why
    assert world.bootable == 0


def test_the_parts_must_be_of_one_build(world: World, hardware: Hardware, tmp_path: Path) -> None:
    ubuntu_media.build(tmp_path / "other", build_id="two", kernel=media.Kernel.played("6.8.0-31-generic"))
    kernel = play(world, hardware, kernel=tmp_path / "other" / "vmlinuz")
    initrd = play(world, hardware, initrd_0=tmp_path / "other" / "initrd", kernel=tmp_path / "other/vmlinuz")
    assert isinstance(kernel, Hang)
    assert isinstance(initrd, Hang)
    assert "no modules for kernel 6.8.0-31-generic" in kernel.why
    assert "not of the initrd's build" in initrd.why


def test_a_proxmox_initrd_is_none_of_ubuntu(tmp_path: Path, world: World) -> None:
    media.build(tmp_path / "pve", build_id="one")
    assert not ubuntu_live.is_ubuntu(RunInstaller("", {"initrd.0": tmp_path / "pve" / "initrd.img"}))
    assert not ubuntu_live.is_ubuntu(RunInstaller("", {"initrd.0": b"cut off"}))
    assert ubuntu_live.is_ubuntu(RunInstaller("", {"initrd.0": world.folder / "built" / "initrd"}))


def test_no_lease_no_medium(world: World, hardware: Hardware) -> None:
    world.lease = False
    outcome = play(world, hardware)
    assert isinstance(outcome, Hang)
    assert "no DHCP server answered" in outcome.why


@pytest.mark.parametrize("name", ["meta-data", "user-data"])
@pytest.mark.parametrize("given", [Response(404, {}, b""), HttpFailed("connection refused")])
def test_a_seed_is_asked_for_eleven_times(
    world: World, hardware: Hardware, name: str, given: Response | HttpFailed
) -> None:
    world.responses[name] = given
    outcome = play(world, hardware)
    assert isinstance(outcome, Hang)
    assert f"has no {name}" in outcome.why
    assert (world.files().count(name), world.taken) == (11, 10.0)


def test_what_a_seed_may_lack(world: World, hardware: Hardware) -> None:
    world.responses = dict.fromkeys(("network-config", "vendor-data"), Response(404, {}, b""))
    assert play(world, hardware) == Reboot()


@pytest.mark.parametrize(
    "text", ["autoinstall: {version: 1}\n", "#cloud-config\nhostname: x\n", "#cloud-config\na: [\n"]
)
def test_what_is_no_autoinstall_waits_for_somebody(world: World, hardware: Hardware, text: str) -> None:
    world.responses["user-data"] = Response(200, {}, text.encode())
    assert isinstance(play(world, hardware), Hang)
    assert "interactive installer" in hardware.console_log.read_text()
    assert world.events() == []


def test_a_cloud_config_with_a_typo_stops_it(world: World, hardware: Hardware) -> None:
    body = yaml.safe_dump({"autoinstall": GOOD, "typo": 1})
    world.responses["user-data"] = Response(200, {}, f"#cloud-config\n{body}".encode())
    outcome = play(world, hardware)
    assert isinstance(outcome, Hang)
    assert "cloud-init schema" in outcome.why


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("version", 2),
        ("identity", {"hostname": "x", "username": "y"}),
        ("storage", {"layout": {"name": "direct", "match": {"wwn": "0x5"}}}),
        ("keyboard", {"layout": "us", "model": "pc105"}),
        ("late-commands", "true"),
        ("late-command", ["true"]),
        ("network", {"version": 1}),
        ("shutdown", "halt"),
        ("ssh", {"allow-pw": "no"}),
        ("reporting", {"deaf": "x", "hook": {**GOOD["reporting"]["hook"], "level": "LOUD"}}),
    ],
)
def test_what_the_schema_refuses_is_reported_and_the_error_commands_run(
    world: World, hardware: Hardware, section: str, value: object
) -> None:
    world.config[section] = value
    outcome = play(world, hardware)
    assert isinstance(outcome, Hang)
    assert section == "reporting" or "subiquity/load_autoinstall_config" in world.failed()
    assert (("say-so",), {}) in world.ran
    assert world.bootable == 0


def test_a_refusal_tells_no_value(world: World, hardware: Hardware) -> None:
    world.config["identity"]["password"] = {"hashed": "canary-Sesame-3"}
    play(world, hardware)
    assert "canary" not in json.dumps(world.events()) + hardware.console_log.read_text()


@pytest.mark.parametrize(
    ("match", "found"),
    [
        ({"serial": "SAMSUNG_MZ7LH_S3Z8NX01"}, "sda"),
        ({"serial": "S3Z8NX01"}, None),  # a serial is ID_SERIAL: model and all
        ({"serial": "*s3z8nx01*"}, None),
        ({"model": "SAMSUNG*"}, "sda"),
        ({"path": "/dev/sdb"}, "sdb"),
        ({"path": "/dev/disk/by-id/*"}, None),  # a path is the kernel's
        ({"size": "largest"}, "sdb"),
        ({"size": "smallest"}, "sda"),
        ({"ssd": False}, "sdb"),
        ({"ssd": True, "model": "INTEL"}, None),
    ],
)
def test_a_disk_is_matched_as_subiquity_does(
    hardware: Hardware, match: dict[str, Any], found: str | None
) -> None:
    chosen = autoinstall.disk_for(hardware, match)
    assert (chosen.device if chosen else None) == found


@pytest.mark.parametrize(
    ("match", "said"),
    [({"serial": "*ANOTHER*"}, "Failed to find matching device"), ({"size": "largest"}, "takes sdb")],
)
def test_a_disk_that_is_not_the_systems_ends_it_before_anything_is_written(
    world: World, hardware: Hardware, match: dict[str, str], said: str
) -> None:
    world.config["storage"]["layout"]["match"] = match
    outcome = play(world, hardware)
    assert isinstance(outcome, Hang)
    assert said in outcome.why
    assert said in world.failed()["subiquity/Storage/apply_autoinstall_config"]
    assert world.ran == [(("say-so",), {})]
    assert not (world.folder / "live" / "target").exists()


def test_early_commands_may_change_the_autoinstall(world: World, hardware: Hardware) -> None:
    world.changed = deepcopy(GOOD) | {"shutdown": "poweroff"}
    world.config["early-commands"] = [["change"]]
    assert play(world, hardware) == PowerOff()


@pytest.mark.parametrize(
    ("key", "whole"), [("early-commands", "Early/run"), ("late-commands", "Install/install")]
)
def test_a_command_that_fails_ends_it(world: World, hardware: Hardware, key: str, whole: str) -> None:
    world.config[key], world.fails = [["broken"]], ("broken", "say-so")
    outcome = play(world, hardware)
    assert isinstance(outcome, Hang)
    assert f"{key}: command 0 ended with status 1" in outcome.why
    assert f"subiquity/{whole}" in world.failed()
    assert world.events()[-1]["name"] == "subiquity/Error/run"


def test_a_disk_that_breaks_ends_it(world: World, hardware: Hardware) -> None:
    world.breaks = True
    outcome = play(world, hardware)
    assert isinstance(outcome, Hang)
    assert "no space left" in world.failed()["subiquity/Install/install"]


def test_packages_and_what_is_none(world: World, hardware: Hardware) -> None:
    world.config["packages"] = ["htop"]
    assert play(world, hardware) == Reboot()
    assert [words[-1] for words, _ in world.ran if words[0] == "bash"] == ["htop"]
    world.config["packages"] = ["No Such"]
    (world.folder / "live" / "target").rename(world.folder / "before")
    (world.folder / "live").rename(world.folder / "live-before")
    assert isinstance(play(world, hardware), Hang)


def test_events_below_the_level_are_not_told(world: World, hardware: Hardware) -> None:
    world.config["reporting"]["hook"]["level"] = "ERROR"
    assert play(world, hardware) == Reboot()
    assert world.events() == []


def test_a_deaf_webhook_stops_nothing(world: World, hardware: Hardware) -> None:
    world.responses["reporting"] = HttpFailed("timed out")
    assert play(world, hardware) == Reboot()


def test_user_data_is_merged_as_subiquity_does() -> None:
    made = ubuntu_root.cloud_config({**GOOD, "user-data": {"users": ["x"], "growpart": {"devices": ["/"]}}})
    assert made["users"][1:] == ["x"]
    assert made["growpart"] == {"mode": "off", "devices": ["/"]}

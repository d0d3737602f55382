"""The played installer: what it asks for, what stops it for good, what it leaves on the disk."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from passlib.hash import sha512_crypt
from pycdlib.pycdlib import PyCdlib

from virtual_lab import installed_root, installer, media
from virtual_lab.dhcp_client import Lease, Message, NoLease
from virtual_lab.hardware import Dmi, Drive, Hang, Hardware, Outcome, PowerOff, Reboot, RunInstaller
from virtual_lab.http_client import HttpFailed, Request, Response
from virtual_lab.installed_root import Installation, Laid
from virtual_lab.live_system import ABORTED

ANSWER_URL = "http://10.10.1.1/answer/token"
ARGS = (
    "ramdisk_size=16777216 rw quiet initrd=initrd.img splash=silent proxmox-start-auto-installer"
    " console=ttyS0,115200"
)
GOOD: dict[str, Any] = {
    "global": {
        "country": "at", "keyboard": "en-us", "timezone": "Europe/Vienna", "fqdn": "node1.lab.local",
        "mailto": "ops@example.net", "root-password": "geheim-geheim",
        "root-ssh-keys": ["ssh-ed25519 AAAA x"],
    },
    "network": {
        "source": "from-answer", "cidr": "10.10.1.21/24", "gateway": "10.10.1.1", "dns": "10.10.1.2",
        "filter": {"ID_NET_NAME_MAC": "*ac1f6b6c5a76"},
    },
    "disk-setup": {"filesystem": "ext4", "filter": {"ID_SERIAL_SHORT": "S3Z8*"}},
    "post-installation-webhook": {"url": "http://10.10.1.1/installed/token", "auth-token": "echo-me"},
    "first-boot": {"source": "from-url", "url": "http://10.10.1.1/first-boot/token",
                   "ordering": "network-online"},
}  # fmt: skip


def changed(**tables: dict[str, Any] | None) -> dict[str, Any]:
    """The good answer with changed tables; None takes one away."""
    answer = dict(GOOD)
    for name, table in tables.items():
        key = name.replace("_", "-")
        answer[key] = None if table is None else {**answer.get(key, {}), **table}
    return {key: table for key, table in answer.items() if table is not None}


@dataclass
class World:
    """The installer's surroundings: what the server says, what was asked, what was laid on the disk."""

    root: Path
    answer: dict[str, Any] = field(default_factory=lambda: GOOD)
    options: dict[int, bytes] = field(default_factory=lambda: {250: ANSWER_URL.encode()})
    responses: dict[str, Response | HttpFailed] = field(default_factory=dict)
    lease: bool = True
    breaks: bool = False
    asked: list[Request] = field(default_factory=list)
    laid: list[Installation] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    taken: float = 0.0

    def live(self) -> installer.Live:
        return installer.Live(self._lease, self._send, self._lay_down, self._take)

    def paths(self) -> list[str]:
        return [f"{request.method} {request.url.removeprefix('http://10.10.1.1')}" for request in self.asked]

    def _lease(self, _hardware: Hardware) -> Lease:
        if not self.lease:
            raise NoLease("no DHCP server answered")
        routers = {
            1: b"\xff\xff\xff\0",
            3: IPv4Address("10.10.1.1").packed,
            6: IPv4Address("10.10.1.3").packed,
        }
        message = Message(op=2, xid=1, mac="", options=routers | self.options)
        return Lease("eno3", IPv4Interface("10.10.1.99/24"), None, message)

    def _send(self, request: Request, seconds: float) -> Response:
        assert seconds == 60
        self.asked.append(request)
        given = self.responses.get(request.url.split("/")[3])
        if isinstance(given, HttpFailed):
            raise given
        return given or Response(200, {"content-type": "application/toml"}, self._body(request.url))

    def _body(self, url: str) -> bytes:
        if "answer" in url:
            return tomli_w.dumps(self.answer).encode()
        return b"#!/bin/sh\n" if "first-boot" in url else b""

    def _lay_down(self, _hardware: Hardware, plan: Installation) -> Laid:
        if self.breaks:
            raise OSError("no space left on device")
        self.laid.append(plan)
        return Laid(installed_root.write(self.root, plan), {"ed25519": "ssh-ed25519 AAAA root@proxmox"})

    def _take(self, seconds: float) -> None:
        self.taken += seconds


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media") / "built"
    media.build(folder, build_id="one")
    return folder


@pytest.fixture
def world(tmp_path: Path) -> World:
    root = tmp_path / "root"
    for name, text in {"etc/shadow": "root:*:20000:0:99999:7:::\nbin:*:1::::::\n", "etc/resolv.conf": "",
                       "etc/ssh/sshd_config": "Port 22\n#PermitRootLogin prohibit-password\n",
                       "etc/apt/sources.list": "deb x\n"}.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return World(root)


@pytest.fixture
def hardware(tmp_path: Path) -> Hardware:
    dmi = Dmi(
        "Supermicro", "SYS-2029TP", "S1", "4916e828-6e75-5c5c-9dd5-ad61d583e613", "3.4", "X11", "B1", "C1"
    )
    return Hardware(
        name="node1", nics={"eno1": "ac:1f:6b:6c:5a:76", "eno3": "ac:1f:6b:6c:5a:77"},
        drive=Drive(tmp_path / "disk.img", 32 << 30, "S3Z8NX01", "SAMSUNG MZ7LH", "0x5002538e"), dmi=dmi,
        memory_mib=131072, cores=32, console_log=tmp_path / "console.log", layers=(),
        target=tmp_path / "root",
    )  # fmt: skip


@pytest.fixture
def run(built: Path, world: World, hardware: Hardware) -> Iterator[Callable[..., Outcome]]:
    def play(args: str = ARGS, hardware: Hardware = hardware, **files: Path | None) -> Outcome:
        given = {
            "kernel": built / "vmlinuz",
            "initrd": built / "initrd.img",
            "iso": built / media.ISO_NAME,
        } | files
        names = {"kernel": "kernel", "initrd": "initrd.0", "iso": "/proxmox.iso"}
        contents: dict[str, bytes | Path] = {names[name]: path for name, path in given.items() if path}
        return installer.install(
            hardware, RunInstaller(args, contents), phase=world.phases.append, live=world.live()
        )

    yield play


def console(hardware: Hardware) -> str:
    return hardware.console_log.read_text()


Run = Callable[..., Outcome]


def test_an_installation_from_beginning_to_end(run: Run, world: World) -> None:
    assert run() == Reboot()
    assert world.paths() == ["POST /answer/token", "GET /first-boot/token", "POST /installed/token"]
    assert world.phases == ["installer", "answer", "installing", "installed"]
    assert world.laid[0].management == "eno1"


def test_the_answer_is_asked_for_as_the_9_2_installer_does(run: Run, world: World) -> None:
    run()
    request = world.asked[0]
    assert dict(request.headers) == {
        "Content-Type": "application/json; charset=utf-8",
        "Accept": "application/json, application/toml;q=0.5",
    }
    body = json.loads(request.body)
    assert body["network_interfaces"] == [
        {"link": "eno1", "mac": "AC:1F:6B:6C:5A:76"},
        {"link": "eno3", "mac": "AC:1F:6B:6C:5A:77"},
    ]
    assert body["iso"] == {"release": "9.2", "isorelease": "1"}
    assert body["dmi"]["system"] == {"serial": "S1", "uuid": "4916e828-6e75-5c5c-9dd5-ad61d583e613",
                                     "name": "SYS-2029TP"}  # fmt: skip


def test_9_1_asks_in_lower_case_and_knows_no_json(run: Run, world: World, hardware: Hardware) -> None:
    world.responses["answer"] = Response(200, {"content-type": "application/json"}, json.dumps(GOOD).encode())
    assert isinstance(run(hardware=replace(hardware, release="9.1")), Hang)
    request = world.asked[0]
    assert "Accept" not in request.headers
    assert json.loads(request.body)["network_interfaces"][0]["mac"] == "ac:1f:6b:6c:5a:76"


def test_json_is_taken_from_9_2_on(run: Run, world: World) -> None:
    world.responses["answer"] = Response(201, {"content-type": "application/json"}, json.dumps(GOOD).encode())
    assert run() == Reboot()


@pytest.mark.parametrize("status", [204, 302, 403, 404, 410, 500])
def test_any_other_status_ends_at_a_shell_after_one_request(
    run: Run, world: World, hardware: Hardware, status: int
) -> None:
    world.responses["answer"] = Response(status, {}, b"not for you")
    outcome = run()
    assert isinstance(outcome, Hang)
    assert world.paths() == ["POST /answer/token"]
    assert ABORTED in console(hardware)
    assert "token" not in console(hardware), "the token of the answer is a secret"


def test_no_answer_at_all_is_not_asked_for_again(run: Run, world: World) -> None:
    world.responses["answer"] = HttpFailed("connection refused")
    assert isinstance(run(), Hang)
    assert len(world.asked) == 1


def test_a_refused_answer_ends_at_a_shell_even_with_reboot_on_error(run: Run, world: World) -> None:
    world.answer = changed(**{"global": {"reboot-on-error": True, "country": "xx"}})
    outcome = run()
    assert isinstance(outcome, Hang)
    assert "country code 'xx' is not valid" in outcome.why
    assert world.laid == []


@pytest.mark.parametrize("options", [{}, {250: b"http://10.10.1.1/a b"}])
def test_without_an_url_nothing_is_asked(run: Run, world: World, options: dict[int, bytes]) -> None:
    world.options = options
    assert isinstance(run(), Hang)
    assert world.asked == []


def test_without_a_lease_there_is_no_url(run: Run, world: World) -> None:
    world.lease = False
    assert isinstance(run(), Hang)


def test_the_fingerprint_comes_with_the_url(run: Run, world: World) -> None:
    world.options[251] = b"ab:cd"
    run()
    assert world.asked[0].fingerprint == "ab:cd"


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ("rw quiet initrd=initrd.img", "interactive installer"),
        (ARGS + " proxmox-tui-mode", "interactive installer"),
        (
            ARGS.replace("proxmox-start-auto-installer", "proxmox-start-auto-instaler"),
            "interactive installer",
        ),
    ],
)
def test_the_kernel_command_line_decides(run: Run, world: World, args: str, why: str) -> None:
    outcome = run(args)
    assert isinstance(outcome, Hang)
    assert why in outcome.why
    assert world.phases == []


def test_too_little_memory(run: Run, hardware: Hardware) -> None:
    assert isinstance(run(hardware=replace(hardware, memory_mib=6144)), Hang)
    assert "Initramfs unpacking failed: write error" in console(hardware)
    assert "[ERROR] no device with valid ISO found" in console(hardware)


def test_files_of_two_builds_do_not_go_together(run: Run, tmp_path: Path) -> None:
    media.build(tmp_path / "two", build_id="two", kernel=media.Kernel.played("7.0.9-1-pve"))
    for files in ({"iso": tmp_path / "two" / media.ISO_NAME}, {"kernel": tmp_path / "two/vmlinuz"},
                  {"initrd": tmp_path / "two/initrd.img"}):  # fmt: skip
        outcome = run(**files)
        assert isinstance(outcome, Hang)
        assert "not of one build" in outcome.why


@pytest.mark.parametrize("name", ["kernel", "initrd", "iso"])
def test_a_missing_or_broken_file(run: Run, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"not what it should be" * 100)
    assert isinstance(run(**{name: None}), Hang)
    assert isinstance(run(**{name: broken}), Hang)


def test_the_webhook_tells_all(run: Run, world: World) -> None:
    run()
    body = json.loads(world.asked[-1].body)
    assert body["$schema"] == {"version": "1.2"}
    assert (body["fqdn"], body["filesystem"], body["token"]) == ("node1.lab.local", "ext4", "echo-me")
    assert body["machine-id"] == (world.root / "etc/machine-id").read_text().strip()
    assert body["ssh-public-host-keys"] == {"ed25519": "ssh-ed25519 AAAA root@proxmox"}
    assert body["disks"][0]["is-bootdisk"] is True
    management, other = body["network-interfaces"]
    assert (management["address"], management["is-management"]) == ("10.10.1.21/24", True)
    assert management["mac"] == "ac:1f:6b:6c:5a:76"
    assert "address" not in other
    assert "is-pinned" not in management


def test_a_failing_webhook_leaves_a_shell(run: Run, world: World, hardware: Hardware) -> None:
    world.responses["installed"] = Response(500, {}, b"")
    assert isinstance(run(), Hang)
    assert "Installation done, rebooting..." not in console(hardware)


@pytest.mark.parametrize("what", ["webhook", "disk"])
def test_with_reboot_on_error_a_failure_says_it_is_done(
    run: Run, world: World, hardware: Hardware, what: str
) -> None:
    world.answer = changed(**{"global": {"reboot-on-error": True}})
    world.breaks = what == "disk"
    world.responses["installed"] = Response(500, {}, b"")
    assert run() == Reboot()
    assert world.taken == 30
    assert "Installation done, rebooting..." in console(hardware)


def test_a_failed_installation_calls_nobody(run: Run, world: World) -> None:
    world.breaks = True
    assert isinstance(run(), Hang)
    assert "POST /installed/token" not in world.paths()


@pytest.mark.parametrize("answer", [Response(404, {}, b""), HttpFailed("timed out")])
def test_without_its_first_boot_script_nothing_is_installed(
    run: Run, world: World, answer: Response | HttpFailed
) -> None:
    world.responses["first-boot"] = answer
    world.answer = changed(**{"global": {"reboot-on-error": True}})
    assert isinstance(run(), Hang)
    assert world.laid == []


def test_a_long_first_boot_script_is_cut_silently(run: Run, world: World) -> None:
    world.responses["first-boot"] = Response(200, {}, b"#" * (1 << 20) + b"lost")
    assert run() == Reboot()
    assert (world.root / "var/lib/proxmox-first-boot/proxmox-first-boot").stat().st_size == 1 << 20


def test_power_off_instead_of_reboot(run: Run, world: World) -> None:
    world.answer = changed(**{"global": {"reboot-mode": "power-off"}})
    assert run() == PowerOff()


@pytest.mark.parametrize(
    "tables",
    [{"network": {"filter": {"ID_NET_NAME_MAC": "*000000000000"}}},
     {"disk_setup": {"filter": {"ID_SERIAL_SHORT": "OTHER"}}},
     {"disk_setup": {"filesystem": "zfs", "zfs": {"raid": "raid1"}}}],
)  # fmt: skip
def test_a_filter_that_finds_nothing_stops_it(run: Run, world: World, tables: dict[str, Any]) -> None:
    world.answer = changed(**tables)
    assert isinstance(run(), Hang)
    assert world.laid == []


def test_a_disk_for_ceph_is_not_installed_to(run: Run, world: World, hardware: Hardware) -> None:
    osd = replace(
        hardware.drive, image=hardware.drive.image.with_name("sdb.img"), device="sdb", serial="OSD1"
    )
    both = replace(hardware, osd_drives=(osd,))
    world.answer = changed(**{"disk_setup": {"filter": {"ID_SERIAL_SHORT": "OSD*"}}})
    outcome = run(hardware=both)
    assert isinstance(outcome, Hang)
    assert "install to /dev/sdb, which the lab file gives to Ceph" in outcome.why
    assert world.laid == []
    world.answer = GOOD
    assert isinstance(run(hardware=both), Reboot)


def test_from_dhcp_freezes_the_lease(run: Run, world: World) -> None:
    world.answer = {**GOOD, "network": {"source": "from-dhcp"}}
    world.options |= {12: b"pve7", 15: b"dhcp.example"}
    world.answer["global"] = {**GOOD["global"], "fqdn": {"source": "from-dhcp", "domain": "other.example"}}
    assert run() == Reboot()
    plan = world.laid[0]
    assert (plan.fqdn, plan.management) == ("pve7.dhcp.example", "eno3")
    assert (str(plan.address), str(plan.dns)) == ("10.10.1.99/24", "10.10.1.3")


def test_what_the_disk_says_of_the_node(run: Run, world: World) -> None:
    run()
    read = {path: (world.root / path).read_text() for path in
            ("etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/ssh/sshd_config",
             "var/lib/pve-cluster/seed/user.cfg",
             "etc/apt/sources.list.d/pve-enterprise.sources")}  # fmt: skip
    assert read["etc/hosts"].startswith(
        "127.0.0.1 localhost.localdomain localhost\n10.10.1.21 node1.lab.local node1\n"
    )
    assert read["etc/hostname"] == "node1\n"
    assert read["etc/resolv.conf"] == "search lab.local\nnameserver 10.10.1.2\n"
    assert read["etc/ssh/sshd_config"] == "Port 22\nPermitRootLogin yes\n"
    assert read["var/lib/pve-cluster/seed/user.cfg"] == "user:root@pam:1:0:::ops@example.net::\n"
    assert "enterprise.proxmox.com" in read["etc/apt/sources.list.d/pve-enterprise.sources"]
    assert not (world.root / "etc/apt/sources.list").exists()
    assert (world.root / "etc/pve").is_dir()


def test_root_gets_in_by_hash_and_by_key(run: Run, world: World) -> None:
    run()
    root, other = (world.root / "etc/shadow").read_text().splitlines()
    assert sha512_crypt.verify("geheim-geheim", root.split(":")[1])
    assert root.endswith(":20000:0:99999:7:::")
    assert other == "bin:*:1::::::"
    keys = world.root / "root/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA x\n"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600


def test_interfaces_are_those_of_a_fresh_node(run: Run, world: World) -> None:
    run()
    assert (world.root / "etc/network/interfaces").read_text() == (
        "auto lo\niface lo inet loopback\n\niface eno1 inet manual\n\nauto vmbr0\niface vmbr0 inet static\n"
        "\taddress 10.10.1.21/24\n\tgateway 10.10.1.1\n\tbridge-ports eno1\n\tbridge-stp off\n"
        "\tbridge-fd 0\n\niface eno3 inet manual\n\nsource /etc/network/interfaces.d/*\n"
    )


def test_the_first_boot_unit_is_the_one_of_its_ordering(run: Run, world: World) -> None:
    run()
    script = world.root / "var/lib/proxmox-first-boot/proxmox-first-boot"
    assert script.read_text() == "#!/bin/sh\n"
    assert script.stat().st_mode & stat.S_IXUSR
    assert script.with_name("pending-first-boot-setup").exists()
    unit = "/usr/lib/systemd/system/proxmox-first-boot-network-online.service"
    links = world.root / "etc/systemd/system"
    assert str((links / "proxmox-first-boot.service").readlink()) == unit
    wanted = links / "network-online.target.wants/proxmox-first-boot-network-online.service"
    assert str(wanted.readlink()) == unit
    assert "proxmox-first-boot network-online" in (world.root / unit.lstrip("/")).read_text()


def test_without_a_first_boot_table_no_unit_is_linked(run: Run, world: World) -> None:
    world.answer = changed(first_boot=None)
    assert run() == Reboot()
    assert not (world.root / "etc/systemd/system/proxmox-first-boot.service").exists()


def test_the_kernels_words_leak_into_the_installed_system(run: Run, world: World) -> None:
    run(ARGS + " ip=dhcp hdsize=30")
    text = (world.root / "etc/default/grub.d/installer.cfg").read_text()
    assert '"$GRUB_CMDLINE_LINUX initrd=initrd.img console=ttyS0,115200 ip=dhcp"' in text
    assert "serial --unit=0 --speed=115200" in text


def test_zfs_is_said_to_be_ext4_and_keeps_its_own_command_line(
    run: Run, world: World, hardware: Hardware
) -> None:
    world.answer = changed(disk_setup={"filesystem": "zfs", "zfs": {"raid": "raid0"}})
    assert run() == Reboot()
    assert "zfs (RAID0) was asked for" in console(hardware)
    assert (world.root / "etc/kernel/cmdline").read_text().startswith("root=ZFS=rpool/ROOT/pve-1")
    assert "local-zfs" in (world.root / "var/lib/pve-cluster/seed/storage.cfg").read_text()


@pytest.mark.parametrize(("maxvz", "thin"), [(None, True), (0, False)])
def test_without_a_data_volume_local_takes_all(run: Run, world: World, maxvz: int | None, thin: bool) -> None:
    world.answer = changed(disk_setup={"lvm": {} if maxvz is None else {"maxvz": maxvz}})
    run()
    storage = (world.root / "var/lib/pve-cluster/seed/storage.cfg").read_text()
    assert ("local-lvm" in storage) == thin
    assert ("backup,import,rootdir,images" in storage) != thin


@pytest.mark.parametrize("enabled", [True, False])
def test_pinning_counts_as_soon_as_the_table_is_there(
    run: Run, world: World, hardware: Hardware, enabled: bool
) -> None:
    mapping = {"AC:1F:6B:6C:5A:76": "mgmt0", "02:00:00:00:00:99": "none0"}
    world.answer = changed(network={"interface-name-pinning": {"enabled": enabled, "mapping": mapping}})
    run()
    interfaces = (world.root / "etc/network/interfaces").read_text()
    assert "bridge-ports mgmt0" in interfaces
    assert "iface nic0 inet manual" in interfaces
    link = (world.root / "usr/local/lib/systemd/network/50-pmx-mgmt0.link").read_text()
    assert "MACAddress=ac:1f:6b:6c:5a:76\nType=ether" in link
    assert "no NIC has the MAC 02:00:00:00:00:99" in console(hardware)
    assert json.loads(world.asked[-1].body)["network-interfaces"][0]["is-pinned"] is True


def test_media_are_built_once_and_read_as_what_they_are(tmp_path: Path) -> None:
    first = media.prepare(tmp_path)
    built = first.iso.stat().st_mtime_ns
    assert media.prepare(tmp_path) == first
    assert first.iso.stat().st_mtime_ns == built
    assert media.kernel_release(first.vmlinuz.read_bytes()) == media.KERNEL
    iso = PyCdlib()
    iso.open(str(first.iso))
    assert (
        iso.full_path_from_dirrecord(iso.get_record(rr_path="/.disk/info"), rockridge=True) == "/.disk/info"
    )
    iso.close()

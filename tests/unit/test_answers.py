"""From the lab file to the answer: its keys, its rules, its look, and what the official tool has to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from checks import check_answer
from provision import answer_tool, answers, inventory, proxmox_answer
from provision.errors import InventoryError, LabError
from provision.inventory import Lab, Secret
from provision.inventory.disk_options import fits_only, one_glob
from provision.session import SESSION, Request, Session
from virtual_lab import installer, udev
from virtual_lab.answer import read
from virtual_lab.hardware import Dmi, Drive, Hardware

ROOT = Path(__file__).parents[2]
KEY = "pve2c-0123456789"
# The server's address is on loopback, and nothing listens there: no check reaches anything.
LAB = """\
name: attic
domain: lab.example.net
server: {host: "ssh:root@127.0.0.1:9", host_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ"}
networks:
  management: {cidr: 127.10.1.0/24, gateway: 127.10.1.1, bridge: vmbr0, nic: eno1}
  storage: {cidr: 127.10.2.0/24, bridge: vmbr1, nic: eno3}
defaults:
  os: proxmox-9
  bmc: {user: env:ATTIC_SECRET, password: env:ATTIC_SECRET}
  root_password: env:ATTIC_SECRET
  locale: {country: at, keyboard: de, timezone: Europe/Vienna}
nodes:
  node1:
    mac: "ac:1f:6b:00:00:21"
    management: 127.10.1.21
    storage: 127.10.2.21
    bmc: {address: 127.10.1.11}
    disk: DISK
    MORE
"""
PINNED = '{mgmt0: "AC-1F-6B-00-00-21", stor0: "ac:1f:6b:00:00:31"}'
NICS = "{management: mgmt0, storage: stor0}"


def written(tmp_path: Path, disk: str = "{serial: S3}", more: str = "") -> Path:
    path = tmp_path / "attic.yaml"
    path.write_text(LAB.replace("DISK", disk).replace("MORE", more.replace("\n", "\n    ")))
    return path


def setup_of(tmp_path: Path, disk: str) -> dict[str, Any]:
    lab = inventory.load(written(tmp_path, disk), {})
    return answers.preview(lab, lab.nodes["node1"])["disk-setup"]


@pytest.mark.parametrize(
    ("disk", "setup"),
    [
        ("{serial: S3*}", {"filesystem": "ext4", "filter": {"ID_SERIAL_SHORT": "S3*"}}),
        ("{wwn: '0x5'}", {"filesystem": "ext4", "filter": {"ID_WWN": "0x5"}}),
        ("{model: M-1}", {"filesystem": "ext4", "filter": {"ID_MODEL": "M-1"}}),
        ("{udev: {ID_PATH: 'pci-0000:00:17.0-ata-1'}}",
         {"filesystem": "ext4", "filter": {"ID_PATH": "pci-0000:00:17.0-ata-1"}}),
        ("{device: nvme0n1, filesystem: xfs, lvm: {hdsize: 100, swapsize: 8, maxroot: 40.5, maxvz: 0, minfree: 16}}",
         {"filesystem": "xfs", "disk-list": ["nvme0n1"],
          "lvm": {"hdsize": 100, "swapsize": 8, "maxroot": 40.5, "maxvz": 0, "minfree": 16}}),
        ("{serials: [S3-A1, S3-A2], filesystem: zfs, raid: raid1, zfs: {ashift: 13, arc_max: 4096, checksum: sha256, "
         "compress: zstd, copies: 2, hdsize: 200}}",
         {"filesystem": "zfs", "filter": {"ID_SERIAL_SHORT": "S3-A[12]"},
          "zfs": {"raid": "raid1", "ashift": 13, "arc-max": 4096, "checksum": "sha256", "compress": "zstd",
                  "copies": 2, "hdsize": 200}}),
        ("{devices: [sda, sdb], filesystem: btrfs, raid: raid0, btrfs: {compress: lzo, hdsize: 20}}",
         {"filesystem": "btrfs", "disk-list": ["sda", "sdb"],
          "btrfs": {"raid": "raid0", "compress": "lzo", "hdsize": 20}}),
    ],
)  # fmt: skip
def test_how_a_disk_ends_in_the_answer(disk: str, setup: dict[str, Any], tmp_path: Path) -> None:
    assert setup_of(tmp_path, disk) == setup


def test_how_the_rest_ends_in_the_answer(tmp_path: Path) -> None:
    more = f"interface_names: {PINNED}\nnics: {NICS}\nreboot_on_error: true\nsubscription: env:ATTIC_KEY"
    lab = inventory.load(written(tmp_path, more=more), {})
    answer = answers.preview(lab, lab.nodes["node1"])
    mapping = {"ac:1f:6b:00:00:21": "mgmt0", "ac:1f:6b:00:00:31": "stor0"}
    assert answer["network"]["interface-name-pinning"] == {"enabled": True, "mapping": mapping}
    assert (answer["global"]["reboot-on-error"], answer["global"]["country"]) == (True, "at")
    assert "subscription-key" not in answer["global"], "installers before 9.2 refuse it"
    newer = json.loads(proxmox_answer.as_json(answer, "token", Secret.known(KEY)))
    assert (newer["global"]["subscription-key"], newer["global"]["timezone"]) == (KEY, "Europe/Vienna")
    assert newer["post-installation-webhook"]["auth-token"] == "token"
    assert "auth-token" not in answer["post-installation-webhook"]


def test_the_played_installer_takes_exactly_the_disks_of_a_mirror(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, "{serials: [S3-A1, S3-A2], filesystem: zfs, raid: raid1}")
    drives = {"0": "S3-A1", "1": "S3-A2", "2": "S3-B1", "3": None, "4": "S3-A3"}
    devices = [
        udev.Device(name, {"ID_SERIAL_SHORT": serial} if serial else {}) for name, serial in drives.items()
    ]
    chosen = udev.all_matches(devices, setup["filter"], setup.get("filter-match", "any"))
    assert [device.name for device in chosen] == ["0", "1"]


def test_the_played_installer_gives_the_nics_their_pinned_names(tmp_path: Path) -> None:
    lab = inventory.load(written(tmp_path, more=f"interface_names: {PINNED}\nnics: {NICS}"), {})
    taken = read(
        proxmox_answer.as_toml(answers.preview(lab, lab.nodes["node1"])).encode(), "application/toml"
    )
    hardware = Hardware(
        name="node1", nics={"enp1s0": "ac:1f:6b:00:00:21", "enp2s0": "ac:1f:6b:00:00:31", "eno9": "02:00:00:00:00:09"},
        drive=Drive(tmp_path / "disk.img", 32 << 30, "S3", "M", "0x5"), dmi=Dmi("S", "S", "S", "u", "1", "X", "B", "C"),
        memory_mib=1, cores=1, console_log=tmp_path / "console", layers=(), target=tmp_path, release="9.1",
    )  # fmt: skip
    plan = installer.decide(hardware, taken, None, "")
    assert plan.names == {"enp1s0": "mgmt0", "enp2s0": "stor0", "eno9": "nic0"}
    assert plan.management == "enp1s0"


ZFS = "serials: [A1, A2, A3, A4], filesystem: zfs"
WRONG = {
    "glob with a recursive part": ("{serial: S3**}", "", "disk.serial", '"S3**" has **, which the Proxmox installer refuses'),
    "glob left open": ("{model: 'M[1'}", "", "disk.model", "a [ without its ]"),
    "serials that are globs": ("{serials: [A*, A2], filesystem: zfs, raid: raid1}", "", "disk.serials", '"A*" must be a whole serial'),
    "serials of no one glob": ("{serials: [A1, B2], filesystem: zfs, raid: raid1}", "", "disk", "[AB][12] fits others, too"),
    "serials of two lengths": ("{serials: [A1, A23], filesystem: zfs, raid: raid1}", "", "disk", "not of one length"),
    "serial twice": ("{serials: [A1, A1], filesystem: zfs, raid: raid1}", "", "disk.serials", '"A1" stands here twice'),
    "several ways": ("{serials: [A1], udev: {ID_PATH: x}, filesystem: zfs, raid: raid0}", "", "disk", "serials and udev are given"),
    "udev key that changes": ("{udev: {DEVNAME: /dev/sda}}", "", "disk.udev.DEVNAME", '"DEVNAME" names no disk for good'),
    "two udev keys": ("{udev: {ID_PATH: x, ID_BUS: ata}}", "", "disk.udev", "at most 1"),
    "no way": ("{filesystem: ext4}", "", "disk", "does not say which disk"),
    "two disks for ext4": ("{devices: [sda, sdb]}", "", "disk", "ext4 takes one disk, and 2 are given"),
    "one serial for a mirror": ("{serial: S3, filesystem: zfs, raid: raid1}", "", "disk", "raid1 needs at least 2 disks, and 1 is given"),
    "three of raidz-2": ("{devices: [sda, sdb, sdc], filesystem: zfs, raid: raidz-2}", "", "disk", "raidz-2 needs at least 4"),
    "odd raid10": ("{devices: [sda, sdb, sdc, sdd, sde], filesystem: zfs, raid: raid10}", "", "disk", "raid10 needs an even number"),
    "raid of ext4": ("{serial: S3, raid: raid1}", "", "disk", "ext4 has no raid"),
    "zfs without raid": (f"{{{ZFS}}}", "", "disk", "zfs needs raid"),
    "btrfs raidz": ("{serial: S3*, filesystem: btrfs, raid: raidz-1}", "", "disk", "btrfs has no raidz-1"),
    "other options": ("{serial: S3, zfs: {ashift: 12}}", "", "disk", "zfs is given, but the options of ext4 stand under lvm"),
    "swap": ("{serial: S3, lvm: {hdsize: 10, swapsize: 6}}", "", "disk", "lvm.swapsize 6 is more than half of lvm.hdsize 10"),
    "ashift": (f"{{{ZFS}, raid: raid10, zfs: {{ashift: 8}}}}", "", "disk.zfs.ashift", "8"),
    "arc_max": (f"{{{ZFS}, raid: raid10, zfs: {{arc_max: 63}}}}", "", "disk.zfs.arc_max", "63"),
    "copies": (f"{{{ZFS}, raid: raid10, zfs: {{copies: 4}}}}", "", "disk.zfs.copies", "4"),
    "checksum": (f"{{{ZFS}, raid: raid10, zfs: {{checksum: md5}}}}", "", "disk.zfs.checksum", '"md5" must be'),
    "compress": (f"{{{ZFS}, raid: raid10, zfs: {{compress: lzo}}}}", "", "disk.zfs.compress", '"lzo" must be'),
    "raid under zfs": (f"{{{ZFS}, raid: raid10, zfs: {{raid: raid10}}}}", "", "disk.zfs.raid", "is an unknown key"),
    "hdsize": ("{serial: S3, lvm: {hdsize: nan}}", "", "disk.lvm.hdsize", "nan"),
    "country": ("{serial: S3}", "locale: {country: xx}", "locale.country", '"xx" is no country that the Proxmox installer knows'),
    "time zone": ("{serial: S3}", "locale: {timezone: Europe/Wien}", "locale.timezone", '; did you mean "Europe/Vienna"?'),
    "mail": ("{serial: S3}", "mailto: a@-b", "mailto", '"a@-b" is no mail address'),
    "pinned like the rest": ("{serial: S3}", 'interface_names: {nic0: "ac:1f:6b:00:00:21"}', "interface_names.nic0", "cannot be pinned"),
    "pinned with a dash": ("{serial: S3}", 'interface_names: {mg-0: "ac:1f:6b:00:00:21"}', "interface_names.mg-0", "cannot be pinned"),
    "pinned to no MAC": ("{serial: S3}", "interface_names: {mgmt0: x}", "interface_names.mgmt0", '"x" is no MAC address'),
    "NIC that is not pinned": ("{serial: S3}", f"interface_names: {PINNED}\nnics: {{management: mgmt0}}", "nics.storage", '"eno3" is not pinned'),
    "NIC pinned to another": ("{serial: S3}", f"interface_names: {PINNED}\nnics: {{management: stor0, storage: mgmt0}}",
                              "interface_names.stor0", '"ac:1f:6b:00:00:31" is not the MAC of the NIC in management'),
    "MAC pinned twice": ("{serial: S3}", 'interface_names: {mgmt0: "ac:1f:6b:00:00:21", stor0: "ac:1f:6b:00:00:21"}\n'
                         f"nics: {NICS}", "interface_names.stor0", "is already pinned to mgmt0"),
    "restart": ("{serial: S3}", "reboot_on_error: perhaps", "reboot_on_error", "perhaps"),
    "subscription inline": ("{serial: S3}", f"subscription: {KEY}", "subscription", "must not stand in the lab file"),
    "pinning on Ubuntu": ("{serial: S3}", f"os: ubuntu-24.04\ninterface_names: {PINNED}\nnics: {NICS}", "interface_names", "Proxmox nodes only"),
    "serials on Ubuntu": ("{serials: [S3]}", "os: ubuntu-24.04", "disk.serials", "Proxmox nodes only"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_rule_that_a_lab_file_breaks_is_one_mistake_at_its_place(case: str, tmp_path: Path) -> None:
    disk, more, place, said = WRONG[case]
    with pytest.raises(InventoryError) as caught:
        inventory.load(written(tmp_path, disk, more), {})
    # A NIC that is not pinned is a mistake of its own where the pinning is what is wrong.
    others = ("nodes.node1.nics",) if place.startswith("interface_names") else ()
    (mistake,) = [each for each in caught.value.mistakes if not each.place.startswith(others)]
    assert (mistake.place.removeprefix("nodes.node1."), said in mistake.message) == (place, True), str(
        mistake
    )
    assert mistake.line is not None
    assert KEY not in str(mistake)


def test_a_disk_of_the_system_is_none_of_cephs(tmp_path: Path) -> None:
    path = written(tmp_path, "{serial: S3*}")
    path.write_text(path.read_text() + "ceph: {release: squid, osds: {disks: {all: [{serial: S3Z8*}]}}}\n")
    with pytest.raises(InventoryError, match=r'"S3\*" also matches a disk for Ceph, "S3Z8\*"'):
        inventory.load(path, {})


def test_a_mac_is_pinned_on_one_node_alone(tmp_path: Path) -> None:
    path = written(tmp_path, more=f"interface_names: {PINNED}\nnics: {NICS}")
    one = path.read_text()
    two = (
        one[one.index("  node1:") :].replace("node1", "node2").replace(":21", ":22", 1).replace(".21", ".22")
    )
    two = two.replace('{mgmt0: "AC-1F-6B-00-00-21"', '{mgmt0: "AC-1F-6B-00-00-22"').replace(".11}", ".12}")
    path.write_text(one + two.replace("S3", "S4"))
    with pytest.raises(InventoryError) as caught:
        inventory.load(path, {})
    (mistake,) = caught.value.mistakes
    assert mistake.place == "nodes.node2.interface_names"
    assert '"ac:1f:6b:00:00:31" is also the MAC of node1' in mistake.message


def test_what_ubuntu_leaves_unsaid_it_may_inherit_as_false(tmp_path: Path) -> None:
    more = "os: ubuntu-24.04\nreboot_on_error: false\nsubscription: null"
    assert inventory.load(written(tmp_path, more=more), {}).nodes["node1"].os == "ubuntu-24.04"


@pytest.mark.parametrize(
    ("serials", "glob", "only"),
    [(("A1",), "A1", True), (("A1", "A2"), "A[12]", True), (("A-", "A1", "A+"), "A[-+1]", True),
     (("A1", "B2"), "[AB][12]", False), (("A1", "A2", "B1", "B2"), "[AB][12]", True)],
)  # fmt: skip
def test_the_narrowest_glob(serials: tuple[str, ...], glob: str, only: bool) -> None:
    assert (one_glob(serials), fits_only(serials)) == (glob, only)


# Looked at and judged


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return inventory.load(written(tmp_path, more="subscription: env:ATTIC_KEY"), {})


def test_what_is_shown_holds_no_secret(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTIC_KEY", KEY)
    text = answers.shown(lab, lab.nodes["node1"])
    assert KEY not in text
    assert "$6$" not in text
    for line in ('subscription-key = "[secret]"', 'root-password-hashed = "[secret]"', 'auth-token = "[secret]"',
                 'url = "https://127.10.1.1/installed/[secret]"', 'fqdn = "node1.lab.example.net"'):  # fmt: skip
        assert line in text.splitlines()
    assert answers.faults(lab, lab.nodes["node1"]) == []


def test_a_note_is_shown_and_stops_nothing(tmp_path: Path) -> None:
    lab = inventory.load(written(tmp_path, "{devices: [sda, sdb], filesystem: zfs, raid: raid0}"), {})
    node = lab.nodes["node1"]
    last = answers.shown(lab, node).splitlines()[-1]
    assert last == "# disk-setup.disk-list: a listed disk that is not there is left out without a word (note)"
    assert answers.faults(lab, node) == []


def test_a_subscription_key_of_another_product_is_told_and_not_shown(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTIC_KEY", "pbs2c-0123456789")
    (fault,) = answers.faults(lab, lab.nodes["node1"])
    assert fault == "global.subscription-key: is not the key of a Proxmox VE subscription"


Break = Callable[[dict[str, Any]], object]
BREAKS: dict[str, tuple[Break, str]] = {
    "an unknown key": (lambda answer: answer["global"].update(root_shell="zsh"), "global.root_shell: is an unknown key"),
    "both passwords": (lambda answer: answer["global"].update({"root-password": "Sesame-12"}), "cannot be set at the same time"),
    "a name with an underscore": (lambda answer: answer["global"].update(reboot_mode="reboot"), "deprecated"),
    "no filter": (lambda answer: answer["network"].pop("filter"), "no filter defined"),
    "a filter of two keys": (lambda answer: answer["network"]["filter"].update(INTERFACE="eno1"), "trap"),
    "no disk": (lambda answer: answer["disk-setup"].pop("filter"), "needs either disk-list or filter"),
    "a new key for old installers": (
        lambda answer: answer["global"].update({"subscription-key": KEY}), "installers from 9.2 on"),
}  # fmt: skip


@pytest.mark.parametrize("case", BREAKS)
def test_a_fault_planted_into_the_rendering_is_caught(
    case: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, said = BREAKS[case]
    real = proxmox_answer.answer

    def broken(*arguments: Any, **more: Any) -> dict[str, Any]:
        answer = real(*arguments, **more)
        plant(answer)
        return answer

    monkeypatch.setattr(proxmox_answer, "answer", broken)
    session = Session(Request("provision", tmp_path / "attic.yaml"), lab, "run-1")
    with pytest.raises(InventoryError, match=r"nodes\.node1: its answer would be wrong") as caught:
        session.judge_answers()
    assert said in str(caught.value)
    with pytest.raises(AssertionError, match="assert"):
        check_answer.test_installer_takes_it(_configured(session), lab.nodes["node1"])


def _configured(session: Session) -> Any:
    class Config:
        stash = pytest.Stash()

    Config.stash[SESSION] = session
    return Config


def test_who_only_looks_or_installs_nothing_is_not_judged(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "mistakes", lambda *_: pytest.fail("it was judged"))
    Session(Request("verify", Path("x")), lab, "run-1").judge_answers()
    Session(Request("provision", Path("x"), only_step="templates"), lab, "run-1").judge_answers()


# The official tool, played: its words, its exit codes

GOOD = f"echo '{answer_tool.GOOD}'"
BAD = """cat >&2 <<'WORDS'
Error parsing answer file: TOML parse error at line 3, column 1
unknown field `bogus`
Error: Found issues in the answer file.
WORDS
"""
OLD = """cat >&2 <<'WORDS'
Warning: Section [global] contains deprecated key `root_password`, use `root-password` instead.
Warning: Answer file is using deprecated underscore keys. Since PVE 8.4-1 and PBS 3.4-1, kebab-case style keys are now preferred.
Error: Found issues in the answer file.
WORDS
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a played assistant that does this when it is to validate an answer."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def install(script: str) -> None:
        path = folder / answer_tool.TOOL
        path.write_text(f'#!/bin/sh\n[ "$1" = validate-answer ] && [ -s "$2" ] || exit 2\n{script}\n')
        path.chmod(0o755)

    return install


@pytest.mark.parametrize(("script", "said"), [
    (GOOD, []),
    (BAD, ["Error parsing answer file: TOML parse error at line 3, column 1", "unknown field `bogus`"]),
    (f"{BAD}exit 1", ["Error parsing answer file: TOML parse error at line 3, column 1", "unknown field `bogus`"]),
    ("echo 'Error: Found issues in the answer file.' >&2; exit 1", ["Error: Found issues in the answer file."]),
    (f"{GOOD}; echo 'killed at the end' >&2; exit 1", ["killed at the end"]),
])  # fmt: skip
def test_what_the_official_tool_says(
    script: str, said: list[str], lab: Lab, tool: Callable[[str], None]
) -> None:
    tool(script)
    expected = [f"{answer_tool.TOOL}: {line}" for line in said]
    assert answers.faults(lab, lab.nodes["node1"]) == expected


def test_the_official_tool_minds_old_names(lab: Lab, tool: Callable[[str], None]) -> None:
    tool(OLD)
    first, second = answers.faults(lab, lab.nodes["node1"])
    assert "deprecated key `root_password`" in first
    assert "deprecated underscore keys" in second


def test_the_official_tool_reads_the_answer_that_is_rendered(
    lab: Lab, tool: Callable[[str], None], tmp_path: Path
) -> None:
    tool(f'cp "$2" {tmp_path}/seen; stat -c %a "$(dirname "$2")" >{tmp_path}/mode; {GOOD}')
    node = lab.nodes["node1"]
    assert answers.faults(lab, node) == []
    assert (tmp_path / "seen").read_text() == proxmox_answer.as_toml(answers.preview(lab, node))
    assert (tmp_path / "mode").read_text() == "700\n"


@pytest.mark.parametrize(
    ("script", "said"), [("exit 0", "gave no verdict (exit 0)"), ("kill -9 $$", "gave no verdict")]
)
def test_a_tool_without_a_verdict_is_trouble(
    script: str, said: str, lab: Lab, tool: Callable[[str], None]
) -> None:
    tool(script)
    with pytest.raises(LabError, match="gave no verdict") as caught:
        answers.faults(lab, lab.nodes["node1"])
    assert said in str(caught.value)


def test_a_tool_that_never_ends_is_trouble(
    lab: Lab, tool: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_tool, "SECONDS", 0.1)
    tool("exec sleep 30")
    with pytest.raises(LabError, match=r"no verdict within 0\.1 s"):
        answers.faults(lab, lab.nodes["node1"])


# From outside


def run(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    secrets = {"ATTIC_SECRET": "canary-Sesame-1", "ATTIC_KEY": KEY, "RACKPROOF_HOME": str(tmp_path / "home")}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env={**os.environ, **secrets, **env},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_verify_shows_and_judges_without_reaching_anything(tmp_path: Path) -> None:
    path = written(tmp_path, more="subscription: env:ATTIC_KEY")
    out = ("--lab", str(path), "--out", str(tmp_path / "out"))
    result = run(tmp_path, "pytest", "-c", "pyproject.toml", "-m", "verify", "-k", "answer", *out)
    assert result.returncode == 0, result.stdout
    assert 'fqdn = "node1.lab.example.net"' in result.stdout.splitlines()
    junit = ElementTree.parse(tmp_path / "out" / "latest" / "junit.xml").getroot()
    (case,) = junit.iter("testcase")
    assert 'fqdn = "node1.lab.example.net"' in str(case.findtext("system-out"))
    assert case.get("name") == "test_installer_takes_it[node1]"
    for secret in (KEY, "canary-Sesame-1", "$6$"):
        kept = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
        assert secret.encode() not in b"".join([result.stdout.encode(), *kept])


@pytest.mark.parametrize("how", [("--wipe", "attic"), ("--plan",)])
def test_what_the_official_tool_minds_stops_a_run_before_anything_is_touched(
    how: tuple[str, ...], tmp_path: Path, tool: Callable[[str], None]
) -> None:
    tool(BAD)
    path = written(tmp_path)
    order = ("--lab", str(path), "--out", str(tmp_path / "out"), *how)
    result = run(tmp_path, "pytest", "-c", "pyproject.toml", "-m", "provision", *order)
    assert result.returncode == 4
    assert (
        f"{path}: nodes.node1: its answer would be wrong: {answer_tool.TOOL}: unknown field" in result.stderr
    )
    assert "nothing was touched" in result.stderr
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "out").exists()


def test_the_command_shows_writes_and_judges(
    tmp_path: Path, tool: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = str(written(tmp_path)), tmp_path / "written"
    assert answers.main([path, "--nodes", "node1", "--output", str(out)], {}) == 0
    shown = capsys.readouterr().out
    assert shown == f"# node1\n{(out / 'node1.toml').read_text()}\n"
    tool(BAD)
    assert answers.main([path], {}) == 1
    assert f"node1: {answer_tool.TOOL}: unknown field `bogus`" in capsys.readouterr().err
    tool("exit 0")
    assert answers.main([path], {}) == 1
    assert answers.main([path, "--nodes", "node9"], {}) == 4
    assert '"node9" is not a node' in capsys.readouterr().err

"""The script of the first boot: shellcheck's word on it, and each of its parts run on a machine made of files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from checks.check_repositories import parse_sources
from provision import inventory, proxmox_answer, ubuntu_seed
from provision.certificate import Certificate
from provision.inventory import FirstBoot, Lab, Node
from provision.permit import Permit
from tests.certificates import certificate_of

ROOT = Path(__file__).parents[2]
LABS = sorted((ROOT / "labs").glob("*.yaml"))
TOOLS = ("apt-get", "chronyc", "dpkg-query", "ethtool", "findmnt", "ifreload", "ip", "python3", "sleep", "sync", "systemctl", "timeout",
         "proxmox-boot-tool", "udevadm", "update-grub", "update-initramfs")  # fmt: skip
"""What a part calls beside the tools that every system has; here each writes down that it was called."""

STUB = """\
#!/bin/bash
name=${0##*/}
echo "$name $*" >>@/calls
[ ! -e "@/answers/$name" ] || . "@/answers/$name"
"""
OWN_PATHS = re.compile(r"(?<![\w.}/-])/(etc|sys|proc|var|boot|usr/local)/")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate_of(tmp_path_factory.mktemp("tls"))


def load(path: Path = ROOT / "labs" / "virtual.yaml") -> Lab:
    return inventory.load(path, {})


def permit(node: Node, run: str = "run-1") -> Permit:
    return Permit(node, run, 0.0, "answer-token", "report-token", "hook-token", "0123456789abcdef")


def script_of(lab: Lab, given: Permit, certificate: Certificate) -> str:
    make = proxmox_answer.first_boot if given.node.is_proxmox else ubuntu_seed.first_boot
    return make(lab, given, certificate)


def shellcheck(*scripts: str) -> str:
    """What shellcheck has to say of scripts, all of them in one go."""
    said = [
        subprocess.run(["shellcheck", "-"], input=text, text=True, capture_output=True, check=False).stdout
        for text in scripts
    ]
    return "\n".join(said).strip()


@dataclass
class Machine:
    """A machine that is a folder: the script's own paths lie in it, and its tools are stubs that tell of it."""

    root: Path
    lab: Lab
    certificate: Certificate

    def __post_init__(self) -> None:
        for folder in ("bin", "answers", "var/log", "etc/network", "sys/class/net"):
            (self.root / folder).mkdir(parents=True)
        for tool in TOOLS:
            self.answer(tool, None)
        self.write("etc/network/interfaces", "auto lo\n")
        for nic, mac in (("eno1", "52:54:00:a1:01:22"), ("eno3", "52:54:00:a1:02:22")):
            self.write(f"sys/class/net/{nic}/address", f"{mac}\n")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def answer(self, tool: str, shell: str | None) -> None:
        """Let the machine have this tool, which does what `shell` says once its call is written down."""
        stub = self.root / "bin" / tool
        stub.write_text(STUB.replace("@", str(self.root)))
        stub.chmod(0o755)
        if shell is not None:
            self.write(f"answers/{tool}", shell)

    def boot(self, run: str = "run-1", **asked: Any) -> subprocess.CompletedProcess[str]:
        """Run the script of node2, with what is asked of it below `first_boot`."""
        first_boot = FirstBoot.model_validate(asked)
        node = self.lab.nodes["node2"].model_copy(update={"first_boot": first_boot})
        text = script_of(self.lab, permit(node, run), self.certificate).replace("patience=60", "patience=0")
        (self.root / "calls").write_text("")
        return subprocess.run(
            ["bash", "-c", OWN_PATHS.sub(rf"{self.root}/\1/", text)], text=True, capture_output=True,
            check=False, env={"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"},
        )  # fmt: skip

    def calls(self, tool: str) -> list[str]:
        """With what a tool was called in the last boot."""
        lines = [line.split(" ", 1) for line in self.read("calls").splitlines()]
        return [rest for name, rest in lines if name == tool]

    def reports(self) -> list[tuple[str, str]]:
        """The phases and texts that were reported in the last boot."""
        found = (re.match(r"- (\S+) \S+ (.*?) (?:/.*)?$", call + " ") for call in self.calls("python3"))
        return [(match[1], match[2].strip()) for match in found if match]

    def outcomes(self) -> dict[str, str]:
        """What each part of the last boot reported of itself."""
        said = (text for phase, text in self.reports() if phase == "status" and "apt-get" not in text)
        return {
            part: rest for text in said for part, _, rest in (one.partition(" ") for one in text.split("; "))
        }

    def digests(self) -> dict[str, str]:
        """Every file of /etc by its content."""
        files = [path for path in (self.root / "etc").rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def machine(tmp_path: Path, certificate: Certificate) -> Machine:
    return Machine(tmp_path, load(), certificate)


EVERYTHING = {
    "repositories": "test", "update": True, "packages": ["tmux", "g++"], "sysctl": {"vm.swappiness": "10"},
    "nic_tuning": True, "governor": "performance", "nvme": {"scheduler": "none", "requests": 1023},
    "zfs_arc_max": 8192, "iommu": True, "node_exporter": True, "firewall": {"allow": ["192.0.2.0/24"]},
    "backup": {"schedule": "sat 03:30", "storage": "nas", "keep": 2},
}  # fmt: skip


# The script


@pytest.mark.parametrize("path", LABS, ids=[path.stem for path in LABS])
def test_shellcheck_finds_nothing_in_the_first_boot_of_any_lab(path: Path, certificate: Certificate) -> None:
    lab = load(path)
    assert shellcheck(script_of(lab, permit(next(iter(lab.nodes.values()))), certificate)) == ""


@pytest.mark.parametrize("system", ["proxmox-9", "ubuntu-24.04"])
def test_shellcheck_finds_nothing_whatever_the_run_is_called(system: str, certificate: Certificate) -> None:
    lab = load()
    node = lab.nodes["node1"].model_copy(update={"os": system})
    assert shellcheck(script_of(lab, permit(node, 'it\'s; "&" <|>\n{#}'), certificate)) == ""


@pytest.mark.parametrize(
    "asked", [EVERYTHING, {"ten_gbit": False, "repositories": "none"}], ids=["all", "least"]
)
def test_shellcheck_finds_nothing_whatever_is_asked_for(
    asked: dict[str, Any], certificate: Certificate
) -> None:
    lab = load()
    node = lab.nodes["node1"].model_copy(update={"first_boot": FirstBoot.model_validate(asked)})
    assert shellcheck(script_of(lab, permit(node), certificate)) == ""


def test_shellcheck_finds_nothing_in_what_the_parts_leave_on_the_node(machine: Machine) -> None:
    machine.boot(nic_tuning=True)
    assert shellcheck(machine.read("usr/local/sbin/rackproof-tune-nics")) == ""


def test_every_part_is_a_template_and_every_template_a_part() -> None:
    templates = {path.name.removesuffix(".sh.j2") for path in (ROOT / "boot_templates/first-boot").iterdir()}
    # The host key's is of those alone that have one made (tests/unit/test_host_key.py).
    assert templates - {"frame", "host_key"} == set(FirstBoot.model_validate(EVERYTHING).parts)


def test_shellcheck_does_find_what_is_wrong() -> None:
    assert "SC2086" in shellcheck("#!/bin/bash\nrm $1\n")


def test_the_script_is_short_enough_for_the_installer(certificate: Certificate) -> None:
    lab = load()
    assert len(script_of(lab, permit(lab.nodes["node1"]), certificate).encode()) < 1024 * 1024


def test_every_part_reports_and_the_last_word_is_that_it_is_done(machine: Machine) -> None:
    done = machine.boot()
    assert done.returncode == 0, done.stdout
    told = machine.reports()
    assert [told[0], told[-1]] == [
        ("first-boot", "first boot has begun"),
        ("registered", "first boot is done"),
    ]
    assert list(machine.outcomes()) == list(FirstBoot().parts)


def test_a_second_run_changes_no_file_and_touches_no_network(machine: Machine) -> None:
    machine.boot()
    before = machine.digests()
    done = machine.boot()
    assert done.returncode == 0, done.stdout
    assert machine.digests() == before
    assert machine.calls("ifreload") == []
    for part, outcome in machine.outcomes().items():
        assert outcome.startswith("as it was"), part


def test_a_part_that_fails_ends_the_script_and_says_where(machine: Machine) -> None:
    machine.answer("systemctl", "[ $1 != reload ] || { echo no such unit; exit 5; }")
    done = machine.boot()
    assert done.returncode == 1
    phase, text = machine.reports()[-1]
    assert phase == "failed"
    assert re.fullmatch(r"ssh: line \d+: systemctl reload ssh", text)
    assert "no such unit" in machine.read("var/log/rackproof-first-boot.log")
    assert not (machine.root / "etc/rackproof/install.json").exists()


def test_what_fails_inside_of_a_substitution_is_told_once(machine: Machine) -> None:
    shutil.rmtree(machine.root / "sys/class/net/eno3")
    assert machine.boot().returncode == 1
    failures = [text for phase, text in machine.reports() if phase == "failed"]
    assert len(failures) == 1
    assert failures[0].startswith("networks: line ")


@pytest.mark.parametrize("run", ['$(touch /tmp/x)`id`"\\', "two\nlines; id"])
def test_what_is_left_of_its_install_is_json_whatever_the_run_is_called(machine: Machine, run: str) -> None:
    assert machine.boot(run=run).returncode == 0
    left = json.loads(machine.read("etc/rackproof/install.json"))
    assert (left["run"], left["node"], left["nonce"]) == (run, "node2", "0123456789abcdef")


# The networks


def test_networks_are_written_with_mtu_and_broadcast(machine: Machine) -> None:
    machine.boot()
    text = machine.read("etc/network/interfaces")
    for line in ("broadcast 10.10.1.255", "broadcast 10.10.2.255", "mtu 9000", "bridge-ports eno3"):
        assert f"\t{line}\n" in text
    assert text.count("gateway") == 1
    assert not (machine.root / "etc/network/interfaces.before-rackproof").exists()


def test_networks_that_cut_the_server_off_are_taken_back(machine: Machine) -> None:
    machine.answer("timeout", f"grep -q '^auto lo$' {machine.root}/etc/network/interfaces"
                              f" && ! grep -q vmbr1 {machine.root}/etc/network/interfaces")  # fmt: skip
    done = machine.boot()
    assert done.returncode == 1
    assert machine.read("etc/network/interfaces") == "auto lo\n"
    assert len(machine.calls("ifreload")) == 2
    phase, text = machine.reports()[-1]
    assert phase == "failed"
    assert text.endswith("the server was out of reach by the new networks, and the old ones are back")


def test_networks_that_were_not_proved_before_a_power_cut_are_proved_by_the_next_boot(
    machine: Machine,
) -> None:
    machine.answer("ifreload", "kill -9 $PPID; exit 1")
    assert machine.boot().returncode == -9
    assert machine.read("etc/network/interfaces.before-rackproof") == "auto lo\n"
    machine.write("answers/ifreload", "")
    assert machine.boot().returncode == 0
    assert len(machine.calls("ifreload")) == 1
    assert not (machine.root / "etc/network/interfaces.before-rackproof").exists()


# Repositories and packages

ENTERPRISE = """\
Types: deb
URIs: https://enterprise.proxmox.com/debian/pve
Suites: trixie
Components: pve-enterprise
Signed-By: /usr/share/keyrings/proxmox-archive-keyring.gpg
"""
CEPH = ENTERPRISE.replace("/pve", "/ceph-tentacle").replace("pve-enterprise", "enterprise")
SOURCES = "etc/apt/sources.list.d"


def components(machine: Machine) -> set[str]:
    """Those of every repository that is on, as the check reads them."""
    texts = [path.read_text() for path in (machine.root / SOURCES).glob("*.sources")]
    stanzas = [stanza for text in texts for stanza in parse_sources(text)]
    return {stanza["components"] for stanza in stanzas if stanza.get("enabled") != "no"}


@pytest.mark.parametrize(
    ("asked", "on"),
    [
        ("no-subscription", {"pve-no-subscription"}),
        ("test", {"pve-test"}),
        ("enterprise", {"pve-enterprise", "enterprise"}),
        ("none", set()),
    ],
)
def test_the_repositories_asked_for_are_on_whatever_was_on_before(
    machine: Machine, asked: str, on: set[str]
) -> None:
    machine.write(f"{SOURCES}/pve-enterprise.sources", ENTERPRISE)
    machine.write(f"{SOURCES}/ceph.sources", CEPH)
    for before in ("no-subscription", "enterprise", asked, asked):
        assert machine.boot(repositories=before).returncode == 0
    assert components(machine) == on
    assert machine.outcomes()["repositories"] == "as it was"


def test_every_stanza_of_a_file_is_switched_off_and_a_comment_left_alone(machine: Machine) -> None:
    text = f"# the first\n{CEPH}\n{CEPH}Enabled: yes\n"
    machine.write(f"{SOURCES}/ceph.sources", text)
    machine.boot()
    left = machine.read(f"{SOURCES}/ceph.sources")
    assert left.startswith("# the first\nTypes: deb\nEnabled: no\n")
    assert (left.count("Enabled: no"), left.count("Enabled")) == (2, 2)


def test_what_pveceph_wrote_stays(machine: Machine) -> None:
    theirs = CEPH.replace("https://enterprise", "http://download").replace(
        ": enterprise", ": no-subscription"
    )
    machine.write(f"{SOURCES}/ceph.sources", theirs)
    machine.boot()
    assert machine.read(f"{SOURCES}/ceph.sources") == theirs


def test_packages_that_are_there_ask_no_mirror(machine: Machine) -> None:
    machine.answer("dpkg-query", "echo installed; echo installed")
    machine.boot(packages=["tmux", "g++"])
    assert machine.calls("apt-get") == []
    assert machine.outcomes()["packages"] == "as it was"


@pytest.mark.parametrize("state", ["echo installed; echo config-files", "exit 1"])
def test_packages_that_are_not_are_installed_without_a_question(machine: Machine, state: str) -> None:
    machine.answer("dpkg-query", state)
    machine.answer("apt-get", '[ "$DEBIAN_FRONTEND" = noninteractive ]')
    assert machine.boot(packages=["tmux", "g++"]).returncode == 0
    update, install = machine.calls("apt-get")
    assert update.endswith(" update")
    assert install.endswith(" install tmux g++")
    assert {"-y", "DPkg::Lock::Timeout=300"} <= set(install.split())
    assert ("status", "packages: apt-get install") in machine.reports()


def test_an_update_is_a_full_one(machine: Machine) -> None:
    machine.boot(update=True)
    assert [call.rpartition(" ")[2] for call in machine.calls("apt-get")] == ["update", "dist-upgrade"]


def test_a_mirror_that_fails_ends_the_first_boot(machine: Machine) -> None:
    machine.answer("dpkg-query", "exit 1")
    machine.answer("apt-get", "echo '401  Unauthorized'; exit 100")
    assert machine.boot(packages=["tmux"]).returncode == 1
    assert machine.reports()[-1][1].startswith("packages: line ")
    assert "401  Unauthorized" in machine.read("var/log/rackproof-first-boot.log")


# Tuning


def test_kernel_settings_are_made_where_the_machine_has_them(machine: Machine) -> None:
    machine.write("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n")
    machine.boot(sysctl={"vm.swappiness": "10"})
    assert machine.read("proc/sys/net/ipv4/tcp_rmem") == "4096 131072 33554432\n"
    assert "vm.swappiness = 10\n" in machine.read("etc/sysctl.d/90-rackproof.conf")
    missing = machine.outcomes()["sysctl"].partition("not offered: ")[2].split(", ")
    assert {"vm.swappiness", "net.core.rmem_max"} <= set(missing)
    assert "net.ipv4.tcp_rmem" not in missing


RINGS = """\
Ring parameters for eno3:
Pre-set maximums:
RX:\t\t4096
RX Mini:\tn/a
TX:\t\t4096
Current hardware settings:
RX:\t\t512
RX Mini:\tn/a
TX:\t\t4096
"""


def test_nics_get_their_largest_rings_and_the_offloads_that_they_can_do(machine: Machine) -> None:
    machine.write("answers/rings", RINGS)
    features = "tcp-segmentation-offload: off\ngeneric-segmentation-offload: on\ngeneric-receive-offload: off [fixed]"
    machine.answer(
        "ethtool", f"case $1 in -g) cat {machine.root}/answers/rings ;; -k) echo '{features}' ;; esac"
    )
    machine.answer("systemctl", f'[ "$*" != "restart rackproof-nics.service" ] || '
                                f"bash {machine.root}/usr/local/sbin/rackproof-tune-nics eno3")  # fmt: skip
    assert machine.boot(nic_tuning=True).returncode == 0
    changes = [call for call in machine.calls("ethtool") if call.split()[0] in ("-G", "-K")]
    assert changes == ["-G eno3 rx 4096", "-K eno3 tcp-segmentation-offload on"]
    unit = machine.read("etc/systemd/system/rackproof-nics.service")
    assert "rackproof-tune-nics eno1 eno3\n" in unit


def test_a_nic_that_refuses_its_rings_fails_the_part(machine: Machine) -> None:
    machine.write("answers/rings", RINGS)
    machine.answer("ethtool", f"case $1 in -g) cat {machine.root}/answers/rings ;; -G) exit 1 ;; esac")
    machine.answer("systemctl", f'[ "$*" != "restart rackproof-nics.service" ] || '
                                f"bash {machine.root}/usr/local/sbin/rackproof-tune-nics eno3")  # fmt: skip
    assert machine.boot(nic_tuning=True).returncode == 1
    assert machine.reports()[-1][1].startswith("nics: line ")


def test_a_governor_is_set_at_every_start_and_missed_where_there_is_none(machine: Machine) -> None:
    machine.boot(governor="performance")
    assert machine.outcomes()["governor"] == "changed, not offered: CPU frequencies"
    machine.write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    machine.boot(governor="performance")
    assert machine.outcomes()["governor"] == "as it was"
    assert "echo performance >$$cpu/scaling_governor" in machine.read(
        "etc/systemd/system/rackproof-governor.service"
    )


def test_nvme_disks_are_tuned_by_a_rule_that_udev_reads_at_once(machine: Machine) -> None:
    machine.write("sys/block/nvme0n1/size", "1\n")
    machine.boot(nvme={"scheduler": "kyber", "requests": 1023})
    rule = machine.read("etc/udev/rules.d/90-rackproof-nvme.rules")
    assert 'ATTR{queue/scheduler}="kyber", ATTR{queue/nr_requests}="1023"\n' in rule
    assert [call.split()[0] for call in machine.calls("udevadm")] == ["control", "trigger"]


def test_the_arc_is_limited_now_and_in_the_initial_ram_disk(machine: Machine) -> None:
    limit = "sys/module/zfs/parameters/zfs_arc_max"
    machine.write(limit, "0\n")
    machine.answer("findmnt", "echo zfs")
    machine.boot(zfs_arc_max=8192)
    assert machine.read(limit) == "8589934592\n"
    assert machine.read("etc/modprobe.d/zz-rackproof-zfs.conf") == "options zfs zfs_arc_max=8589934592\n"
    assert machine.calls("update-initramfs") == ["-u"]
    machine.boot(zfs_arc_max=8192)
    assert machine.calls("update-initramfs") == []


@pytest.mark.parametrize("loader", ["GRUB", "systemd-boot", "GRUB by proxmox-boot-tool"])
def test_the_iommu_is_asked_of_whatever_boots_the_node(machine: Machine, loader: str) -> None:
    machine.write("proc/cmdline", "quiet\n")
    if loader.startswith("GRUB"):
        machine.write("etc/default/grub", "\n")
    else:
        machine.write("etc/kernel/cmdline", "root=ZFS=rpool/ROOT/pve-1 boot=zfs iommu=pt\n")
    if loader != "GRUB":
        machine.write("etc/kernel/proxmox-boot-uuids", "5A5A-5A5A\n")
    machine.boot(iommu=True)
    assert machine.outcomes()["iommu"] == "set, for the next start of the system"
    asked = (machine.calls("update-grub"), machine.calls("proxmox-boot-tool"))
    assert asked == (([""], []) if loader == "GRUB" else ([], ["refresh"]))
    if loader == "systemd-boot":
        line = "root=ZFS=rpool/ROOT/pve-1 boot=zfs iommu=pt intel_iommu=on\n"
        assert machine.read("etc/kernel/cmdline") == line
    machine.write("proc/cmdline", "quiet intel_iommu=on iommu=pt\n")
    machine.boot(iommu=True)
    assert machine.outcomes()["iommu"] == "as it was"
    assert machine.calls("update-grub") == machine.calls("proxmox-boot-tool") == []


def test_a_machine_without_a_boot_loader_is_told_of(machine: Machine) -> None:
    assert machine.boot(iommu=True).returncode == 0
    assert machine.outcomes()["iommu"] == "as it was, not offered: a boot loader"


# Services


def test_the_exporter_speaks_on_the_management_address(machine: Machine) -> None:
    machine.answer("dpkg-query", "echo installed")
    machine.boot(node_exporter=True)
    assert '"--web.listen-address=10.10.1.22:9100"' in machine.read("etc/default/prometheus-node-exporter")
    assert "restart prometheus-node-exporter" in machine.calls("systemctl")
    machine.boot(node_exporter=True)
    assert "restart prometheus-node-exporter" not in machine.calls("systemctl")


def test_the_firewall_lets_the_labs_networks_in_and_others_that_are_named(machine: Machine) -> None:
    machine.boot(firewall={"allow": "192.0.2.0/24"})
    text = machine.read("etc/pve/firewall/cluster.fw")
    sources = re.findall(r"^IN ACCEPT -source (\S+)", text, re.MULTILINE)
    assert sources == ["10.10.1.0/24", "10.10.2.0/24", "192.0.2.0/24"]


def test_a_firewall_that_people_have_changed_is_left_alone(machine: Machine) -> None:
    machine.write("etc/pve/firewall/cluster.fw", "[OPTIONS]\n\nenable: 0\n")
    machine.boot(firewall={})
    assert machine.read("etc/pve/firewall/cluster.fw") == "[OPTIONS]\n\nenable: 0\n"


def test_the_backup_job_stands_beside_others_and_once(machine: Machine) -> None:
    others = "vzdump: mine\n\tschedule 21:00\n"
    machine.write("etc/pve/jobs.cfg", others)
    for _ in range(2):
        machine.boot(backup={"schedule": "sat 03:30", "storage": "nas", "keep": 2})
    text = machine.read("etc/pve/jobs.cfg")
    assert text.startswith(f"{others}\nvzdump: rackproof\n\tschedule sat 03:30\n")
    assert text.count("vzdump: rackproof") == 1


def test_all_of_it_is_done_once(machine: Machine) -> None:
    machine.answer("dpkg-query", "echo installed")
    asked: dict[str, Any] = {**EVERYTHING, "packages": ["tmux"], "update": False}
    assert machine.boot(**asked).returncode == 0
    before = machine.digests()
    assert machine.boot(**asked).returncode == 0
    assert machine.digests() == before
    assert {outcome.partition(",")[0] for outcome in machine.outcomes().values()} == {"as it was"}


# Access and clock


def test_sshd_is_reloaded_only_when_its_settings_are_new(machine: Machine) -> None:
    machine.boot()
    assert "reload ssh" in machine.calls("systemctl")
    machine.boot()
    assert "reload ssh" not in machine.calls("systemctl")


def test_the_clock_follows_the_server(machine: Machine) -> None:
    machine.boot()
    assert machine.read("etc/chrony/sources.d/rackproof.sources") == "server 10.10.1.1 iburst prefer\n"
    assert machine.calls("chronyc") == ["reload sources"]


def test_the_other_permits_of_a_node_make_the_same_script_but_for_their_words(
    certificate: Certificate,
) -> None:
    lab = load()
    given = permit(lab.nodes["node1"])
    other = replace(given, nonce="fedcba9876543210")
    texts = [script_of(lab, one, certificate).replace(one.nonce, "") for one in (given, other)]
    assert texts[0] == texts[1]

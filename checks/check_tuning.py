"""What the first boot tunes on a node, live and after a restart: kernel, NICs, CPU, disks, memory, IOMMU.

What a machine does not offer cannot be tuned: whether that is so, each check finds out by itself.
"""

from __future__ import annotations

import re
import shlex

import pytest
from testinfra.host import Host

from checks import probe
from checks.check_network import nic_of
from provision.inventory import Lab, Node

pytestmark = pytest.mark.step("install")

OFFLOADS = ("tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload")
IOMMU = ("intel_iommu=on", "iommu=pt")
SHOW = 'for file in {}; do [ ! -w "$file" ] || printf "%s=%s\\n" "$file" "$(cat "$file")"; done'
"""Prints the files of /proc or /sys that can be written, and what they say."""


@pytest.mark.first_boot("sysctl")
def test_kernel_settings(host: Host, node: Node) -> None:
    """The kernel is set as asked for, in all that this machine lets be set."""
    asked = {
        f"/proc/sys/{key.replace('.', '/')}": value for key, value in node.first_boot.kernel_settings.items()
    }
    found = _shown(host, shlex.join(asked))
    assert found == {file: asked[file] for file in found}


@pytest.mark.first_boot("sysctl")
def test_kernel_settings_after_a_restart(host: Host, node: Node) -> None:
    """No file that is read later at the system's start says otherwise (sysctl.d(5))."""
    lines = re.findall(r"^-?([^#;\s=]+)[ \t]*=[ \t]*(.*?)[ \t]*$", host.check_output(
        "systemd-analyze cat-config sysctl.d"), re.MULTILINE)  # fmt: skip
    last = {key.replace("/", "."): value for key, value in lines}
    asked = node.first_boot.kernel_settings
    assert {key: last.get(key) for key in asked} == asked


@pytest.mark.first_boot("nics")
def test_nics_are_tuned(host: Host, node: Node, lab: Lab) -> None:
    """Every NIC of the lab's networks has its largest rings, and does the segmentation that it can do."""
    links = probe.links(host)
    for network in node.addresses:
        nic = nic_of(node, lab.networks[network], links)
        features = host.check_output("ethtool -k %s", nic).splitlines()
        assert [name for name in OFFLOADS if f"{name}: off" in features] == [], nic
        largest, current = parse_rings(host.run("ethtool -g %s", nic).stdout)
        assert current == largest, nic


@pytest.mark.first_boot("nics")
def test_nics_are_tuned_after_a_restart(host: Host) -> None:
    """The unit that tunes them starts with the system."""
    assert host.service("rackproof-nics").systemd_properties["UnitFileState"] == "enabled"


@pytest.mark.first_boot("governor")
def test_governor(host: Host, node: Node) -> None:
    """Every CPU whose frequency can be governed is governed as asked for."""
    found = _shown(host, "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    assert found == dict.fromkeys(found, node.first_boot.governor)


@pytest.mark.first_boot("governor")
def test_governor_after_a_restart(host: Host, node: Node) -> None:
    """The unit that sets it starts with the system, and sets this one."""
    unit = host.service("rackproof-governor").systemd_properties
    assert unit["UnitFileState"] == "enabled"
    assert f"echo {node.first_boot.governor} " in unit["ExecStart"]


@pytest.mark.first_boot("nvme")
def test_nvme_queues(host: Host, node: Node) -> None:
    """Every NVMe disk has the scheduler and the queue depth asked for."""
    asked = node.first_boot.nvme
    assert asked is not None
    schedulers = _shown(host, "/sys/block/nvme*/queue/scheduler")
    # The chosen one stands in brackets, unless it is the only one.
    chosen = {disk: re.sub(r".*\[(.*)\].*", r"\1", text) for disk, text in schedulers.items()}
    assert chosen == dict.fromkeys(chosen, asked.scheduler)
    depths = _shown(host, "/sys/block/nvme*/queue/nr_requests") if asked.requests else {}
    assert depths == dict.fromkeys(depths, str(asked.requests))


@pytest.mark.first_boot("nvme")
def test_nvme_queues_after_a_restart(host: Host, node: Node) -> None:
    """A rule of udev sets them whenever such a disk appears."""
    asked = node.first_boot.nvme
    assert asked is not None
    rules = host.check_output("cat /etc/udev/rules.d/*rackproof-nvme.rules")
    assert f'ATTR{{queue/scheduler}}="{asked.scheduler}"' in rules
    assert not asked.requests or f'ATTR{{queue/nr_requests}}="{asked.requests}"' in rules


@pytest.mark.first_boot("arc")
def test_zfs_arc_limit(host: Host, node: Node) -> None:
    """ZFS takes no more memory for its cache, now and after a restart."""
    asked = node.first_boot.zfs_arc_max
    assert asked is not None
    limit = str(asked << 20)
    live = _shown(host, "/sys/module/zfs/parameters/zfs_arc_max")
    assert live == dict.fromkeys(live, limit)
    said = re.findall(
        r"^options zfs\b.*\bzfs_arc_max=(\d+)", host.check_output("modprobe --showconfig"), re.MULTILINE
    )
    assert said[-1:] == [limit]


@pytest.mark.first_boot("iommu")
def test_iommu_is_asked_of_the_next_start(host: Host) -> None:
    """Whatever boots the node, GRUB or systemd-boot, tells the kernel so."""
    asking = host.check_output(
        "if [ -s /etc/kernel/cmdline ]; then sed 's/^/cmdline: /' /etc/kernel/cmdline; fi; "
        "if [ -e /etc/default/grub ]; then grep '^\\s*linux' /boot/grub/grub.cfg | grep -v recovery; fi"
    ).splitlines()
    assert [line for line in asking if not set(IOMMU) <= set(line.split())] == []


def parse_rings(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The largest and the current rings of `ethtool -g`; nothing of a NIC that has none."""
    largest, _, current = text.partition("Current hardware settings:")
    found = [dict(re.findall(r"^(RX|TX):\s+(\S+)$", part, re.MULTILINE)) for part in (largest, current)]
    return found[0], found[1]


def _shown(host: Host, files: str) -> dict[str, str]:
    """What these files of the kernel say, each that can be written by its path; blanks made one."""
    lines = host.check_output("sh -c %s", SHOW.format(files)).splitlines()
    parts = (line.partition("=") for line in lines)
    return {file: " ".join(value.split()) for file, _, value in parts}

"""For every check of the VM templates a fault is planted, is caught by those meant for it, and by no other."""

from __future__ import annotations

import re

from tests.lab.conftest import Lab
from tests.lab.planting import Fault, judge, never_caught, planted, run

FOLDER = "/etc/pve/nodes/{node}/qemu-server"
CONFIG = f"{FOLDER.format(node='node1')}/9000.conf"
LEFT = f"{FOLDER.format(node='node2')}/9050.conf"
SNIPPET = "/var/lib/vz/snippets/rackproof-9000.yaml"


def caught(*names: str) -> tuple[str, ...]:
    """The cases of the one template."""
    return tuple(rf"templates::{name}\[ubuntu-24\.04\]" for name in names)


def spoilt(name: str, script: str, *names: str) -> Fault:
    """A fault by a sed script on the template's configuration."""
    kept = "/root/kept-" + re.sub(r"\W+", "-", name)
    plant = f"cat {CONFIG} >{kept} && sed '{script}' {kept} >{CONFIG} && ! cmp -s {CONFIG} {kept}"
    return run(name, "node1", plant, f"cat {kept} >{CONFIG} && rm {kept}", *caught(*names))


FAULTS = [
    spoilt("another name", "s/^name: .*/name: stranger/", "test_is_a_template"),
    spoilt("without agent", "s/^agent: .*/agent: enabled=0/", "test_agent_is_on"),
    spoilt("another bridge", "/^net0:/s/bridge=vmbr0/bridge=vmbr1/", "test_is_on_its_bridge"),
    spoilt("no tag", "/^tags:/d", "test_is_tagged"),
    spoilt("no EFI disk", "/^efidisk0:/d", "test_boots_by_uefi"),
    spoilt("another boot order", "s/^boot: .*/boot: order=net0/", "test_boots_from_its_disk"),
    spoilt("no cloud-init drive", "/^scsi1:/d", "test_has_a_cloud_init_drive"),
    spoilt("another storage", "s/^scsi0: rbd:/scsi0: local:/", "test_is_on_its_storage"),
    spoilt("another image", "/^#rackproof/s/......$/000000/", "test_image_is_the_one_asked_for"),
    spoilt("more memory", "s/^memory: .*/memory: 8192/", "test_size"),
    spoilt("another user", "s/^ciuser: .*/ciuser: stranger/", "test_lets_its_user_in"),
    run("an older snippet", "node3", f"cp -p {SNIPPET} /root/kept.yaml && echo 'packages: [older]' >>{SNIPPET}",
        f"mv /root/kept.yaml {SNIPPET}", r"templates::test_snippet_is_on_node\[node3-ubuntu-24\.04\]"),
    run("a clone that was left", "node1",
        f"printf 'memory: 16\\nname: rackproof-try-9000\\ntags: rackproof\\n' >{LEFT}", f"rm {LEFT}",
        r"templates::test_no_clone_is_left"),
]  # fmt: skip


def test_faults_are_caught_by_their_checks_alone(full_lab: Lab) -> None:
    with planted(full_lab, FAULTS):
        found = full_lab.verify()
    judge(found, [fault.caught_by for fault in FAULTS])


def test_a_template_that_is_gone_is_caught(full_lab: Lab) -> None:
    full_lab.on("node1", f"cat {CONFIG} >/root/kept.conf && rm {CONFIG}")
    try:
        found = full_lab.verify("-k", "(check_templates and not clone) or overview")
    finally:
        full_lab.on("node1", f"cat /root/kept.conf >{CONFIG} && rm /root/kept.conf")
    snippets = r"templates::test_snippet_is_on_node\[node[1-4]-.*\]"
    judge(found, [(r"templates::test_\w+\[ubuntu-24\.04\]", snippets, r"overview::test_overview")])


def test_no_check_is_left_without_a_fault(full_lab: Lab) -> None:
    """And all faults are mended."""
    assert full_lab.verify("-k", "check_templates or overview") == set()
    assert never_caught(full_lab) == []

"""Drift on standing racks: none after a green run and a reboot; each planted change is its own case; accepting."""

from __future__ import annotations

from tests.lab.conftest import Lab
from tests.lab.planting import Fault, edited, planted, run, settle

STRANGER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPBG18KoYrX7WQA9FQGOZhLgsgpALC2TNGnWxswPJgYZ stranger"
TEMPLATE = "/etc/pve/nodes/node1/qemu-server/9000.conf"
STATUS = "/var/lib/dpkg/status"
DRIFT = ("--drift", "-k", "drift")

CHANGES = [
    run("a stranger's key", "node1", f"echo '{STRANGER}' >>/etc/pve/priv/authorized_keys",
        "sed -i --follow-symlinks '/ stranger$/d' /etc/pve/priv/authorized_keys",
        "cluster-keys-authorised root stranger"),
    run("a token", "node1", r"printf '\ntoken:root@pam!ci:0:0:for builds:\n' >>/etc/pve/user.cfg",
        "sed -i '/^token:root@pam!ci:/d' /etc/pve/user.cfg", "cluster-access-token root@pam!ci"),
    edited("a package that was removed", "node2", STATUS,
           "/^Package: jq$/,/^$/s/^Status: .*/Status: deinstall ok config-files/", "node2-packages-jq"),
    edited("a package of another version", "node4", STATUS, "/^Package: jq$/,/^$/s/^Version: .*/Version: 0.1/",
           "node4-packages-jq"),
    run("a kernel setting", "node3", "sysctl -wq net.ipv4.tcp_mtu_probing=0", "sysctl -wq net.ipv4.tcp_mtu_probing=1",
        "node3-sysctl-running net.ipv4.tcp_mtu_probing"),
    run("an address", "node4", "ip addr add 10.10.2.124/24 dev vmbr1", "ip addr del 10.10.2.124/24 dev vmbr1",
        "node4-network-interfaces vmbr1 addresses"),
    run("a service that starts at a boot", "node1", "systemctl enable debug-shell", "systemctl disable debug-shell",
        "node1-services-at boot debug-shell.service"),
    run("somebody who listens", "node2", "systemd-run -q --unit=stray python3 -m http.server -b 127.0.0.1 8081",
        "systemctl stop stray", "node2-sockets-tcp 127.0.0.1:8081"),
    edited("another DHCP configuration", "server", "/etc/dnsmasq.d/rackproof.conf", "$a # by hand",
           "server-files-/etc/dnsmasq.d/rackproof.conf"),
]  # fmt: skip

OF_THE_WHOLE_LAB = [
    run("a quota", "node1", "ceph osd pool set-quota rbd max_objects 1000000", "ceph osd pool set-quota rbd max_objects 0",
        "cluster-ceph-pools rbd quota_max_objects"),
    run("a template's memory", "node1", f"sed -i 's/^memory: 512/memory: 600/' {TEMPLATE}",
        f"sed -i 's/^memory: 600/memory: 512/' {TEMPLATE}", "cluster-templates-9000 memory"),
]  # fmt: skip


def cases(faults: list[Fault]) -> set[str]:
    return {f"drift::test_changed[{case}]" for fault in faults for case in fault.caught_by}


def listening(lab: Lab) -> None:
    lab.on("node2", "for i in $(seq 100); do ss -Htln | grep -q :8081 && exit 0; sleep 0.1; done; exit 1")


def reboot(lab: Lab, node: str) -> None:
    for power in ("off", "on"):
        lab.rack("power", node, power)
    settle(lab)
    lab.on(node, "systemctl is-system-running --wait", check=False)


def test_each_change_is_a_case_until_it_is_accepted(lab: Lab) -> None:
    assert lab.verify(*DRIFT) == set(), "nothing drifts right after a green run"
    reboot(lab, "node3")
    with planted(lab, CHANGES):
        listening(lab)
        assert lab.verify(*DRIFT) == cases(CHANGES)
        said = next(
            case.find("failure")
            for case in lab.junit().iter("testcase")
            if "[node2-packages-jq" in str(case.get("name"))
        )
        assert said is not None
        assert "after: absent" in str(said.text)
        assert "before: 1." in str(said.text)
        assert "node2 packages: jq: " in str((lab.report / "summary.md").read_text()).replace("\\", "")
        assert lab.verify(*DRIFT, "--accept", "--reason", "a test") == set()
        assert lab.verify(*DRIFT, "-n", "2") == set()
    assert lab.verify(*DRIFT) == cases(CHANGES), "what was accepted and is undone is drift"
    assert lab.verify(*DRIFT, "--accept", "--reason", "as it was") == set()
    (accepted, *_) = lab.events("accepted", node="node4")
    assert (accepted["text"], accepted["facts"]["reason"]) == ("node4: packages, network", "as it was")


def test_drift_of_ceph_and_templates(full_lab: Lab) -> None:
    # Other tests may have made the template anew.
    assert full_lab.verify("--drift", "--accept", "-k", "drift and cluster") == set()
    with planted(full_lab, OF_THE_WHOLE_LAB):
        assert full_lab.verify("--drift", "-k", "drift and (cluster or node2)") == cases(OF_THE_WHOLE_LAB)

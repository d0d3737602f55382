"""What must never happen, on racks that stand: a secret that leaks, a wrong machine wiped, a leave used twice."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.together import together
from tests.lab_fixtures import CANARIES, ROOT, Classic, Lab
from virtual_lab import media

STRANGER = "02:00:5e:00:53:02"
HARDWARE = {
    "bmc.users": "the user and the hashed password that the BMC lets in",
    "disk.img": "the node's disk, which is searched from inside the node",
    "sdb.img": "a drive for Ceph, which nothing writes to before step ceph",
    "made-up-secrets.json": "what the rack makes up for secrets that are not set",
}
"""Files of the played hardware that are not searched, and why."""


# Secrets


def files_with(words: Iterable[str], *folders: Path) -> list[str]:
    """The files below these folders that hold one of the words."""
    wanted = [word.encode() for word in words]
    files = [path for folder in folders for path in folder.rglob("*") if path.name not in HARDWARE]
    return [
        str(path)
        for path in files
        if path.is_file() and any(word in path.read_bytes() for word in wanted)
    ]  # fmt: skip


def found_on(lab: Lab, machine: str, words: Iterable[str], folders: str) -> list[str]:
    """Files below folders of a machine, and its journal, that hold one of the words."""
    patterns = " ".join(f"-e '{word}'" for word in words)
    files = lab.on(machine, f"grep -rlaF --devices=skip {patterns} {folders}", check=False).splitlines()
    lines = lab.on(machine, f"journalctl -o export --no-pager | grep -caF {patterns}", check=False)
    return [f"{machine}:{path}" for path in files] + (
        [] if lines == "0" else [f"{machine}: {lines} in journal"]
    )


def everywhere(classic: Classic, words: list[str], server: str, nodes: str) -> list[str]:
    """Where any of the words is: reports, ledgers, terminal, arguments, consoles, and in the machines."""
    lab = classic.lab
    found = files_with(words, lab.report.parent, lab.state, lab.places.rack)
    machines = {"server": server, **dict.fromkeys(lab.nodes, nodes)}
    inside = together(
        {name: name for name in machines}, lambda name: found_on(lab, name, words, machines[name])
    )
    said = classic.result.stdout + classic.result.stderr
    return [
        *found,
        *(place for places in inside.values() for place in places),
        *(f"argument: {text}" for text in classic.arguments if any(word in text for word in words)),
        *(f"terminal: {word}" for word in words if word in said),
    ]


def test_the_search_finds_what_is_there(classic: Classic) -> None:
    """Of what is no secret each place holds something: the search does look there."""
    lab, run = classic.lab, classic.lab.events()[0]["run"]
    found = everywhere(
        classic, [run], "/etc /var /run /root /home /tmp /srv /opt", "/etc /var /run /root /tmp"
    )
    out = str(lab.report.parent)
    assert any(place.startswith(out) and place.endswith("junit.xml") for place in found)
    assert any(place == str(lab.state / "ledger.db") for place in found)
    assert "terminal: " + run in found
    for node in lab.nodes:
        assert f"{node}:/etc/rackproof/install.json" in found
    assert any(place.startswith("server:/var/lib/rackproof-boot/ledger") for place in found)
    assert f"server: {journalled(lab, 'server', 'pve2')} in journal" in everywhere(classic, ["pve2"], "", "")
    assert any("virtual_lab" in text for text in classic.arguments)


def journalled(lab: Lab, machine: str, word: str) -> str:
    return lab.on(machine, f"journalctl -o export --no-pager | grep -caF -e '{word}'", check=False)


def test_no_secret_is_anywhere(classic: Classic) -> None:
    """Not in plain text on any machine; the root password is known to the nodes by its hash alone."""
    assert classic.result.returncode == 0, classic.result.stdout
    server, nodes = "/etc /var /run /root /home /tmp /srv /opt", "/etc /var /run /root /home /tmp"
    assert everywhere(classic, list(CANARIES.values()), server, nodes) == []
    for node in classic.lab.nodes:
        assert "root:$y$" in classic.lab.on(node, "cat /etc/shadow")


def test_the_hashed_password_is_left_to_the_nodes(classic: Classic) -> None:
    """A hash can be guessed at: no report, log or ledger keeps it, and the server forgets it."""
    hashes = [
        classic.lab.on(node, "sed -n 's/^root:\\([^:]*\\):.*/\\1/p' /etc/shadow")
        for node in classic.lab.nodes
    ]
    assert all(word.startswith("$y$") for word in hashes)
    assert everywhere(classic, hashes, "/etc /var /run /root /home /tmp /srv /opt", "/var/log") == []


def test_no_token_is_in_any_log(classic: Classic) -> None:
    """Neither the paths of the answers, given out by DHCP, nor those of the reports."""
    answers, reports = list(classic.tokens.values()), list(report_tokens(classic.lab).values())
    assert len(set(answers)) == len(set(reports)) == 3
    assert everywhere(classic, [*answers, *reports], "/etc /var /run /root /tmp", "/var/log /tmp") == []


def report_tokens(lab: Lab) -> dict[str, str]:
    """The report token of each node, as first boot has it on the node's disk."""
    script = "/var/lib/proxmox-first-boot/proxmox-first-boot"
    return {
        node: lab.on(node, f"grep -o '/report/[A-Za-z0-9_-]*' {script}").split("/")[-1] for node in lab.nodes
    }


def last_told(lab: Lab, kind: str, node: str) -> dict[str, Any]:
    """The last event of a kind about a node, in whichever run."""
    files = sorted(lab.report.parent.glob("2*/events.jsonl"))
    events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return next(event for event in reversed(events) if (event["kind"], event["node"]) == (kind, node))


def test_a_made_host_key_is_the_nodes_and_the_harness_alone_expects_it(lab: Lab) -> None:
    """node4's is made here; the one that its installer made and reported is gone."""
    proved = lab.evidence()["install"].nodes
    reported = last_told(lab, "installed", "node4")
    [expected] = proved["node4"]["ssh_host_keys"]
    permitted = last_told(lab, "permitted", "node4")
    assert permitted["facts"]["ssh_host_keys"] == [expected]
    assert expected not in reported["facts"]["ssh_host_keys"] and len(proved["node3"]["ssh_host_keys"]) == 3
    assert lab.on("node4", "ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key").split()[:2] == expected.split()


def test_a_made_host_keys_private_half_is_on_its_node_alone(lab: Lab) -> None:
    first_boot = "/var/lib/proxmox-first-boot/proxmox-first-boot"
    made = [*lab.on("node4", "cat /etc/ssh/ssh_host_ed25519_key").splitlines()[2:-1]]
    assert len(made) >= 3
    assert files_with(made, lab.report.parent, lab.state, lab.places.rack) == []
    assert found_on(lab, "server", made, "/etc /var /run /root /home /tmp /srv /opt") == []
    own = ["node4:/etc/ssh/ssh_host_ed25519_key", f"node4:{first_boot}"]
    assert sorted(found_on(lab, "node4", made, "/etc /var /run /root /home /tmp")) == own
    modes = lab.on("node4", f"stat -c %a /etc/ssh/ssh_host_ed25519_key {first_boot} $(dirname {first_boot})")
    assert modes.split() == ["600", "700", "700"]


AS_A_UNIT = """
cd /srv/tried && exec systemd-run -q --pipe --wait --collect -p WorkingDirectory=/srv/tried {properties} \\
  python3 -c 'import os, provision.inventory.systemd_credential as c; print(c.credential("a.b-c", os.environ))'
"""


@pytest.mark.parametrize(
    "properties",
    ["-p LoadCredential=a.b-c:/srv/tried/secret", "-p LoadCredential=a.b-c:/srv/tried/secret -p User=nobody",
     "-p LoadCredentialEncrypted=a.b-c:/srv/tried/sealed -p DynamicUser=yes"],
    ids=["root", "a user", "sealed"],
)  # fmt: skip
def test_a_credential_of_a_unit_is_trusted_as_systemd_hands_it_over(lab: Lab, properties: str) -> None:
    source, parts = "/opt/rackproof/src/provision", "{private_file,systemd_credential}.py"
    lab.on("server", f"mkdir -p /srv/tried/provision/inventory && cd /srv/tried/provision && cp {source}/errors.py ."
                     f" && bash -c 'cp {source}/inventory/{parts} inventory' && cd .. && echo canary-9 >secret"
                     " && chmod 600 secret && systemd-creds encrypt -q --with-key=host --name=a.b-c secret sealed")  # fmt: skip
    try:
        assert lab.on("server", AS_A_UNIT.format(properties=properties)) == "canary-9"
    finally:
        lab.on("server", "rm -r /srv/tried")


# Leaves to install


def ask(lab: Lab, path: str, *more: str) -> tuple[str, str]:
    """Status and body of a request from the rack's network to the server."""
    command = ["curl", "-sS", "-m", "20", "-w", "\n%{http_code}", *more, f"http://10.10.1.1{path}"]
    body, _, status = lab.rack("exec", "--", *command).rpartition("\n")
    return status, body


def ask_from(lab: Lab, node: str, path: str, *more: str) -> tuple[str, str]:
    """The same from a node, which has its own address, and the lease of it."""
    command = ["curl", "-sS", "-m", "20", "-w", "\n%{http_code}", *more, f"http://10.10.1.1{path}"]
    body, _, status = lab.on(node, shlex.join(command)).rpartition("\n")
    return status, body


def asked_by(mac: str) -> tuple[str, ...]:
    """The arguments that make curl ask as an installer on the NIC with that MAC does."""
    body = {
        "$schema": {"version": "1.0"},
        "product": {"fullname": "Proxmox VE", "product": "pve", "enable_btrfs": True},
        "iso": {"release": "9.2", "isorelease": "1"},
        "dmi": {"system": {}, "baseboard": {}, "chassis": {}},
        "network_interfaces": [{"link": "eno1", "mac": mac.upper()}],
    }
    return "-H", "Content-Type: application/json; charset=utf-8", "-d", json.dumps(body)


def test_a_spent_leave_is_refused(classic: Classic) -> None:
    lab, macs = classic.lab, {f"pve{number}": f"ac:1f:6b:00:02:2{number}" for number in (1, 2, 3)}
    reports = report_tokens(lab)
    for node, token in classic.tokens.items():
        status, body = ask(lab, f"/answer/{token}", *asked_by(macs[node]))
        assert status == "410", body
        assert "root-password" not in body
        for path in (
            f"/first-boot/{reports[node]}",
            f"/report/{reports[node]}",
            f"/installed/{reports[node]}",
        ):
            how = () if path.startswith("/first-boot") else ("-d", '{"phase": "registered"}')
            status, body = ask(lab, path, *how)
            # It is the right token, and not the node's address.
            assert (status, "nonce" in body) == ("403", False), path
    assert lab.leaves() == {}


def test_a_leave_is_for_one_node_and_one_use(lab: Lab) -> None:
    """Asked through nginx with the right path: a stranger gets nothing and uses nothing up."""
    token, now = "canary-answer-path-Qw3rtz", time.time()
    permit = {
        "run": "20261122-0000-test", "lab": "virtual", "node": "node2", "expires": now + 60,
        "answer_token_sha256": hashlib.sha256(token.encode()).hexdigest(),
        "report_token_sha256": hashlib.sha256(b"another").hexdigest(),
        "boot_script": "#!ipxe\n", "answer": "# the answer of node2\n", "first_boot": "#!/bin/sh\n",
    }  # fmt: skip
    given = ("-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps(permit))
    lab.operator("/api/v1/permits", *given)
    try:
        for mac in (STRANGER, "52:54:00:a1:01:23", "52:54:00:a1:01:12"):
            status, body = ask_from(lab, "node2", f"/answer/{token}", *asked_by(mac))
            assert (status, "the answer" in body) == ("403", False), mac
        its_own = asked_by("52:54:00:a1:01:22")
        for status, body in (
            ask(lab, f"/answer/{token}", *its_own),
            ask_from(lab, "node3", f"/answer/{token}", *its_own),
        ):
            assert (status, "the answer" in body) == ("403", False)
        assert ask_from(lab, "node2", "/boot/52:54:00:a1:01:22") == ("200", "#!ipxe\n")
        assert ask_from(lab, "node2", f"/answer/{token}", *its_own) == ("200", permit["answer"])
        status, body = ask_from(lab, "node2", f"/answer/{token}", *its_own)
        assert (status, "the answer" in body) == ("410", False)
        assert "node2 boots from its disk" in ask_from(lab, "node2", "/boot/52:54:00:a1:01:22")[1]
    finally:
        assert lab.operator("/api/v1/permits?run=20261122-0000-test", "-X", "DELETE") == {"revoked": 1}
    assert lab.leaves() == {}
    assert found_on(lab, "server", [token], "/var/log /var/lib/rackproof-boot /etc") == []


BOOT_A_STRANGER = """
import sys
from pathlib import Path
root, folder, nic, mac = sys.argv[1:]
sys.path.insert(0, root)
from virtual_lab import firmware
from virtual_lab.hardware import Dmi, Drive, Hardware, Override
folder = Path(folder)
hardware = Hardware(
    name="stranger", nics={nic: mac}, memory_mib=131072, cores=8, layers=(), target=folder / "node" / "root",
    dmi=Dmi("Supermicro", "SYS", "S1", "4916E828-6E75-5C5C-9DD5-AD61D583E613", "3.4", "X11", "B1", "C1"),
    drive=Drive(folder / "disk.img", 32 << 30, "S3Z8NX01", "SAMSUNG", "0x5002538e"),
    console_log=folder / "console.log",
)
print(type(firmware.boot(hardware, Override("Pxe", "Once", "UEFI"))).__name__)
"""


@contextmanager
def cabled(lab: Lab) -> Iterator[str]:
    """A network namespace whose NIC `foreign` has the stranger's MAC and is plugged into the rack's switch."""
    space = f"{lab.places.namespace_name('lab').removesuffix('-lab')}-stranger"
    ip(f"netns add {space}")
    try:
        lab.rack("exec", "--", "ip", "link", "add", "foreign-port", "type", "veth", "peer", "name", "foreign")
        lab.rack("exec", "--", "ip", "link", "set", "foreign", "address", STRANGER, "netns", space)
        lab.rack("exec", "--", "ip", "link", "set", "foreign-port", "master", "br-management", "up")
        yield space
    finally:
        ip(f"netns delete {space}")


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def test_a_stranger_boots_nothing(lab: Lab, tmp_path: Path) -> None:
    """Another machine on the rack's network, starting by network as any would, is given no program to run."""
    with cabled(lab) as space:
        command = [sys.executable, "-c", BOOT_A_STRANGER, str(ROOT), str(tmp_path), "foreign", STRANGER]
        result = lab.run("ip", "netns", "exec", space, *command, timeout=60)
    console = (tmp_path / "console.log").read_text()
    assert result.stdout.strip() == "NoBootDevice", result.stderr + console
    assert "PXE-E53: No boot filename received" in console or "PXE-E16" in console
    assert ask(lab, f"/boot/{STRANGER}")[0] == "404"


# The identity gate


def as_real_lab(lab: Lab, folder: Path, power: str = "30s", **nodes: dict[str, Any]) -> Lab:
    """The standing rack as if it were metal: a lab file that says all, and a harness on its network.

    `power` is the deadline of that step, `nodes` are differences to what the lab file says of a node. Its
    secrets come from files.
    """
    rack, written = lab.places.rack, yaml.safe_load((ROOT / "labs" / "virtual.yaml").read_text())
    made_up = json.loads((rack / "made-up-secrets.json").read_text())
    for name, value in made_up.items():
        (folder / name).write_text(f"{value}\n")
        (folder / name).chmod(0o600)
    del written["virtual"]
    written["server"] |= {
        "host": "ssh:root@10.10.1.1", "identity": str(rack / "ssh_key"),
        "host_key": (rack / "server_host_key.pub").read_text().strip(),
    }  # fmt: skip
    files = media.prepare(lab.places.images)
    of_9 = {"vmlinuz": str(files.vmlinuz), "initrd": str(files.initrd), "iso": str(files.iso)}
    written["media"] = {"proxmox-9": of_9}
    for name, person in written["people"].items():
        person["password"] = f"file:{folder}/{name}_password"
    written["defaults"] |= {
        "bmc": {"user": f"file:{folder}/bmc_user", "password": f"file:{folder}/bmc_password",
                "trust": "ca", "ca": str(rack / "ca.pem")},
        "root_password": f"file:{folder}/root_password",
        "ssh_keys": [(rack / "ssh_key.pub").read_text().strip()],
    }  # fmt: skip
    for name, differences in nodes.items():
        written["nodes"][name] |= differences
    written["deadlines"]["power"] = power
    # Who reaches a real lab by SSH says so, or its firewall is refused.
    written["defaults"]["first_boot"]["firewall"] = {"allow": ["10.10.1.0/24"]}
    (folder / "lab.yaml").write_text(yaml.safe_dump(written))
    return replace(
        lab, folder=folder,
        arguments=("--lab", str(folder / "lab.yaml"), "--wipe", "virtual", *lab.arguments),
        prefix=("nsenter", f"--net={lab.places.namespace('lab')}", "--"),
    )  # fmt: skip


@contextmanager
def quirks(lab: Lab, **quirks: str) -> Iterator[None]:
    for node, quirk in quirks.items():
        lab.quirk(node, quirk)
    try:
        yield
    finally:
        for node in quirks:
            lab.quirk(node, None)


def test_a_machine_that_is_another_is_left_alone_by_name(lab: Lab, tmp_path: Path) -> None:
    """One by the lab file, one by its BMC, and one whose BMC keeps no boot override; the fourth goes on."""
    # A BMC that keeps nothing is waited for as long as the step may take.
    real = as_real_lab(lab, tmp_path, power="12s", node2={"serial": "RPV0000099"})
    untouched = ("node2", "node3", "node4")
    before = {node: (lab.board(node), lab.nonce(node)) for node in untouched}
    boots, lab.whole = lab.board("node1")["boots"], False
    with quirks(lab, node3="wrong-serial", node4="ignores-pxe"):
        result = real.provision()
    assert result.returncode == 1, result.stdout + result.stderr
    errors = real.errors()
    assert list(errors) == ["test_power"]
    for node, says in {
        "node2": ("the lab file, which names serial number RPV0000099; nothing was written to it",
                  "last seen: serial number RPV0000002"),
        "node3": ("which names serial number RPV0000003; nothing was written to it", "XPV0000003"),
        "node4": ("one UEFI network boot was accepted but not kept",),
    }.items():  # fmt: skip
        paragraph = errors["test_power"].partition(f"{node}: ")[2].partition("\nnode")[0]
        assert all(words in paragraph for words in says), errors["test_power"]
    assert {node: (lab.board(node), lab.nonce(node)) for node in untouched} == before
    assert [event["node"] for event in real.events("reset")] == ["node1"]
    assert lab.board("node1")["boots"] > boots
    assert {event["node"] for event in real.events("permitted")} == {"node1", "node4"}
    skipped = {str(skip.get("message")) for skip in real.junit().iter("skipped")}
    assert skipped == {"not reached: power failed"}
    assert lab.leaves() == {}
    assert files_with(json.loads((lab.places.rack / "made-up-secrets.json").read_text()).values(),
                      real.report.parent, lab.state) == []  # fmt: skip


def test_boards_with_quirks_are_reset_once_each(default_lab: Lab, tmp_path: Path) -> None:
    """A lost answer to the reset, an X10 that knows no boot mode, a busy BMC: green, as a real lab, and once."""
    lab = default_lab
    if not lab.places.rack.exists():
        lab.rebuild()
    real = as_real_lab(lab, tmp_path)
    before = {node: lab.board(node)["boots"] for node in lab.nodes}
    with quirks(lab, node1="lost-answer", node2="x10", node3="busy"):
        result = real.provision()
        lab.whole = result.returncode == 0
    assert result.returncode == 0, result.stdout + result.stderr
    # Into the network boot, and from the installer to the disk.
    assert {node: lab.board(node)["boots"] - before[node] for node in before} == dict.fromkeys(before, 2)
    modes = {event["node"]: event["facts"]["mode"] for event in real.events("network-boot-set")}
    assert modes == {"node1": "UEFI", "node2": None, "node3": "UEFI", "node4": "UEFI"}
    assert "the disks of node1, node2, node3, node4" in result.stdout


def test_a_real_lab_is_not_touched_without_leave(lab: Lab, tmp_path: Path) -> None:
    real = as_real_lab(lab, tmp_path)
    before = {node: lab.board(node) for node in lab.nodes}
    result = replace(real, arguments=real.arguments[:2]).provision()
    assert result.returncode == 4
    assert "say --wipe virtual to allow it" in result.stderr
    assert {node: lab.board(node) for node in lab.nodes} == before


@pytest.mark.parametrize("file", ["root_password", "bmc_password"])
def test_a_secret_that_others_can_read_is_refused(lab: Lab, tmp_path: Path, file: str) -> None:
    real = as_real_lab(lab, tmp_path)
    (tmp_path / file).chmod(0o644)
    result = real.provision()
    assert result.returncode == 4
    assert "chmod 600" in result.stderr
    assert (tmp_path / file).read_text().strip() not in result.stdout + result.stderr

"""The server step on a bare Debian beside systemd's own resolver and clock, and what `--plan` says of it before."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provision.server_plan import PACKAGES
from provision.wait import NotYet
from tests.lab_fixtures import INSTANCE, ROOT, SOON, Lab, raised

STATE = (
    "find /etc /opt /srv /usr/sbin /var/lib/rackproof-server -xdev"
    " -printf '%p %m %u %g %s %T@ %C@\\n' 2>/dev/null | sort;"
    " dpkg-query -W | sha256sum; nft list ruleset | sha256sum; cat /proc/sys/net/ipv4/ip_forward;"
    " systemctl list-units --all --plain --no-legend --type=service,socket | grep -v -e '@' -e session- | sort;"
    " systemctl list-unit-files --no-legend | sort; ls -d /run/rackproof*"
)
SPOILT = (
    "echo '# stray' >>/etc/nginx/conf.d/rackproof.conf; chmod 600 /etc/chrony/conf.d/rackproof.conf;"
    " systemctl disable --quiet dnsmasq; rm /srv/rackproof/http/proxmox-9/vmlinuz;"
    " echo >>/etc/rackproof/hands.json"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = raised(tmp_path_factory.mktemp("plan"), f"{INSTANCE}-plan")
    try:
        lab.rack("up", timeout=300)
        lab.on("server", "systemctl is-system-running --wait; apt-get -q update && apt-get -q -y install "
               "--no-install-recommends systemd-resolved systemd-timesyncd", check=False)  # fmt: skip
        # In a container it does not run, as it would on metal: the clock is the host's.
        states = "systemctl is-active systemd-resolved; systemctl is-enabled systemd-timesyncd"
        assert lab.on("server", states).split() == ["active", "enabled"]
        yield lab
    finally:
        lab.down()


def planned(lab: Lab, code: int) -> tuple[set[str], str]:
    """What the plan says that the step would change, and all of its text; it touched nothing."""
    before = lab.on("server", STATE, check=False)
    result = lab.pytest("-m", "provision", "--plan", "--until", "server", timeout=60)
    assert lab.on("server", STATE, check=False) == before
    assert result.returncode == code, result.stdout + result.stderr
    assert not lab.report.exists() or lab.events("run-ended"), "a plan is no run"
    return set(re.findall(r"^  change  ([^:]+):", result.stdout, re.MULTILINE)), result.stdout


def changed(lab: Lab) -> set[str]:
    """What the step then said that it had changed."""
    result = lab.provision("--until", "server")
    assert result.returncode == 0, result.stdout + result.stderr
    return set(lab.evidence()["server"].changed)


def test_the_plan_of_a_new_server_is_what_is_done(server: Lab) -> None:
    plan, text = planned(server, 6)
    assert "+++ /etc/dnsmasq.d/rackproof.conf\t644 root:root" in text
    assert "+dhcp-authoritative" in text
    assert re.search("^ +remove: systemd-timesyncd$", text, re.MULTILINE)
    assert re.search("^ +with it: .*dnsmasq-base", text, re.MULTILINE)
    assert {"packages", "Python packages", "certificate", "dnsmasq", "nodes of the boot service"} <= plan
    assert changed(server) == plan


def test_what_was_installed_runs_as_the_lab_asks_and_in_no_other_way(server: Lab) -> None:
    """Debian would have started a web server for everybody, and left its site for the next boot."""
    assert server.on("server", "ls /etc/nginx/sites-enabled /usr/sbin/policy-rc.d 2>/dev/null || true") == (
        "/etc/nginx/sites-enabled:"
    )
    assert listening(server, 80, 443, 9100) == ["10.10.1.1:443", "10.10.1.1:80", "10.10.1.1:9100"]


def test_systemds_resolver_and_dnsmasq_keep_their_own_addresses(server: Lab) -> None:
    assert listening(server, 53) == ["10.10.1.1:53", "127.0.0.53%lo:53", "127.0.0.54:53"]
    assert (
        server.on("server", "systemctl is-active systemd-resolved dnsmasq chrony").split() == ["active"] * 3
    )
    clocks = "dpkg-query -W -f '${Package} ${db:Status-Status}\\n' chrony systemd-timesyncd"
    assert "chrony installed" in server.on("server", clocks, check=False)
    assert "systemd-timesyncd installed" not in server.on("server", clocks, check=False)
    assert server.on("server", "dig +short @10.10.1.1 node3.lab.example.net") == "10.10.1.23"
    said = server.on("server", "journalctl -u dnsmasq -o cat --no-pager")
    assert "loopback" not in said, "resolvconf was told of it"
    assert "using nameserver 127.0.0.53#53" in said


def test_nothing_comes_in_from_outside_but_what_is_asked(server: Lab, tmp_path: Path) -> None:
    assert not reached(server, 22)
    file = tmp_path / "lab.yaml"
    file.write_text((ROOT / "labs/virtual.yaml").read_text().replace("allow: []", "allow: [tcp/22]"))
    opened = replace(server, arguments=("--lab", str(file)))
    assert planned(opened, 6)[0] == {"NAT"}
    assert changed(opened) == {"NAT"}
    assert reached(server, 22)
    assert not reached(server, 80)
    assert changed(server) == {"NAT"}


def listening(lab: Lab, *ports: int) -> list[str]:
    which = " or ".join(f"sport = :{port}" for port in ports)
    return sorted(line.split()[3] for line in lab.on("server", f"ss -Hlnt '{which}'").splitlines())


def reached(lab: Lab, port: int) -> bool:
    """Whether the server lets somebody on the played internet connect to this port."""
    outside = str(lab.places.namespace("wan"))
    code = f"import socket; socket.create_connection(('198.51.100.2', {port}), 1)"
    return lab.run("nsenter", f"--net={outside}", sys.executable, "-c", code, timeout=20).returncode == 0


def test_the_plan_of_a_server_that_stands_is_empty(server: Lab) -> None:
    plan, text = planned(server, 0)
    assert plan == set()
    assert "0 to change" in text
    assert "\n+++ " not in text


def test_the_plan_of_a_spoilt_server_is_what_is_done(server: Lab) -> None:
    server.on("server", SPOILT)
    plan, text = planned(server, 6)
    assert plan == {"nginx", "clock", "dnsmasq", "media proxmox-9", "hands"}
    assert "\n-# stray\n" in text
    assert (
        "--- /etc/chrony/conf.d/rackproof.conf\t600 root:root\n+++ /etc/chrony/conf.d/rackproof.conf\t644"
        in text
    )
    assert "/etc/rackproof/hands.json\t400 root:root (" in text
    assert (
        server.on("server", 'sed -n \'s/.*"value": "\\(.*\\)".*/\\1/p\' /etc/rackproof/hands.json | tail -n1')
        not in text
    )
    assert changed(server) == plan
    assert planned(server, 0)[0] == set()


def test_a_run_that_is_killed_over_the_packages_spoils_them_for_no_other(server: Lab) -> None:
    """The command that it sent goes on without it; the next run comes at once, and waits for it."""
    server.on("server", f"rm -r {PACKAGES} /etc/rackproof/hands.json")
    run = server.start_pytest("-m", "provision", "--until", "server")

    def probe() -> str | NotYet:
        assert run.poll() is None, run.communicate()
        return server.on("server", "pgrep -f 'pip install'", check=False) or NotYet("no pip yet")

    SOON.until("packages being installed", probe)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert server.on("server", "pgrep -f 'pip install'", check=False), "it is not at work any more"
    # The service that is tested and started anew needs every one of the packages.
    assert "hands" in changed(server)
    assert planned(server, 0)[0] == set()

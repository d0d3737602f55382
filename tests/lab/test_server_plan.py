"""`--plan` of the server step on a server: touches nothing, and is what the step then does."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.lab_fixtures import INSTANCE, Lab, raised

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
        lab.on("server", "systemctl is-system-running --wait")
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
    assert {"packages", "Python packages", "certificate", "dnsmasq", "nodes of the boot service"} <= plan
    assert changed(server) == plan


def test_what_was_installed_runs_as_the_lab_asks_and_in_no_other_way(server: Lab) -> None:
    """Debian would have started a web server for everybody, and left its site for the next boot."""
    assert server.on("server", "ls /etc/nginx/sites-enabled /usr/sbin/policy-rc.d 2>/dev/null || true") == (
        "/etc/nginx/sites-enabled:"
    )
    listening = "ss -Hlnt 'sport = :80 or sport = :443' | awk '{print $4}' | sort"
    assert server.on("server", listening).split() == ["10.10.1.1:443", "10.10.1.1:80"]


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

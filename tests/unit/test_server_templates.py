"""The server step without a server: what it renders for a lab, how it reads facts, in which order it acts."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from provision import server, server_facts, server_plan, server_told
from provision.certificate import Certificate
from provision.errors import LabError
from provision.inventory import Firewall, Lab, Person, Secret, load
from provision.ledger import Ledger
from provision.remote import Output, Remote, Stdin
from provision.run import Run
from provision.server_facts import Facts, OnDisk, Unit
from provision.server_plan import File, Part

CERTIFICATE = Certificate(trustme.CA().cert_pem.bytes().decode())

LAB_FILE = Path(__file__).parents[2] / "labs" / "virtual.yaml"

GATHERED = """== digests
1111111111111111111111111111111111111111111111111111111111111111  /etc/dnsmasq.d/rackproof.conf
== modes
644 root:root /etc/dnsmasq.d/rackproof.conf
== missing
chrony
== units
Id=dnsmasq.service
ActiveState=active
UnitFileState=enabled

Id=chrony.service
ActiveState=inactive
UnitFileState=
== applied
dnsmasq:2222
== boot-files
grub
snponly.efi
== resolvers
nameserver 192.0.2.53
== requirements
3333
== forwarding
1
== nat
		oifname "wan0" ip saddr 10.10.1.0/24 masquerade
== links
1: lo: <LOOPBACK,UP> mtu 65536 qdisc noqueue
2: lan0@if7: <BROADCAST> mtu 1500 qdisc noqueue
== addresses
1: lo    inet 127.0.0.1/8 scope host lo
2: lan0    inet 10.10.1.1/24 brd 10.10.1.255 scope global lan0
== listening
udp UNCONN 0      0      10.10.1.1:53  0.0.0.0:*
tcp LISTEN 0      511      0.0.0.0:80  0.0.0.0:*
== versions
dnsmasq-base 2.91-1
== user
990
== root
0
== system
Debian GNU/Linux 13 (trixie)
"""


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BMC_USER", "BMC_PASSWORD", "ROOT_PASSWORD", "VIEWER_PASSWORD", "OPERATOR_PASSWORD"):
        monkeypatch.setenv(f"RACKPROOF_{name}", f"canary-{name}")


@pytest.fixture(scope="module")
def lab() -> Lab:
    return load(LAB_FILE, {})


@pytest.fixture
def facts() -> Facts:
    return server_facts.parse(GATHERED)


@pytest.fixture
def run(ledger: Ledger) -> Run:
    return Run("virtual", "run-1", ledger, acting=frozenset({"server"}))


def text(lab: Lab, facts: Facts, path: str) -> str:
    files = {file.path: file for part in server_plan.parts(lab, facts, CERTIFICATE) for file in part.files}
    return files[path].content.decode()


def settings(lab: Lab, facts: Facts, path: str) -> list[str]:
    return [line for line in text(lab, facts, path).splitlines() if line and not line.startswith("#")]


def with_server(lab: Lab, **fields: object) -> Lab:
    return lab.model_copy(update={"server": lab.server.model_copy(update=fields)})


def with_management(lab: Lab, **fields: object) -> Lab:
    management = lab.management.model_copy(update=fields)
    return lab.model_copy(update={"networks": {**lab.networks, "management": management}})


def test_facts_of_what_a_server_prints(facts: Facts) -> None:
    assert facts.files == {"/etc/dnsmasq.d/rackproof.conf": OnDisk("1" * 64, "644", "root:root")}
    assert facts.units == {"dnsmasq": Unit("active", "enabled"), "chrony": Unit("inactive", "")}
    assert facts.listening == ("tcp 0.0.0.0:80", "udp 10.10.1.1:53")
    assert (facts.links, facts.addresses) == (("lo", "lan0"), ("127.0.0.1", "10.10.1.1"))
    assert (facts.missing, facts.applied) == (("chrony",), {"dnsmasq": "2222"})
    assert facts.root and facts.user and facts.nat and facts.forwarding and facts.resolvers


@pytest.mark.parametrize(("said", "came"), [("wan0 22", ("wan0", 22)), (" 22", None), ("", None)])
def test_by_which_interface_the_session_came_in(said: str, came: tuple[str, int] | None) -> None:
    assert server_facts.parse(f"== came\n{said}\n").came == came


def test_facts_of_a_server_that_has_nothing() -> None:
    facts = server_facts.parse("== digests\n== units\n\n== root\n1000\n")
    assert not (facts.root or facts.user or facts.nat or facts.forwarding or facts.resolvers)
    assert (facts.files, facts.units, facts.listening) == ({}, {}, ())


def test_dnsmasq_gives_every_known_mac_its_address(lab: Lab, facts: Facts) -> None:
    lines = settings(lab, facts, server_plan.DNSMASQ_CONF)
    assert "dhcp-host=52:54:00:a1:01:21,set:node1,10.10.1.21,node1,1h" in lines
    assert "dhcp-host=52:54:00:a1:01:11,set:console-node1,10.10.1.11,console-node1,1h" in lines
    assert len([line for line in lines if line.startswith("dhcp-host=")]) == 2 * len(lab.nodes)


def test_dnsmasq_names_every_address_of_the_lab(lab: Lab, facts: Facts) -> None:
    lines = settings(lab, facts, server_plan.DNSMASQ_CONF)
    assert "host-record=server.lab.example.net,server,10.10.1.1" in lines
    assert "host-record=console-node4.lab.example.net,console-node4,10.10.1.14" in lines
    assert "host-record=node2-storage.lab.example.net,node2-storage,10.10.2.22" in lines
    assert len([line for line in lines if line.startswith("host-record=")]) == 1 + 3 * len(lab.nodes)


def test_no_boot_file_without_a_nodes_tag(lab: Lab, facts: Facts) -> None:
    boots = [line for line in settings(lab, facts, server_plan.DNSMASQ_CONF) if line.startswith("dhcp-boot=")]
    assert len(boots) == 3 * len(lab.nodes)
    tags = r"dhcp-boot=tag:node\d,tag:(is_ipxe|is_(uefi|http),tag:!is_ipxe),"
    assert all(re.match(tags, line) for line in boots)
    assert "dhcp-boot=tag:node1,tag:is_ipxe,http://10.10.1.1/boot/52:54:00:a1:01:21,,10.10.1.1" in boots


def test_strangers_lease_only_where_the_lab_has_a_range(lab: Lab, facts: Facts) -> None:
    conf = server_plan.DNSMASQ_CONF
    assert "dhcp-range=10.10.1.100,10.10.1.199,255.255.255.0,1h" in settings(lab, facts, conf)
    assert "dhcp-range=10.10.1.0,static,255.255.255.0,1h" in settings(
        with_management(lab, dhcp=None), facts, conf
    )


def test_dns_is_forwarded_only_by_a_server_that_knows_resolvers(lab: Lab, facts: Facts) -> None:
    conf = server_plan.DNSMASQ_CONF
    assert "no-resolv" not in settings(lab, facts, conf)
    assert "no-resolv" in settings(lab, replace(facts, resolvers=False), conf)


@pytest.mark.parametrize(
    ("gateway", "wan", "option"),
    [("10.10.1.9", None, "router,10.10.1.9"), (None, "wan0", "router,10.10.1.1"), (None, None, "router")],
)
def test_the_router_is_the_gateway_or_the_server_that_does_nat_or_nobody(
    lab: Lab, facts: Facts, gateway: str | None, wan: str | None, option: str
) -> None:
    other = with_management(with_server(lab, wan=wan), gateway=gateway)
    assert f"dhcp-option=option:{option}" in settings(other, facts, server_plan.DNSMASQ_CONF)


def test_the_mtu_is_an_option_only_where_it_is_not_the_usual_one(lab: Lab, facts: Facts) -> None:
    conf = server_plan.DNSMASQ_CONF
    assert not [line for line in settings(lab, facts, conf) if "mtu" in line]
    assert "dhcp-option=option:mtu,9000" in settings(with_management(lab, mtu=9000), facts, conf)


def test_answer_urls_are_for_the_named_nodes_and_for_dnsmasq_alone(lab: Lab) -> None:
    file = server_plan.options(lab, {"node2": "tok_EN-2"}, "5a" * 32)
    lines = [line for line in file.content.decode().splitlines() if not line.startswith("#")]
    assert lines == [
        'tag:node2,250,"https://10.10.1.1/answer/tok_EN-2"',
        f'tag:node2,251,"{"5a" * 32}"',
    ]
    assert (file.mode, file.owner) == (0o400, "dnsmasq:root")


def test_a_token_that_would_end_the_option_is_refused(lab: Lab) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        server_plan.options(lab, {"node2": 'x"\ntag:node1,250,"y'}, "5a" * 32)
    with pytest.raises(ValueError, match="cannot be written"):
        server_plan.options(lab, {"node2": "token"}, "")


def test_no_log_format_of_nginx_has_the_path_itself(lab: Lab, facts: Facts) -> None:
    conf = text(lab, facts, server_plan.NGINX_CONF)
    formats = "\n".join(line for line in conf.splitlines() if line.startswith("log_format"))
    assert "$rackproof_path" in formats
    for leak in ("$request ", "$request_uri", "$uri", "$http_referer"):
        assert leak not in formats
    assert "error_log /dev/null" in conf


def test_nat_is_for_the_labs_networks_out_of_wan(lab: Lab, facts: Facts) -> None:
    rules = text(lab, facts, server_plan.NFT_FILE)
    assert 'oifname "wan0" ip saddr { 10.10.1.0/24, 10.10.2.0/24 } masquerade' in rules
    assert "net.ipv4.ip_forward = 1" in settings(lab, facts, server_plan.SYSCTL_FILE)
    assert "flush ruleset" not in rules


def test_without_a_firewall_only_the_labs_own_services_are_kept_from_outside(lab: Lab, facts: Facts) -> None:
    rules = text(with_server(lab, firewall=None), facts, server_plan.NFT_FILE)
    assert 'iifname "wan0" ip daddr 10.10.1.1 tcp dport { 53, 80, 443 } drop' in rules
    assert "from_wan" not in rules


def test_a_firewall_lets_in_what_is_asked_and_drops_the_rest(lab: Lab, facts: Facts) -> None:
    guarded = with_server(lab, firewall=Firewall.model_validate({"allow": ["tcp/22", "udp/500-501", "icmp"]}))
    rules = [line.strip() for line in text(guarded, facts, server_plan.NFT_FILE).splitlines()]
    place = rules.index("tcp dport 22 accept")
    assert rules[place : place + 4] == [
        "tcp dport 22 accept", "udp dport 500-501 accept", "meta l4proto { icmp, ipv6-icmp } accept", "drop",
    ]  # fmt: skip
    assert 'iifname "wan0" jump from_wan' in rules


CAME_FROM_OUTSIDE = GATHERED.replace("2: lan0@if7", "3: wan0: <UP>\n2: lan0@if7").replace(
    "== root", "== came\nwan0 22\n== root"
)


@pytest.mark.parametrize("allow", ["udp/22", "icmp", "tcp/23"])
def test_whoever_comes_in_from_outside_is_not_locked_out(lab: Lab, run: Run, allow: str) -> None:
    guarded = with_server(lab, firewall=Firewall.model_validate({"allow": allow}))
    machine = Script(gathered=CAME_FROM_OUTSIDE)
    with pytest.raises(
        LabError, match=r"comes in by wan0, .* not let in tcp/22\n.*add tcp/22 to server\.fire"
    ):
        server.configure(guarded, machine, run)
    assert len(machine.commands) == 1


@pytest.mark.parametrize("allow", ["tcp/22", "tcp/20-30"])
def test_whoever_may_come_in_from_outside_may_guard_it(lab: Lab, run: Run, allow: str) -> None:
    guarded = with_server(lab, firewall=Firewall.model_validate({"allow": allow}))
    machine = Script("rackproof ", gathered=CAME_FROM_OUTSIDE)
    with pytest.raises(LabError, match="its own words"):
        server.configure(guarded, machine, run)
    assert len(machine.commands) > 1


def test_the_exporter_is_there_only_when_it_is_asked_for(lab: Lab, facts: Facts) -> None:
    without = with_server(lab, node_exporter=False)
    assert "node exporter" not in [part.name for part in server_plan.parts(without, facts, CERTIFICATE)]
    lines = settings(lab, facts, server_plan.EXPORTER_UNIT)
    assert lines[-2:] == [
        "ExecStart=",
        "ExecStart=/usr/bin/prometheus-node-exporter --web.listen-address=10.10.1.1:9100",
    ]


def test_without_wan_there_is_no_nat_and_no_forwarding(lab: Lab, facts: Facts) -> None:
    closed = with_server(lab, wan=None)
    assert settings(closed, facts, server_plan.NFT_FILE) == [
        "table inet rackproof",
        "delete table inet rackproof",
    ]
    assert settings(closed, facts, server_plan.SYSCTL_FILE) == []


def test_the_boot_service_is_shipped_with_what_it_imports_and_no_more() -> None:
    names = {path.removeprefix(f"{server_plan.SOURCE}/") for path in server_plan.source_files()}
    assert {"provision/__init__.py", "provision/ledger.py", "provision/boot_service/__main__.py"} <= names
    assert not {"provision/remote.py", "provision/ssh.py", "provision/boot_service/client.py"} & names


def test_a_module_that_is_imported_by_its_package_is_shipped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "provision"
    package.mkdir()
    for name in ("one", "two"):
        (package / f"{name}.py").touch()
    source = package / "three.py"
    source.write_text("from provision import one\nfrom provision.two import anything\nimport json\n")
    monkeypatch.setattr(server_plan, "PROVISION", package)
    assert set(server_plan._imports(source)) == {"provision", "provision.one", "provision.two"}


def test_every_file_of_a_part_is_among_the_files_whose_facts_are_read(lab: Lab, facts: Facts) -> None:
    files = {file.path for part in server_plan.parts(lab, facts, CERTIFICATE) for file in part.files}
    assert files == set(server_plan.paths())
    assert [part.unit for part in server_plan.parts(lab, facts, CERTIFICATE)] == list(server_plan.UNIT_NAMES)


def standing(part: Part, facts: Facts) -> Facts:
    """The facts of a server on which this part stands."""
    files = {file.path: OnDisk(file.sha256, format(file.mode, "o"), file.owner) for file in part.files}
    units = {part.unit: Unit("active", "enabled")}
    return replace(facts, files=files, units=units, applied={part.unit: part.digest})


SPOILT: dict[str, Callable[[Facts], Facts]] = {
    "no file": lambda facts: replace(facts, files={}),
    "no unit": lambda facts: replace(facts, units={}),
    "failed": lambda facts: replace(facts, units={"dnsmasq": Unit("failed", "enabled")}),
    "not after a boot": lambda facts: replace(facts, units={"dnsmasq": Unit("active", "disabled")}),
    "never started": lambda facts: replace(facts, applied={}),
    "older files started": lambda facts: replace(facts, applied={"dnsmasq": "of older files"}),
    "other mode": lambda facts: replace(
        facts, files={path: replace(file, mode="777") for path, file in facts.files.items()}
    ),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_part_stands_only_when_nothing_is_missing(
    lab: Lab, facts: Facts, spoil: Callable[[Facts], Facts]
) -> None:
    [part] = [part for part in server_plan.parts(lab, facts, CERTIFICATE) if part.name == "dnsmasq"]
    good = standing(part, facts)
    assert part.stands(good)
    assert not part.stands(spoil(good))


@pytest.mark.parametrize("lost", [{"nat": False}, {"forwarding": False}])
def test_nat_that_somebody_switched_off_is_not_in_force(
    lab: Lab, facts: Facts, lost: dict[str, bool]
) -> None:
    good = server_plan.parts(lab, facts, CERTIFICATE)[0]
    assert good.stands(standing(good, facts))
    spoilt = replace(facts, **lost)  # type: ignore[arg-type]
    assert not server_plan.parts(lab, spoilt, CERTIFICATE)[0].stands(standing(good, spoilt))


def test_the_archive_keeps_mode_and_owner() -> None:
    files = [File("/etc/a", b"content", 0o400, "dnsmasq:root")]
    with tarfile.open(fileobj=io.BytesIO(server.tar(files))) as archive:
        entry = archive.getmember("etc/a")
        content = archive.extractfile(entry)
        assert content and content.read() == b"content"
    assert (entry.mode, entry.uname, entry.gname) == (0o400, "dnsmasq", "root")


class Script(Remote):
    """A machine on which commands end as told: rc 1 for those that hold one of the words in `failing`."""

    def __init__(
        self, *failing: str, gathered: str = GATHERED, said: Mapping[str, str] | None = None
    ) -> None:
        self.name = "server"
        self.failing, self.gathered, self.said = failing, gathered, said or {}
        self.commands: list[str] = []

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        self.commands.append(command)
        if stdin == server_facts.GATHER:
            return Output(0, self.gathered.encode(), b"")
        failed = any(word in command for word in self.failing)
        said = next((text for word, text in self.said.items() if word in command), "changed")
        return Output(int(failed), said.encode(), b"its own words" if failed else b"")

    def forward_socket(self, remote_socket: str) -> AbstractContextManager[Path]:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def place(self, word: str) -> int:
        """Where the first command with this word stands; -1 when there is none."""
        return next((place for place, command in enumerate(self.commands) if word in command), -1)

    def ran(self, word: str) -> int:
        return sum(word in command for command in self.commands)


ONE = Part("one", "unit-one", (File("/etc/one", b"1"),), test="test-one", prepare="prepare-one")
TWO = Part("two", "unit-two", (File("/etc/two", b"2"),), test="test-two", undo="undo-two")


def before(facts: Facts, **units: Unit) -> Facts:
    return replace(facts, units={name.replace("_", "-"): unit for name, unit in units.items()})


def test_every_part_is_tested_before_anything_is_replaced(facts: Facts, run: Run) -> None:
    machine = Script()
    server.put(machine, [ONE, TWO], facts, run)
    order = [
        machine.place(word) for word in ("test-one", f"{server_plan.STAGED} /etc/one /etc/two", "restart")
    ]
    assert machine.place("test-two") < order[1]
    assert order == sorted(order)
    assert machine.ran("prepare-one") == machine.ran("restart unit-one unit-two") == 1
    assert machine.ran(f"echo {ONE.digest}") == machine.ran(f"echo {TWO.digest}") == 1
    assert machine.ran("undo-two") == 0


def test_only_units_that_do_not_start_at_boot_are_enabled(facts: Facts, run: Run) -> None:
    machine = Script()
    server.put(machine, [ONE, TWO], before(facts, unit_one=Unit("active", "enabled")), run)
    assert machine.ran("systemctl enable --quiet unit-two") == machine.ran("systemctl enable") == 1


def test_a_refused_configuration_replaces_nothing_and_gives_the_tools_words(facts: Facts, run: Run) -> None:
    machine = Script("test-two")
    with pytest.raises(LabError, match=r"two refuses .* \(/etc/two\); nothing was replaced\n.*its own words"):
        server.put(machine, [ONE, TWO], facts, run)
    assert machine.ran("restart") == machine.ran("/etc/one") == 0


def test_a_part_that_does_not_start_brings_back_all_parts(facts: Facts, run: Run) -> None:
    machine = Script("prepare-one", said={"is-active": "active\nfailed\n", "journalctl": "no such user"})
    running = Unit("active", "enabled")
    with pytest.raises(LabError, match=r"^server: two did not start with the new .*\n.*no such user"):
        server.put(machine, [ONE, TWO], before(facts, unit_one=running, unit_two=running), run)
    assert machine.ran(f"{server.OLD} /etc/one /etc/two") == 2  # kept, and put back
    assert machine.ran("undo-two") == machine.ran("systemctl restart unit-one unit-two") - 1 == 1
    assert machine.ran(f"echo {ONE.digest}") == machine.ran("disable") == machine.ran("stop") == 0
    assert [event.text for event in run.events] == ["one, two: the old configuration is back"]


def test_a_unit_that_did_not_run_before_does_not_run_after(facts: Facts, run: Run) -> None:
    machine = Script("prepare-one", said={"is-active": "failed failed"})
    with pytest.raises(LabError, match="one, two did not start"):
        server.put(machine, [ONE, TWO], before(facts, unit_one=Unit("inactive", "disabled")), run)
    gone = machine.place("systemctl disable --quiet --now unit-two")  # it did not even exist
    assert 0 < gone < machine.commands.index(next(c for c in machine.commands if "undo-two" in c))
    assert machine.ran("systemctl disable --quiet unit-one && systemctl stop unit-one") == 1
    assert machine.ran("systemctl reset-failed unit-one") == 1
    assert machine.ran("systemctl restart") == 1


def test_a_failing_way_back_is_told_and_hides_no_error(facts: Facts, run: Run) -> None:
    machine = Script("prepare-one", "undo-two")
    with pytest.raises(LabError, match="did not start"):
        server.put(machine, [ONE, TWO], facts, run)
    assert [event.kind for event in run.events] == ["undo-failed"]


@pytest.mark.parametrize(
    ("said", "other", "message"),
    [
        ("== root\n0", "== root\n1000", "needs root"),
        ("10.10.1.1/24", "10.10.9.9/24", "does not have the lab's server address 10.10.1.1"),
        ("wan0:", "eth1:", "no network interface wan0, which the lab file names"),
    ],
)
def test_a_machine_that_cannot_be_the_server_is_left_alone(
    lab: Lab, run: Run, said: str, other: str, message: str
) -> None:
    gathered = GATHERED.replace("2: lan0@if7", "3: wan0: <UP>\n2: lan0@if7")
    machine = Script(gathered=gathered.replace(said, other))
    with pytest.raises(LabError, match=message):
        server.configure(lab, machine, run)
    assert len(machine.commands) == 1


def test_answer_urls_that_stop_dnsmasq_are_an_error(lab: Lab) -> None:
    with pytest.raises(LabError, match="dnsmasq did not run on after the answer URLs changed"):
        server.arm(lab, Script("systemctl reload dnsmasq"), {"node1": "token"}, "5a" * 32)


def test_disarming_is_an_empty_list(lab: Lab) -> None:
    machine = Script()
    server.disarm(lab, machine)
    assert machine.ran(server_plan.options(lab, {}).sha256) == 1
    assert machine.ran("systemctl reload dnsmasq") == 1


def test_the_service_is_reached_at_the_servers_own_address(lab: Lab) -> None:
    assert server.service_url(lab) == "http://10.10.1.1"


def test_accounts_are_sent_with_their_secrets_values(lab: Lab) -> None:
    people = {
        "alice": Person(role="operator", password=Secret.known("word")),
        "probe": Person(role="viewer", token=Secret.known("token")),
    }
    assert server_told.accounts(lab.model_copy(update={"people": people})) == [
        {"name": "alice", "role": "operator", "password": "word"},
        {"name": "probe", "role": "viewer", "token": "token"},
    ]

"""`python -m provision.redfish`: every command over five vendors' trees, odd properties, leave, hold, exit codes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import hold
from provision.errors import LabError
from provision.redfish import Board, Timing
from provision.redfish.__main__ import _parser, main
from provision.redfish.commands import COMMANDS, Outcome
from provision.redfish.redaction import HIDDEN, redacted
from provision.wait import Patience
from tests.unit import redfish_bmc as fake
from tests.unit.redfish_bmc import ENABLED, ROOT, TARGET, Answer, Bmc
from tests.unit.redfish_inside import inside
from tests.unit.redfish_sample import furnished
from tests.unit.test_redfish import VENDORS as KNOWN
from tests.unit.test_redfish import Clock, node

ADDRESS = "127.0.0.1"
SAMPLE = "written for it"
VENDORS = (SAMPLE, *KNOWN, "openbmc_stock")
READING = ("boot", "sensors", "log", "inventory", "firmware", "boot-order", "get Systems")
ACTING = (
    "on", "off", "cycle", "reset", "boot pxe --once", "boot disk --once", "boot cdrom --once", "boot bios --once",
    "boot pxe", "boot none", "log --clear", "boot-order --set Boot0002",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None,
    "",
    "  ",
    "N/A",
    0,
    -1,
    2.5,
    True,
    [],
    {},
    [None],
    [{}],
    ["x"],
    {"@odata.id": 5},
    {"@odata.id": "x"},
)
GONE = object()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACKPROOF_HOME", str(tmp_path / "home"))


def quick() -> Timing:
    """Patience on a clock that only waiting moves."""
    clock = Clock()
    patience = partial(Patience, first=1.0, most=8.0, now=clock.now, sleep=clock.sleep)
    return Timing(busy=patience(60), kept=patience(10), reset=patience(40))


def outcome(bmc: Bmc, words: str) -> Outcome:
    """What one command gives with one BMC, which is left without a session."""
    asked = _parser().parse_args(["all", *words.split()])
    with inside({ADDRESS: bmc}), Board(node(), timing=quick()) as board:
        found = COMMANDS[asked.command].does(board, asked)
    assert not bmc.sessions
    json.dumps(found.facts)
    return found


def machine(vendor: str, **faults: Any) -> Bmc:
    """A vendor's machine whose BMC behaves as that vendor's does."""
    return Bmc(tree(vendor), **KNOWN.get(vendor, {}).get("faults", {}) | faults)


def tree(vendor: str) -> dict[str, Any]:
    return furnished() if vendor == SAMPLE else fake.recorded(vendor)


# What five vendors' BMCs tell

TOLD: dict[str, dict[str, Any]] = {
    SAMPLE: {
        "sensor": ("Inlet", 21.0, "°C", 42.0), "sensors": 4, "beyond": ["Fan 1"],
        "logs": {"0": 2}, "dimms": (2, 32768.0), "drives": (1, 97.0), "cpus": 1, "ports": 4, "supplies": 1,
        "firmware": {"BMC": "7.1", "BIOS": "1.0", "NIC": "22.1", "Disk": None}, "first": "Boot0001",
    },
    "dell_r750": {
        "sensor": ("CPU1 Temp", 37.0, "°C", 99.0), "sensors": 61,
        "logs": {"Sel": 5, "FaultList": 0}, "dimms": (16, 32768.0), "drives": (3, 100.0), "cpus": 2,
        "ports": 5, "supplies": 2, "firmware": {"BMC": "6.00.30.00", "BIOS": "1.8.2"}, "first": "Boot0000",
    },
    "hpe_dl385_gen10p": {
        "sensor": ("01-Inlet Ambient", 20.0, "°C", 42.0), "sensors": 54,
        "logs": {"IML": 5, "SL": 5, "Event": 5, "IEL": 5}, "dimms": (16, 65536.0), "drives": (18, 100.0),
        "cpus": 2, "ports": 7, "supplies": 2,
        "firmware": {"BMC": "iLO 5 v2.72", "BIOS": "A42 v2.60 (08/11/2022)"}, "first": "Boot002C",
    },
    "lenovo_sr670v2": {
        "sensor": ("Ambient Temp", 19.0, "°C", 46.0), "sensors": 37,
        "logs": {"PlatformLog": 5, "SEL": None, "ActiveLog": 0, "SaLog": 0}, "dimms": (16, 65536.0),
        "drives": (4, 100.0), "cpus": 2, "ports": 5, "supplies": 4,
        "firmware": {"BMC": "TGBT42S 2.83 2023-07-05", "BIOS": "U8E122J"}, "first": "Boot0003",
    },
    "supermicro_x10": {
        "sensor": ("System Power Control", 0.0, "W", None), "sensors": 1,
        "logs": {"Log1": 25}, "dimms": (4, 16384.0), "drives": (0, None), "cpus": 1, "ports": 4,
        "supplies": None, "firmware": {"BMC": "4.0", "BIOS": "1.2"}, "first": None,
    },
    "openbmc_stock": {
        "sensor": ("Chassis Power Control", None, "W", None), "sensors": 1,
        "logs": {"EventLog": 0, "HostLogger": 0, "Journal": 25}, "dimms": (0, None), "drives": None,
        "cpus": 0, "ports": None, "supplies": None,
        "firmware": {"BMC": "2.15.0-dev-686-g100c36de90", "BIOS": None}, "first": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("vendor", VENDORS)
def test_sensors_have_units_and_thresholds_of_their_own(vendor: str) -> None:
    found = outcome(machine(vendor), "sensors").facts["sensors"]
    name, value, unit, critical = TOLD[vendor]["sensor"]
    one = next(sensor for sensor in found if sensor["name"] == name)
    assert (one["value"], one["unit"], one["thresholds"]["upper_critical"]) == (value, unit, critical)
    assert len(found) == TOLD[vendor]["sensors"]
    beyond = [sensor["name"] for sensor in found if sensor["beyond"]]
    assert beyond == TOLD[vendor].get("beyond", [])


@pytest.mark.parametrize("vendor", VENDORS)
def test_logs_are_found_wherever_the_vendor_keeps_them(vendor: str) -> None:
    logs = outcome(machine(vendor), "log").facts["logs"]
    counts = {log["name"]: log["entries"] if log["entries"] is None else len(log["entries"]) for log in logs}
    assert counts.items() >= TOLD[vendor]["logs"].items()
    assert len(counts) == len(logs), "no log is read twice"


@pytest.mark.parametrize("vendor", VENDORS)
def test_an_inventory_is_told_as_far_as_it_is_known(vendor: str) -> None:
    told, found = TOLD[vendor], outcome(machine(vendor), "inventory").facts
    count, mib = told["dimms"]
    assert len(found["dimms"]) == count and {dimm["mib"] for dimm in found["dimms"]} <= {mib}
    assert sum(one["kind"] == "CPU" for one in found["processors"]) == told["cpus"]
    drives = found["drives"]
    assert (drives and (len(drives), drives[0]["life_left"])) == (told["drives"] if drives else drives)
    assert (drives is None) == (told["drives"] is None)
    for key in ("ports", "supplies"):
        assert (found[key] if found[key] is None else len(found[key])) == told[key]


@pytest.mark.parametrize("vendor", VENDORS)
def test_firmware_and_boot_order_are_told(vendor: str) -> None:
    listed = outcome(machine(vendor), "firmware").facts["firmware"]
    assert {one["name"]: one["version"] for one in listed} == TOLD[vendor]["firmware"]
    order = outcome(machine(vendor), "boot-order").facts["boot_order"]
    assert (order and order[0]["reference"]) == TOLD[vendor]["first"]


# What acts, on five vendors' machines


@pytest.mark.parametrize("vendor", VENDORS)
def test_power_goes_where_it_is_sent_and_each_reset_type_is_sent_once(vendor: str) -> None:
    bmc = machine(vendor)
    was_off = bmc.power == "Off"
    outcome(bmc, "off")
    assert (bmc.power, bmc.resets) == ("Off", [] if was_off else ["ForceOff"])
    outcome(bmc, "on")
    assert (bmc.power, bmc.resets[-1]) == ("On", "On")
    bmc.resets.clear()
    outcome(bmc, "cycle")
    assert (bmc.power, bmc.resets) == ("On", ["ForceOff", "On"])


@pytest.mark.parametrize(
    ("vendor", "sign"),
    [
        ("dell_r750", "the BMC dates its last reset 2026"),
        ("hpe_dl385_gen10p", "boot progress went from FinishedPost to InPost"),
        ("lenovo_sr670v2", None),
        ("supermicro_x10", None),
        (SAMPLE, None),
        ("openbmc_stock", "the BMC dates its last reset 2026"),
    ],
)
def test_a_reset_that_its_bmc_would_show_by_nothing_is_made_by_off_and_on(
    vendor: str, sign: str | None
) -> None:
    bmc = machine(vendor)
    bmc.power = "On"
    found = outcome(bmc, "reset")
    assert bmc.power == "On"
    assert bmc.resets == (["ForceRestart"] if sign else ["ForceOff", "On"])
    assert found.facts["seen_by"].startswith(sign or "power is On")


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    ("source", "target"), [("pxe", "Pxe"), ("disk", "Hdd"), ("cdrom", "Cd"), ("bios", "BiosSetup")]
)
def test_a_boot_is_read_back_and_undone(vendor: str, source: str, target: str) -> None:
    bmc = machine(vendor)
    word = "UefiUsbCd" if (vendor, source) == ("supermicro_x10", "cdrom") else target
    assert outcome(bmc, f"boot {source} --once").facts["target"] == word
    assert (bmc.boot[TARGET], bmc.boot[ENABLED]) == (word, "Once")
    assert outcome(bmc, "boot none").lines == ["boots in its own order"]
    assert bmc.boot[ENABLED] == "Disabled"


def test_every_boot_is_refused_where_the_bmc_takes_one_only() -> None:
    with pytest.raises(LabError, match="takes no override that is Continuous, only Once, Disabled"):
        outcome(machine("lenovo_sr670v2"), "boot pxe")
    assert outcome(machine("dell_r750"), "boot pxe").facts["enabled"] == "Continuous"


@pytest.mark.parametrize("vendor", [SAMPLE, "dell_r750", "hpe_dl385_gen10p", "lenovo_sr670v2"])
def test_a_boot_order_is_set_whole_and_read_back(vendor: str) -> None:
    bmc = machine(vendor)
    before = [one["reference"] for one in outcome(bmc, "boot-order").facts["boot_order"]]
    found = outcome(bmc, f"boot-order --set {before[-1].lower()}").facts["boot_order"]
    assert [one["reference"] for one in found] == [before[-1], *before[:-1]]
    ((_, body),) = bmc.patches
    assert body == {"Boot": {"BootOrder": [before[-1], *before[:-1]]}}
    outcome(bmc, f"boot-order --set {before[-1]}")
    assert len(bmc.patches) == 1, "what is so already is not sent"


def test_an_entry_is_named_by_what_no_other_is_called() -> None:
    assert outcome(machine("lenovo_sr670v2"), "boot-order --set harddisk").lines[0].startswith("Boot0002")
    with pytest.raises(LabError, match='"disc" is no boot entry; there are Boot0003'):
        outcome(machine("lenovo_sr670v2"), "boot-order --set disc")
    with pytest.raises(LabError, match='"ubuntu" may be Boot0001 or Boot0004'):
        outcome(machine("dell_r750"), "boot-order --set ubuntu")
    with pytest.raises(LabError, match="offers no boot order"):
        outcome(machine("supermicro_x10"), "boot-order --set Boot0001")


def test_a_boot_order_that_is_accepted_and_dropped_is_told() -> None:
    with pytest.raises(LabError, match="accepted but not kept for 10 s"):
        outcome(machine(SAMPLE, drop_order=True), "boot-order --set Boot0002")


@pytest.mark.parametrize(
    "vendor", [SAMPLE, "dell_r750", "hpe_dl385_gen10p", "supermicro_x10", "openbmc_stock"]
)
@pytest.mark.parametrize("lost", [False, True])
def test_logs_are_cleared_once_and_read_back(vendor: str, lost: bool) -> None:
    bmc = machine(vendor, lose_clear_answer=lost)
    outcome(bmc, "log --clear")
    assert bmc.cleared and len(set(bmc.cleared)) == len(bmc.cleared)


def test_a_log_that_keeps_what_it_had_is_told() -> None:
    with pytest.raises(LabError, match="0 keeps 2 entries"):
        outcome(machine(SAMPLE, ignore_clear=True), "log --clear")


# What is missing, odd, or not offered


def test_what_a_bmc_does_not_offer_is_not_known() -> None:
    plain = Bmc(fake.written())
    assert outcome(plain, "sensors").facts == {"sensors": None}
    assert outcome(plain, "sensors").lines == ["sensors not known"]
    assert outcome(plain, "log").lines == ["logs not known"]
    assert outcome(plain, "boot-order").lines == ["boot order not known"]
    found = outcome(plain, "inventory").facts
    assert [key for key in ("dimms", "processors", "drives", "supplies") if found[key] is not None] == []
    with pytest.raises(LabError, match="no log that can be cleared and read back"):
        outcome(plain, "log --clear")


def test_a_reading_beyond_its_own_threshold_is_told() -> None:
    bmc = machine("lenovo_sr670v2")
    bmc.tree[f"{ROOT}/Chassis/1/Thermal"]["Temperatures"][0]["ReadingCelsius"] = 47
    found = outcome(bmc, "sensors --filter ambient")
    assert found.facts["sensors"][0]["beyond"] == "upper_critical"
    assert "beyond upper critical" in found.lines[0]


def test_sensors_of_the_new_kind_are_read_where_there_are_no_others() -> None:
    bmc = machine("dell_r750")
    chassis = bmc.tree[f"{ROOT}/Chassis/System.Embedded.1"]
    del chassis["Thermal"], chassis["Power"]
    found = {one["name"]: one for one in outcome(bmc, "sensors").facts["sensors"]}
    assert (found["CPU1 Temp"]["value"], found["CPU1 Temp"]["unit"]) == (37.0, "°C")
    assert found["CPU1 Temp"]["thresholds"]["upper_critical"] == 99.0


def test_a_log_is_read_page_after_page_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    bmc = machine("supermicro_x10")
    path = f"{ROOT}/Systems/1/LogServices/Log1/Entries"
    bmc.tree[path]["Members@odata.nextLink"] = f"https://bmc.example.net{path}?$skip=25"
    page = bmc.tree[f"{path}?$skip=25"] = {"Members": [{"Id": str(i), "Message": "x"} for i in range(26, 40)]}
    assert len(outcome(bmc, "log").facts["logs"][0]["entries"]) == 39
    page["Members@odata.nextLink"] = path
    assert len(outcome(bmc, "log").facts["logs"][0]["entries"]) == 39, "a page is read once"
    monkeypatch.setattr("provision.redfish.event_log.MOST_ENTRIES", 30)
    log = outcome(bmc, "log")
    assert (len(log.facts["logs"][0]["entries"]), log.facts["logs"][0]["whole"]) == (30, False)
    assert log.lines[0] == "Log1: 30 entries, and more that were not read"


def test_a_system_that_names_no_chassis_is_in_all_there_are() -> None:
    bmc = machine("lenovo_sr670v2")
    del bmc.tree[f"{ROOT}/Systems/1"]["Links"]["Chassis"]
    assert len(outcome(bmc, "sensors").facts["sensors"]) == TOLD["lenovo_sr670v2"]["sensors"]


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("words", READING)
def test_bad_weather_changes_no_answer(vendor: str, words: str) -> None:
    fair = outcome(machine(vendor), words)
    busy = [Answer(503, "busy", Retry_After="1"), Answer(429, "slowly"), Answer(503, "starting")]
    bmc = machine(vendor, token_uses=1, lose_get=1, cut_get=1, busy=busy)
    assert outcome(bmc, words).facts == fair.facts
    assert bmc.logins > 1 and not bmc.sessions
    full = machine(vendor, login=Answer(503, "RAC0218: The maximum number of user sessions is reached"))
    assert outcome(full, words).facts == fair.facts


def test_a_resource_that_may_not_be_read_is_told_in_the_bmcs_words() -> None:
    class Licensed(Bmc):
        def _get(self, path: str, resource: Any) -> tuple[int, dict[str, str], Any]:
            if path.endswith("/Thermal"):
                raise Answer(403, "needs the licence SFT-OOB-LIC")
            return super()._get(path, resource)

    with pytest.raises(LabError, match="asked for its sensors, refuses: 403 needs the licence SFT-OOB-LIC"):
        outcome(Licensed(fake.recorded("supermicro_x10")), "sensors")


class Odd(Bmc):
    """A BMC one of whose properties is missing or of another type."""

    odd: tuple[str, tuple[Any, ...], Any] | None = None

    def _get(self, path: str, resource: Any) -> tuple[int, dict[str, str], Any]:
        status, headers, body = super()._get(path, resource)
        if self.odd and self.odd[0] == path:
            body = _with(body, self.odd[1], self.odd[2])
        return status, headers, body


def _with(body: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """A body with another value under `keys`, or without what is there for GONE; as it is without such keys."""
    changed = copy.copy(body)
    try:
        if len(keys) > 1:
            changed[keys[0]] = _with(body[keys[0]], keys[1:], value)
        elif value is GONE:
            del changed[keys[0]]
        else:
            changed[keys[0]] = value
    except (KeyError, IndexError, TypeError):
        return body
    return changed


def _places(body: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    below = body.items() if isinstance(body, dict) else enumerate(body[:2]) if isinstance(body, list) else ()
    for key, value in below:
        yield (*keys, key)
        yield from _places(value, (*keys, key))


_places_of: dict[tuple[str, str], list[tuple[str, tuple[Any, ...]]]] = {}


def places(vendor: str, words: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Every property of every resource that a command reads of a vendor's machine."""
    if (vendor, words) not in _places_of:
        bmc = machine(vendor)
        with suppress(LabError):  # of what this vendor's BMC does not offer, what is read before counts
            outcome(bmc, words)
        read = dict.fromkeys(
            line.removeprefix("GET ").rstrip("/") for line in bmc.requests if line.startswith("GET ")
        )
        _places_of[vendor, words] = [
            (path, keys) for path in read if path in bmc.tree for keys in _places(bmc.tree[path])
        ]
    return _places_of[vendor, words]


@pytest.mark.parametrize("target", [None, "", 5, ["x"], {}])
def test_an_action_that_leads_nowhere_is_not_offered(target: Any) -> None:
    bmc = Odd(furnished())
    bmc.odd = f"{ROOT}/Systems/1", ("Actions", "#ComputerSystem.Reset", "target"), target
    with pytest.raises(LabError, match="cannot do what is asked from there"):
        outcome(bmc, "off")
    bmc.odd = f"{ROOT}/Systems/1/LogServices/0", ("Actions", "#LogService.ClearLog", "target"), target
    with pytest.raises(LabError, match="no log that can be cleared"):
        outcome(bmc, "log --clear")


# Those recorded trees that are on this machine, and the written one.
THERE = [vendor for vendor in VENDORS if vendor == SAMPLE or (fake.TREES / vendor).is_dir()]


@settings(max_examples=150)
@given(data=st.data())
def test_no_odd_or_missing_property_is_more_than_lab_trouble(data: st.DataObject) -> None:
    vendor = data.draw(st.sampled_from(THERE))
    words = data.draw(st.sampled_from(READING + ACTING))
    path, keys = data.draw(st.sampled_from(places(vendor, words)))
    value = data.draw(st.sampled_from((GONE, *ODD)))
    bmc = Odd(tree(vendor), **KNOWN.get(vendor, {}).get("faults", {}))
    bmc.odd = path, keys, value
    try:
        outcome(bmc, words)
    except LabError as error:
        assert error.node == "node1"


# Secrets


def test_what_get_shows_hides_secrets_by_name_look_and_value() -> None:
    body = {
        "Password": "hunter22", "PasswordLength": 8, "Attributes": {"SetupPassword": "abc", "Boot": "UEFI"},
        "Settings": [{"AttributeName": "SysPassword", "CurrentValue": "abc"}],
        "SNMP": {"ROCommunity": "public"}, "PrivateKey": "x", "Pem": "-----BEGIN PRIVATE KEY-----",
        "Image": "nfs://me:abc@store/iso", "Note": "the word is tr0ub4dor", "SessionToken": ["a"], "Empty": "",
        "Links": {"Passwords": {"@odata.id": "/redfish/v1/Passwords"}}, "KeyboardLayout": "us",
    }  # fmt: skip
    assert redacted(body, ["tr0ub4dor"]) == {
        "Password": HIDDEN, "PasswordLength": 8, "Attributes": {"SetupPassword": HIDDEN, "Boot": "UEFI"},
        "Settings": [{"AttributeName": "SysPassword", "CurrentValue": HIDDEN}],
        "SNMP": {"ROCommunity": HIDDEN}, "PrivateKey": HIDDEN, "Pem": HIDDEN, "Image": HIDDEN, "Note": HIDDEN,
        "SessionToken": [HIDDEN], "Empty": "", "Links": {"Passwords": {"@odata.id": "/redfish/v1/Passwords"}},
        "KeyboardLayout": "us",
    }  # fmt: skip


# The command line

LAB = """\
name: hall-3
domain: lab.example.net
server: {{host: local, wan: enp1s0}}
networks:
  management: {{cidr: 10.10.1.0/24, gateway: 10.10.1.1, dns: [10.10.1.1], nic: eno1, bridge: vmbr0}}
defaults:
  os: proxmox-9
  bmc: {{user: env:BMC_USER, password: env:BMC_PASSWORD, trust: pinned, fingerprint: "{fingerprint}"}}
  root_password: env:NOWHERE
  disk: {{serial: S3Z8*}}
nodes:
  node1: {{mac: "02:00:00:00:01:01", management: 10.10.1.21, bmc: {{address: 10.10.1.11}}}}
  node2: {{mac: "02:00:00:00:01:02", management: 10.10.1.22, bmc: {{address: 10.10.1.12}}}}
deadlines: {{power: 5s}}
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMC_USER", fake.USER)
    monkeypatch.setenv("BMC_PASSWORD", fake.PASSWORD)
    file = tmp_path / "hall-3.yaml"
    file.write_text(LAB.format(fingerprint=fake.FINGERPRINT))
    return file


@pytest.fixture
def rack() -> Iterator[dict[str, Bmc]]:
    """The BMCs of two nodes, and no session left in them."""
    bmcs = {f"10.10.1.1{number}": Bmc(fake.written()) for number in (1, 2)}
    with inside(bmcs):
        yield bmcs
    assert not [bmc.sessions for bmc in bmcs.values() if bmc.sessions]


Rack = dict[str, Bmc]
FIRST, SECOND = "10.10.1.11", "10.10.1.12"


def test_all_nodes_are_asked_and_told_in_json_as_in_text(
    lab: Path, rack: Rack, capsys: pytest.CaptureFixture[str]
) -> None:
    rack[SECOND].power = "Off"
    assert main(["all", "boot", "--lab", str(lab)]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"node{i}  boots in its own order" for i in (1, 2)
    ]
    assert main(["--lab", str(lab), "node2,node1", "firmware", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["nodes"]) == ["node1", "node2"]
    assert told["nodes"]["node2"]["firmware"][0] == {"name": "BMC", "version": "7.1"}


@pytest.mark.parametrize("words", ACTING)
def test_a_real_lab_is_changed_with_leave_alone(
    lab: Path, rack: Rack, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for leave in ([], ["--act", "hall-4"]):
        assert main(["node1", *words.split(), "--lab", str(lab), *leave]) == 4
        assert "hall-3" in capsys.readouterr().err
    assert not rack[FIRST].requests


def test_another_machine_is_not_touched(lab: Path, rack: Rack, capsys: pytest.CaptureFixture[str]) -> None:
    fake.add_nics(rack[FIRST].tree, f"{ROOT}/Systems/1", "02:00:00:00:09:09")
    assert main(["all", "off", "--lab", str(lab), "--act", "hall-3"]) == 1
    told = capsys.readouterr().out
    assert "node1  FAILED: the machine behind" in told and "node2  power is Off (ForceOff)" in told
    assert (rack[FIRST].resets, rack[SECOND].resets) == ([], ["ForceOff"])
    assert not [line for line in rack[FIRST].requests if line.startswith("PATCH")]


def test_a_lab_that_a_run_holds_is_left_alone_and_the_holder_named(
    lab: Path, rack: Rack, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold.held("hall-3", "20261122-0312-k7f3"):
        assert main(["node1", "off", "--lab", str(lab), "--act", "hall-3"]) == 1
        assert "held by run 20261122-0312-k7f3" in capsys.readouterr().err
        assert not rack[FIRST].requests
        assert main(["node1", "sensors", "--lab", str(lab)]) == 0, "a look disturbs no run"


def test_a_node_that_fails_holds_up_nobody_and_says_why(
    lab: Path, rack: Rack, capsys: pytest.CaptureFixture[str]
) -> None:
    rack[FIRST].faults.lose_get = 1000
    assert main(["all", "sensors", "--lab", str(lab)]) == 1
    told = capsys.readouterr().out
    assert "node2  sensors not known" in told
    assert "node1  FAILED: console-node1 (10.10.1.11), asked for its sensors, gives no answer" in told
    assert "likely: the BMC is off, unplugged or rebooting" in told
    assert main(["node1", "sensors", "--lab", str(lab), "--json"]) == 1
    assert "gives no answer" in json.loads(capsys.readouterr().out)["nodes"]["node1"]["error"]


def test_a_fault_of_ours_is_told_as_one(
    lab: Path, rack: Rack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("provision.redfish.sensors.read", lambda *_: 1 // 0)
    assert main(["node1", "sensors", "--lab", str(lab)]) == 3
    assert "node1  FAILED: a fault of rackproof: ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("node9 sensors", '"node9" is not a node of this lab; it has node1, node2'),
        ("node1 explode", "invalid choice: 'explode'"),
        ("node1 boot floppy", "invalid choice: 'floppy'"),
        ("node1 get https://elsewhere/x", "a path on the BMC"),
        ("node1", "the following arguments are required: COMMAND"),
    ],
)
def test_a_wrong_command_line_is_exit_4(
    lab: Path, rack: Rack, words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["--lab", str(lab), *words.split()])
    except SystemExit as stop:
        code = int(str(stop.code))
    told = capsys.readouterr().err
    assert (code, said in told, "nothing was touched" in told) == (4, True, True)
    assert not rack[FIRST].requests


def test_a_secret_that_is_not_there_is_exit_4_and_no_other_secret_is_needed(
    lab: Path, rack: Rack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node1", "sensors", "--lab", str(lab)]) == 0
    monkeypatch.delenv("BMC_PASSWORD")
    assert main(["node1", "sensors", "--lab", str(lab)]) == 4
    assert "nodes.node1.bmc.password: the secret env:BMC_PASSWORD is not set" in capsys.readouterr().err


def test_no_output_has_a_secret(lab: Path, rack: Rack, capsys: pytest.CaptureFixture[str]) -> None:
    rack[FIRST].tree[f"{ROOT}/Systems/1"] |= {"AssetTag": f"it is {fake.PASSWORD}", "Key": "x"}
    rack[SECOND].faults.busy = [Answer(400, f"bad {fake.PASSWORD}")]
    for more in ([], ["--json"]):
        main(["all", "get", "Systems/1", "--lab", str(lab), *more])
        shown = capsys.readouterr()
        assert fake.PASSWORD not in shown.out + shown.err
        assert HIDDEN in shown.out

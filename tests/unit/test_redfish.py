"""What rackproof asks of a BMC, against recorded trees of five vendors and every fault known of BMCs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from provision import spans
from provision.errors import GaveUp, IdentityMismatch, LabError, Refused, Unreachable
from provision.inventory import Bmc as Console
from provision.inventory import Disk, Node, Secret
from provision.redfish import Board, Identity, Timing, identity, prove
from provision.redfish.connection import retry_after
from provision.wait import Patience
from tests.unit import redfish_bmc as fake
from tests.unit.redfish_bmc import ENABLED, MODE, ROOT, TARGET, Answer, Bmc

MACS = {"mac": "02:00:00:00:01:01", "macs": {"storage": "02:00:00:00:01:02"}}
ONCE = {TARGET: "Pxe", ENABLED: "Once"}


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.time, self.slept = 0.0, 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.slept += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timing(clock: Clock) -> Timing:
    def patience(seconds: float) -> Patience:
        return Patience(seconds, first=1.0, most=8.0, now=clock.now, sleep=clock.sleep)

    return Timing(connect=2, read=2, busy=patience(60), kept=patience(10), reset=patience(40))


def node(*, serial: str | None = None, console: Any = None, **nics: Any) -> Node:
    """A node whose BMC is on loopback, trusted by its fingerprint unless `console` says otherwise."""
    given = {
        "name": "console-node1",
        "address": "127.0.0.1",
        "user": Secret.known(fake.USER, reference="env:BMC_USER"),
        "password": Secret.known(fake.PASSWORD, reference="env:BMC_PASSWORD"),
        "trust": "pinned",
        "fingerprint": fake.FINGERPRINT,
        **(console or {}),
    }
    return Node(
        name="node1", domain="lab.local", addresses={"management": "10.10.1.21"}, nics={"management": "eno1"},
        bmc=Console(**given), os="proxmox-9", disk=Disk(), root_password=Secret.known("root"), serial=serial,
        **(nics or MACS),
    )  # fmt: skip


@pytest.fixture
def serve(timing: Timing) -> Iterator[Callable[..., tuple[Bmc, Board]]]:
    """Start a BMC with these faults and a board for it; at the end no session may be left."""
    started: list[Bmc] = []
    with ExitStack() as stack:

        def start(
            tree: dict[str, Any] | None = None, at: Node | None = None, **faults: Any
        ) -> tuple[Bmc, Board]:
            bmc = stack.enter_context(fake.serving(Bmc(fake.written() if tree is None else tree, **faults)))
            started.append(bmc)
            return bmc, stack.enter_context(Board(at or node(), port=bmc.port, timing=timing))

        yield start
    assert not [bmc.sessions for bmc in started if bmc.sessions and not bmc.login_was_lost]


Serve = Callable[..., tuple[Bmc, Board]]


# Five vendors' recorded trees

VENDORS: dict[str, dict[str, Any]] = {
    "dell_r750": {
        "node": {"mac": "e4:3d:1a:13:27:f0", "macs": {"storage": "b8:3f:d2:90:97:c4"}},
        "serial": "F54P1G3",
        "console": "b0:7b:25:d6:51:82",
        "firmware": "6.00.30.00",
        "faults": {"etag": "header"},
    },
    "hpe_dl385_gen10p": {
        "node": {"mac": "50:7c:6f:11:f2:a6", "macs": {"storage": "b8:3f:d2:d7:f7:4a"}},
        "serial": "MXQ302099S",
        "console": "5c:ed:8c:34:c2:94",
        "firmware": "iLO 5 v2.72",
        "faults": {"etag": "weak", "refuse_mode": True},
    },
    "lenovo_sr670v2": {
        "node": {"mac": "00:62:0b:4c:28:4e"},
        "serial": "J105958B",
        "console": "08:8f:c3:a5:8a:6f",
        "firmware": "TGBT42S 2.83 2023-07-05",
        "faults": {"etag": "body"},
    },
    "supermicro_x10": {
        "node": {"mac": "ac:1f:6b:18:a4:5a", "macs": {"storage": "ac:1f:6b:18:a6:b3"}},
        "serial": None,
        "console": "ac:1f:6b:18:a2:41",
        "firmware": "4.0",
        "faults": {"refuse_mode": True},
    },
}


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendors_machine_is_known_booted_from_the_network_once_and_reset_once(
    serve: Serve, vendor: str
) -> None:
    facts = VENDORS[vendor]
    machine = node(serial=facts["serial"], console={"mac": facts["console"]}, **facts["node"])
    bmc, board = serve(fake.recorded(vendor), machine, **facts["faults"])

    found = board.identity()
    proof = prove(machine, found)
    assert found.firmware == facts["firmware"]
    assert machine.mac in proof and facts["console"] in proof and (facts["serial"] or "MAC") in proof

    assert board.set_boot_once_pxe().once_from_network
    assert len(bmc.patches) == 1 and bmc.patches[0][1] == {"Boot": ONCE}
    done = board.reset()
    assert board.power_state() == board.power_state() == "On"
    assert (done.how, bmc.resets, bmc.boots) == ("ForceRestart", ["ForceRestart"], ["Pxe"])
    assert not board.boot_override().pending

    board.close()
    assert (bmc.logins, bmc.sessions) == (1, {})


def test_openbmc_without_nics_is_known_by_serial_and_switched_on(serve: Serve) -> None:
    tree = fake.recorded("openbmc_stock")
    tree[f"{ROOT}/Systems/system"]["SerialNumber"] = "OB1"
    machine = node(serial="ob1")
    bmc, board = serve(tree, machine)
    assert prove(machine, board.identity()) == "serial number ob1"
    board.set_boot_once_pxe()
    assert board.reset().how == "On"
    assert board.power_state() == "On"
    board.boot_override()
    assert (bmc.resets, bmc.boots) == (["On"], ["Pxe"])


def test_openbmc_without_nics_or_serial_is_refused_with_what_to_add(serve: Serve) -> None:
    _, board = serve(fake.recorded("openbmc_stock"))
    with pytest.raises(IdentityMismatch, match=r"reports no network interface.*names no serial") as error:
        prove(board.node, board.identity())
    assert "serial:" in str(error.value) and "nodes.node1" in str(error.value)


# Identity


def test_identity_in_full(serve: Serve) -> None:
    _, board = serve()
    assert board.identity() == Identity(
        system=f"{ROOT}/Systems/1", serial="S1", service_tag=None, uuid=None, manufacturer="Maker",
        model="Plain 1", power="On", bios="1.0", firmware="7.1",
        macs=frozenset({"02:00:00:00:01:01", "02:00:00:00:01:02"}), bmc_macs=frozenset({"02:00:00:00:01:f0"}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"serial": "S2"}, ["serial number S2", "serial number S1"]),
        ({"mac": "02:00:00:00:01:09"}, ["MAC 02:00:00:00:01:09", "02:00:00:00:01:01"]),
        ({"mac": "02:00:00:00:01:01", "macs": {"storage": "02:00:00:00:01:08"}}, ["MAC 02:00:00:00:01:08"]),
        ({"console": {"mac": "02:00:00:00:01:f9"}}, ["console MAC 02:00:00:00:01:f9", "02:00:00:00:01:f0"]),
    ],
)
def test_another_machine_is_refused_by_name(serve: Serve, wrong: dict[str, Any], names: list[str]) -> None:
    bmc, board = serve(None, node(**wrong))
    with pytest.raises(IdentityMismatch) as error:
        prove(board.node, board.identity())
    for name in ["node1", "console-node1", "127.0.0.1", "nothing was written", *names]:
        assert name in str(error.value)
    assert {request.split()[0] for request in bmc.requests} == {"GET", "POST"}
    assert not bmc.patches and not bmc.resets


def test_a_bmc_that_tells_no_serial_cannot_prove_one(serve: Serve) -> None:
    _, board = serve(fake.written(SerialNumber="To be filled by O.E.M."), node(serial="S1", **MACS))
    with pytest.raises(IdentityMismatch, match="no serial number"):
        prove(board.node, board.identity())


def test_only_dells_sku_is_a_service_tag(serve: Serve) -> None:
    _, board = serve(fake.written(SKU="S1-SKU"), node(serial="S1-SKU", **MACS))
    with pytest.raises(IdentityMismatch):
        prove(board.node, board.identity())


def test_macs_are_found_at_the_adapters_ports_when_the_interfaces_lack_them(serve: Serve) -> None:
    tree = fake.written()
    fake.add_nics(tree, f"{ROOT}/Systems/1", "02:00:00:00:01:02")
    fake.add_adapter(tree, "02:00:00:00:01:01", "02:00:00:00:01:03")
    _, board = serve(tree)
    assert "02:00:00:00:01:03" in board.identity().macs
    assert prove(board.node, board.identity()).startswith("MAC 02:00:00:00:01:01")


@pytest.mark.parametrize("text", ["02:AB:00:00:01:fe", "02-ab-00-00-01-FE", " 02AB000001FE "])
def test_a_mac_reads_the_same_however_it_is_written(text: str) -> None:
    assert identity.mac(text) == "02:ab:00:00:01:fe"


@pytest.mark.parametrize(
    "text", ["", "Not Available", None, 5, "00:00:00:00:00:00", "02:00:00:00:01", "zz" * 6]
)
def test_what_is_no_mac_is_none(text: Any) -> None:
    assert identity.mac(text) is None


# Several systems


def two_systems(**second: Any) -> dict[str, Any]:
    tree = fake.written()
    tree[f"{ROOT}/Systems"]["Members"].append({"@odata.id": f"{ROOT}/Systems/2"})
    tree[f"{ROOT}/Systems/2"] = {"Id": "2", "PowerState": "On", **second}
    return tree


BOOTABLE = {"Boot": {TARGET: "None"}, "Actions": fake.resets("ForceRestart", system=f"{ROOT}/Systems/2")}


@pytest.mark.parametrize(
    ("second", "machine"),
    [
        ({}, node()),
        (BOOTABLE, node()),
        ({**BOOTABLE, "SerialNumber": "S2"}, node(serial="S1", **MACS)),
        (BOOTABLE, node(console={"system": "1"})),
    ],
    ids=["one can boot", "by MAC", "by serial", "as named"],
)
def test_of_several_systems_the_nodes_own_is_taken(
    serve: Serve, second: dict[str, Any], machine: Node
) -> None:
    _, board = serve(two_systems(**second), machine)
    assert board.identity().system == f"{ROOT}/Systems/1"


@pytest.mark.parametrize(
    "machine",
    [node(console={"system": "3"}), node(serial="S3", mac="02:00:00:00:01:09")],
    ids=["named", "none"],
)
def test_no_fitting_system_is_told_with_what_there_is(serve: Serve, machine: Node) -> None:
    _, board = serve(two_systems(**BOOTABLE, SerialNumber="S2"), machine)
    with pytest.raises(IdentityMismatch, match=r"(?s)Systems/1, .*Systems/2.*nodes\.node1\.bmc\.system"):
        board.identity()


# Certificates


def test_a_pinned_certificate_is_taken_for_every_request(serve: Serve) -> None:
    bmc, board = serve(None, node(console={"fingerprint": fake.FINGERPRINT.replace(":", "").upper()}))
    assert board.power_state() == "On"
    assert bmc.logins == 1


def test_another_certificate_than_the_pinned_one_gets_not_one_byte(serve: Serve) -> None:
    other = ":".join(["ab"] * 32)
    bmc, board = serve(None, node(console={"fingerprint": other}))
    with pytest.raises(Unreachable) as error:
        board.power_state()
    assert fake.fingerprints(str(error.value)) == [other, fake.FINGERPRINT]
    assert "nodes.node1.bmc.fingerprint" in str(error.value)
    assert not bmc.requests


@pytest.mark.parametrize("trust", ["system", "pinned"])
def test_without_trust_the_fingerprint_found_is_told_and_how_to_pin_it(serve: Serve, trust: str) -> None:
    bmc, board = serve(None, node(console={"trust": trust, "fingerprint": None}))
    with pytest.raises(Unreachable) as error:
        board.power_state()
    assert set(fake.fingerprints(str(error.value))) == {fake.FINGERPRINT}
    assert f'nodes.node1.bmc: {{trust: pinned, fingerprint: "{fake.FINGERPRINT}"}}' in str(error.value)
    assert not bmc.requests


def trusting(ca: trustme.CA, folder: Path) -> Node:
    file = folder / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return node(console={"trust": "ca", "ca": file, "fingerprint": None})


def test_a_certificate_of_the_named_ca_is_taken(serve: Serve, tmp_path: Path) -> None:
    _, board = serve(None, trusting(fake.CA, tmp_path))
    assert board.power_state() == "On"


def test_a_certificate_of_another_ca_is_not(serve: Serve, tmp_path: Path) -> None:
    bmc, board = serve(None, trusting(fake.STRANGER, tmp_path))
    with pytest.raises(Unreachable, match=re.escape(str(tmp_path / "ca.pem"))):
        board.power_state()
    assert not bmc.requests


def test_a_certificate_for_another_address_is_not_taken(timing: Timing, tmp_path: Path) -> None:
    bmc = Bmc(fake.written())
    with (
        fake.serving(bmc, fake.CA.issue_cert("10.10.1.11")),
        Board(trusting(fake.CA, tmp_path), port=bmc.port, timing=timing) as board,
        pytest.raises(Unreachable, match="mismatch"),
    ):
        board.power_state()
    assert not bmc.requests


def test_a_ca_file_that_is_not_there_is_named(serve: Serve, tmp_path: Path) -> None:
    _, board = serve(None, node(console={"trust": "ca", "ca": tmp_path / "none.pem", "fingerprint": None}))
    with pytest.raises(Unreachable, match=r"none\.pem"):
        board.power_state()


def test_neither_proxies_nor_bundles_of_the_environment_are_used(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    _, board = serve()
    assert board.power_state() == "On"


# Logins


def wrong_password() -> Node:
    return node(console={"password": Secret.known("canary", reference="file:/etc/rackproof/bmc")})


@pytest.mark.parametrize("sessions", [True, False])
def test_a_wrong_password_is_tried_once_and_told_without_its_value(serve: Serve, sessions: bool) -> None:
    tree = fake.written()
    if not sessions:
        del tree[ROOT]["Links"]
    bmc, board = serve(tree, wrong_password())
    for ask in (board.identity, board.power_state, board.set_boot_once_pxe, board.reset):
        with pytest.raises(Refused) as error:
            ask()
        for word in ("console-node1", "env:BMC_USER", "file:/etc/rackproof/bmc"):
            assert word in str(error.value)
        assert "canary" not in str(error.value) and fake.PASSWORD not in str(error.value)
    board.close()
    assert bmc.failed_logins == 1


@pytest.mark.parametrize(
    ("tree", "faults", "why"),
    [
        ({"Links": {}}, {}, "the BMC has no sessions"),
        ({}, {"login": Answer(503, "maximum number of user sessions")}, "maximum number of user sessions"),
        ({}, {"login": Answer(404, "none here")}, "404"),
        ({}, {"login": Answer(400, "", message_id="Base.1.8.SessionLimitExceeded")}, "SessionLimitExceeded"),
        ({}, {"lose_login": 1}, "lost"),
        ({}, {"hide_root": True}, "service root"),
    ],
)
def test_without_a_session_the_password_is_sent_and_that_is_told(
    serve: Serve, tree: dict[str, Any], faults: dict[str, Any], why: str
) -> None:
    resources = fake.written()
    resources[ROOT] |= tree
    bmc, board = serve(resources, None, **faults)
    assert board.power_state() == "On"
    assert board.auth.startswith("basic (") and why in board.auth
    assert bmc.logins == ("lose_login" in faults)


def test_a_session_that_ends_is_renewed_and_none_is_left(serve: Serve) -> None:
    bmc, board = serve(token_uses=3)
    board.set_boot_once_pxe()
    board.reset()
    assert board.auth == "session"
    assert bmc.logins > 2 and len(bmc.resets) == 1
    bmc.sessions = {path: (token, 0) for path, (token, _) in bmc.sessions.items()}
    logins = bmc.logins
    board.close()
    assert (bmc.logins, bmc.sessions) == (logins, {})


def test_a_board_logs_out_when_its_user_fails(timing: Timing) -> None:
    bmc = Bmc(fake.written())
    with fake.serving(bmc):
        with (
            pytest.raises(LabError, match="on purpose"),
            Board(node(), port=bmc.port, timing=timing) as board,
        ):
            board.power_state()
            raise LabError("on purpose")
        assert (bmc.logins, bmc.sessions) == (1, {})


# A BMC that is busy, slow or gone


def test_a_busy_bmc_is_asked_again_after_the_time_it_names(serve: Serve, clock: Clock) -> None:
    _, board = serve(busy=[Answer(503, "busy", Retry_After="7"), Answer(429, "busy")])
    assert board.power_state() == "On"
    assert 7 <= clock.slept < 20


def test_a_busy_bmc_is_given_up_on_in_time(serve: Serve, clock: Clock) -> None:
    _, board = serve(busy=[Answer(503, "still starting", Retry_After="50")] * 2)
    with pytest.raises(GaveUp, match=r"(?s)console-node1.*asks to wait"):
        board.power_state()
    assert clock.slept == pytest.approx(60)


def test_a_date_to_come_back_at_is_read_beside_the_bmcs_own_clock() -> None:
    date, later = "Thu, 01 Jan 1970 00:00:10 GMT", "Thu, 01 Jan 1970 00:00:40 GMT"
    assert retry_after({"Retry-After": later, "Date": date}) == 30
    assert retry_after({"Retry-After": "soon"}) is None


def test_a_lost_answer_to_a_question_is_asked_for_again(serve: Serve) -> None:
    bmc, board = serve(lose_get=2)
    assert board.power_state() == "On"
    assert bmc.logins == 1


def test_a_mute_bmc_is_told_as_unreachable(serve: Serve) -> None:
    _, board = serve(lose_get=1000)
    with pytest.raises(Unreachable, match=r"console-node1 \(127\.0\.0\.1\), asked for its power state"):
        board.power_state()


def test_a_bmc_that_comes_back_is_spoken_to_again(serve: Serve) -> None:
    bmc, board = serve(lose_get=3)
    with pytest.raises(Unreachable):
        board.power_state()
    assert board.power_state() == "On"
    assert bmc.logins == 1


def test_a_slow_bmc_is_not_waited_for_without_end(clock: Clock) -> None:
    patience = Patience(5, now=clock.now, sleep=clock.sleep)
    bmc = Bmc(fake.written(), slow=30)
    with fake.serving(bmc):
        timing = Timing(connect=2, read=0.05, busy=patience, kept=patience, reset=patience)
        with (
            Board(node(), port=bmc.port, timing=timing) as board,
            pytest.raises(Unreachable, match="timed out"),
        ):
            board.power_state()
        bmc.closing.set()


def test_a_closed_port_is_told_as_unreachable(timing: Timing) -> None:
    with fake.serving(Bmc(fake.written())) as bmc:
        pass
    with Board(node(), port=bmc.port, timing=timing) as board, pytest.raises(Unreachable, match="refused"):
        board.power_state()


@pytest.mark.parametrize("body", ["<html>starting</html>", "[]", '"no"', '{"error": "no"}'])
@pytest.mark.parametrize("status", [200, 500])
def test_what_is_not_redfish_is_told_as_such(serve: Serve, body: str, status: int) -> None:
    answer = Answer(status)
    answer.body = body
    _, board = serve(busy=[answer])
    with pytest.raises(LabError, match="console-node1"):
        board.power_state()


def test_sushy_says_nothing_to_the_user(
    serve: Serve, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    _, board = serve(etag="weak", lose_get=1, busy=[Answer(503, "busy")])
    board.set_boot_once_pxe()
    board.reset()
    board.close()
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_the_time_with_a_bmc_is_the_bmcs(serve: Serve) -> None:
    _, board = serve()
    before = len(spans.recorded())
    board.power_state()
    assert {span.machine for span in spans.recorded()[before:]} == {"console-node1"}


# One network boot


def test_target_and_enabled_go_in_one_patch_and_a_known_mode_stays_unsaid(serve: Serve) -> None:
    bmc, board = serve()
    kept = board.set_boot_once_pxe()
    assert bmc.patches == [(f"{ROOT}/Systems/1", {"Boot": ONCE})]
    assert (kept.target, kept.enabled, kept.mode) == ("Pxe", "Once", "UEFI")


def boot(**more: Any) -> dict[str, Any]:
    return {TARGET: "None", ENABLED: "Disabled", **more}


@pytest.mark.parametrize(
    ("system", "sent"),
    [
        ({"Manufacturer": "Supermicro", "Boot": boot(**{MODE: "UEFI"})}, {**ONCE, MODE: "UEFI"}),
        ({"Manufacturer": "Supermicro", "Boot": boot()}, ONCE),
        ({"Boot": boot(**{MODE: "Legacy"})}, {**ONCE, MODE: "UEFI"}),
        ({"Boot": boot(**{MODE: "Legacy", f"{MODE}@Redfish.AllowableValues": ["Legacy"]})}, ONCE),
    ],
    ids=["Supermicro X11", "Supermicro X10", "another mode", "no UEFI on offer"],
)
def test_the_mode_is_sent_where_it_must_be(
    serve: Serve, system: dict[str, Any], sent: dict[str, str]
) -> None:
    bmc, board = serve(fake.written(**system))
    if sent == ONCE and MODE in system["Boot"]:
        with pytest.raises(GaveUp, match="mode Legacy"):
            board.set_boot_once_pxe()
    else:
        assert board.set_boot_once_pxe().once_from_network
    assert bmc.patches[0][1] == {"Boot": sent}


@pytest.mark.parametrize(
    ("firmware", "network", "disk"),
    [
        ("uefi-http", {TARGET: "UefiHttp", ENABLED: "Once"}, {TARGET: "Hdd", ENABLED: "Once"}),
        ("bios", {**ONCE, MODE: "Legacy"}, {TARGET: "Hdd", ENABLED: "Once"}),
        ("secure-boot", ONCE, {TARGET: "Hdd", ENABLED: "Once"}),
    ],
)
def test_a_boot_is_asked_for_as_the_nodes_firmware_does_it(
    serve: Serve, firmware: str, network: dict[str, str], disk: dict[str, str]
) -> None:
    offers = {f"{TARGET}@Redfish.AllowableValues": ["None", "Pxe", "Hdd", "UefiHttp"]}
    tree = fake.written(Boot=boot(**{MODE: "UEFI"}, **offers))
    bmc, board = serve(tree, node().model_copy(update={"firmware": firmware}))
    board.set_boot_once_pxe()
    board.set_boot_once("Hdd")
    assert [patch["Boot"] for _, patch in bmc.patches] == [network, disk]


def test_a_bmc_without_http_boot_is_refused_with_what_it_offers(serve: Serve) -> None:
    bmc, board = serve(None, node().model_copy(update={"firmware": "uefi-http"}))
    with pytest.raises(Refused, match="the BMC offers no HTTP boot, only None, Pxe, Hdd"):
        board.set_boot_once_pxe()
    assert not bmc.patches


def test_a_refused_mode_is_left_out_and_legacy_is_not_put_up_with(serve: Serve) -> None:
    bmc, board = serve(fake.written(Boot=boot(**{MODE: "Legacy"})), None, refuse_mode=True)
    with pytest.raises(GaveUp, match="target Pxe, enabled Once, mode Legacy"):
        board.set_boot_once_pxe()
    assert [patch["Boot"] for _, patch in bmc.patches] == [{**ONCE, MODE: "UEFI"}, ONCE]


@pytest.mark.parametrize("etag", ["header", "body", "weak", "rotating"])
def test_every_way_of_asking_for_if_match(serve: Serve, etag: str) -> None:
    bmc, board = serve(etag=etag)
    assert board.set_boot_once_pxe().once_from_network
    assert len(bmc.patches) == 1


def ami() -> dict[str, Any]:
    """AMI's firmware takes the override at a settings resource, and shows it in force only after a reset."""
    settings = f"{ROOT}/Systems/1/SD"
    tree = fake.written(**{"@Redfish.Settings": {"SettingsObject": {"@odata.id": settings}}})
    tree[settings] = {"Id": "SD", "Boot": boot(**{MODE: "UEFI"})}
    return tree


def test_a_settings_resource_gets_the_whole_override(serve: Serve) -> None:
    bmc, board = serve(ami(), None, etag="header")
    assert board.set_boot_once_pxe().once_from_network
    assert bmc.patches == [(f"{ROOT}/Systems/1/SD", {"Boot": {**ONCE, MODE: "UEFI"}})]
    board.reset()
    assert bmc.boots == ["Pxe"] and not board.boot_override().pending


def test_an_override_that_reads_back_late_is_waited_for(serve: Serve) -> None:
    bmc, board = serve(kept_after=4)
    assert board.set_boot_once_pxe().once_from_network
    assert len(bmc.patches) == 1


def test_an_override_that_is_accepted_and_dropped_is_told(serve: Serve, clock: Clock) -> None:
    _, board = serve(drop_override=True)
    with pytest.raises(GaveUp) as error:
        board.set_boot_once_pxe()
    assert "console-node1" in str(error.value) and "accepted but not kept" in str(error.value)
    assert "target None, enabled Disabled, mode UEFI" in str(error.value)
    assert clock.slept == pytest.approx(10)


def test_a_task_is_waited_for_at_the_pace_it_names(serve: Serve, clock: Clock) -> None:
    bmc, board = serve(task_polls=3)
    assert board.set_boot_once_pxe().once_from_network
    assert bmc.requests.count("GET /tasks/1") == 3
    assert clock.slept >= 3


def test_a_task_that_ends_badly_is_told(serve: Serve) -> None:
    _, board = serve(task_polls=1, task_end="Exception")
    with pytest.raises(Refused, match=r"console-node1.*Exception: no such boot"):
        board.set_boot_once_pxe()


def test_a_change_refused_during_post_is_tried_again(serve: Serve) -> None:
    during_post = Answer(400, "", message_id="iLO.2.15.UnableToModifyDuringSystemPOST")
    bmc, board = serve(refuse_patch=[during_post, Answer(409, "in use"), Answer(503, "", Retry_After="2")])
    assert board.set_boot_once_pxe().once_from_network
    assert len(bmc.patches) == 1


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ({"Boot": boot(**{f"{TARGET}@Redfish.AllowableValues": ["None", "Hdd"]})}, "only None, Hdd"),
        ({"Boot": {}}, "takes no boot override"),
    ],
)
def test_a_bmc_without_network_boot_says_what_it_has(
    serve: Serve, system: dict[str, Any], words: str
) -> None:
    bmc, board = serve(fake.written(**system))
    with pytest.raises(Refused, match=f"console-node1.*{words}"):
        board.set_boot_once_pxe()
    assert not bmc.patches


def test_a_refusal_tells_the_bmcs_own_words(serve: Serve) -> None:
    _, board = serve(refuse_patch=[Answer(403, "your account may only look")])
    with pytest.raises(Refused, match="403 your account may only look"):
        board.set_boot_once_pxe()


def test_clearing_leaves_nothing_pending(serve: Serve) -> None:
    bmc, board = serve()
    board.set_boot_once_pxe()
    board.clear_boot_override()
    assert not board.boot_override().pending
    assert bmc.patches[-1][1] == {"Boot": {TARGET: "None", ENABLED: "Disabled"}}


# Reset


@pytest.mark.parametrize(
    ("power", "offered", "sent"),
    [
        ("On", ["On", "ForceOff", "ForceRestart"], ["ForceRestart"]),
        ("On", ["On", "ForceOff", "PowerCycle"], ["PowerCycle"]),
        ("On", ["On", "ForceOff", "GracefulRestart"], ["ForceOff", "On"]),
        ("Off", ["On", "ForceOff", "ForceRestart"], ["On"]),
        ("Off", ["ForceOn", "ForceRestart"], ["ForceOn"]),
    ],
)
def test_the_reset_type_fits_power_and_bmc(
    serve: Serve, power: str, offered: list[str], sent: list[str]
) -> None:
    bmc, board = serve(fake.written(PowerState=power, Actions=fake.resets(*offered)), None, power_after=2)
    board.set_boot_once_pxe()
    done = board.reset()
    assert (done.how, bmc.resets) == (" and ".join(sent), sent)
    board.power_state(), board.power_state()
    assert bmc.boots == ["Pxe"]


def test_a_bmc_that_cannot_boot_the_machine_says_what_it_offers(serve: Serve) -> None:
    bmc, board = serve(fake.written(PowerState="Off", Actions=fake.resets("ForceOff", "Nmi")))
    with pytest.raises(Refused, match=r"console-node1.*Off.*ForceOff, Nmi"):
        board.reset()
    assert not bmc.resets


@pytest.mark.parametrize("power", ["On", "Off"])
def test_a_lost_answer_to_a_reset_that_was_done_makes_no_second_one(serve: Serve, power: str) -> None:
    bmc, board = serve(fake.written(PowerState=power), None, lose_reset_answer=1)
    board.set_boot_once_pxe()
    board.reset()
    board.power_state(), board.power_state()
    assert (len(bmc.resets), bmc.boots) == (1, ["Pxe"])


def test_a_reset_that_never_arrived_is_sent_again_after_watching(serve: Serve, clock: Clock) -> None:
    bmc, board = serve(lose_reset=1)
    board.set_boot_once_pxe()
    before = clock.slept
    board.reset()
    assert (bmc.resets, bmc.boots) == (["ForceRestart"], ["Pxe"])
    assert clock.slept - before >= 20


def test_a_reset_without_an_answer_and_an_effect_is_sent_twice_at_most(serve: Serve) -> None:
    bmc, board = serve(lose_reset=5)
    with pytest.raises(GaveUp, match=r"(?s)console-node1.*the answer to ForceRestart was lost.*power On"):
        board.reset()
    assert bmc.faults.lose_reset == 3


def test_an_answer_that_comes_too_late_makes_no_second_reset(clock: Clock) -> None:
    patience = Patience(30, now=clock.now, sleep=clock.sleep)
    timing = Timing(connect=2, read=0.3, busy=patience, kept=patience, reset=patience)
    with fake.serving(Bmc(fake.written(), late_reset=20)) as bmc:
        with Board(node(), port=bmc.port, timing=timing) as board:
            board.set_boot_once_pxe()
            board.reset()
        assert (len(bmc.resets), bmc.boots) == (1, ["Pxe"])


def test_a_reset_that_is_accepted_and_ignored_is_found_out(serve: Serve, clock: Clock) -> None:
    bmc, board = serve(ignore_reset=True)
    board.set_boot_once_pxe()
    with pytest.raises(
        GaveUp, match="ForceRestart was accepted; power On, override target Pxe, enabled Once"
    ):
        board.reset()
    assert len(bmc.resets) == 1 and clock.slept == pytest.approx(40)


def test_word_of_the_node_elsewhere_is_a_sign(serve: Serve) -> None:
    bmc, board = serve(ignore_reset=True)
    assert board.reset(seen=lambda: bool(bmc.resets)).sign == "the node was heard of by the boot service"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(409, "not so soon after power off", message_id="IDRAC.2.8.PSU501"),
        Answer(503, "busy", Retry_After="5"),
        Answer(400, "", message_id="iLO.2.14.InvalidOperationForSystemState"),
        Answer(429, "slowly"),
    ],
    ids=["409", "503", "iLO", "429"],
)
def test_a_reset_refused_for_now_is_sent_again(serve: Serve, answer: Answer) -> None:
    bmc, board = serve(fake.written(PowerState="Off"), None, refuse_reset=[answer, answer])
    board.set_boot_once_pxe()
    board.reset()
    assert bmc.resets == ["On"]


def test_a_failed_answer_that_names_no_time_is_watched_first(serve: Serve, clock: Clock) -> None:
    bmc, board = serve(refuse_reset=[Answer(503, "the back end is slow")])
    board.set_boot_once_pxe()
    board.reset()
    assert len(bmc.resets) == 1 and clock.slept >= 20


def test_a_refused_reset_is_told(serve: Serve) -> None:
    _, board = serve(refuse_reset=[Answer(403, "your account may only look")])
    with pytest.raises(Refused, match=r"console-node1.*403 your account may only look"):
        board.reset()


@pytest.mark.parametrize(("really", "told", "sent"), [("On", "Off", "ForceRestart"), ("Off", "On", "On")])
def test_a_stale_power_state_is_read_anew(serve: Serve, really: str, told: str, sent: str) -> None:
    bmc, board = serve(fake.written(PowerState=really))
    board.set_boot_once_pxe()
    bmc.faults.stale_power = told
    assert board.reset().how == sent
    assert bmc.resets == [sent]


def test_a_null_power_state_shows_nothing(serve: Serve) -> None:
    bmc, board = serve(null_power=3)
    board.set_boot_once_pxe()
    bmc.faults.null_power = 3
    assert "override" in board.reset().sign
    assert len(bmc.resets) == 1


def test_reset_types_behind_an_action_info_are_read(serve: Serve) -> None:
    tree = fake.written(
        Actions={"#ComputerSystem.Reset": {"target": "/reset", "@Redfish.ActionInfo": "/info"}}
    )
    tree["/info"] = {"Parameters": [{"Name": "ResetType", "AllowableValues": ["PowerCycle"]}]}
    bmc, board = serve(tree)
    board.set_boot_once_pxe()
    board.reset()
    assert bmc.resets == ["PowerCycle"]


def test_boot_progress_and_reset_time_are_signs(serve: Serve) -> None:
    for key, value in (
        ("BootProgress", {"LastState": "OSRunning"}),
        ("LastResetTime", "2026-01-01T00:00:00Z"),
    ):
        bmc, board = serve(fake.written(**{key: value}), None, ignore_reset=True)
        moved = {"LastState": "None"} if key == "BootProgress" else "2026-11-22T00:00:00Z"

        def later(bmc: Bmc = bmc, key: str = key, moved: Any = moved) -> bool:
            bmc.tree[bmc.system][key] = moved
            return False

        assert board.reset(seen=later).sign

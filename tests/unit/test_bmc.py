"""The virtual BMC: what a client of Redfish sees of it, what it refuses, and its quirks one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from provision.errors import LabError, Refused
from virtual_lab.bmc_app import application
from virtual_lab.bmc_state import Bmc, Console, NotWorking

SYSTEM = "/redfish/v1/Systems/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"
PASSWORD = "correct horse"
OFF = {"target": "None", "enabled": "Disabled", "mode": "UEFI"}


class FakeBoard:
    """Answers for the board, and keeps what it was told to do."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.power, self.override, self.broken = "On", dict(OFF), False
        self.did: list[dict[str, Any]] = []

    def ask(self, _path: Path, request: dict[str, Any]) -> dict[str, Any]:
        if self.broken:
            raise LabError("the board does not answer")
        if request["do"] != "state":
            self.did.append(request)
        if request["do"] == "power" and request["action"] == "On":
            self.power = "On"
        if request["do"] == "override":
            if request.get("target") == "Cd":
                raise Refused("target is one of None, Pxe, Hdd")
            self.override |= {key: value for key, value in request.items() if key != "do"}
        return {"power": self.power, "override": self.override}


class Client:
    """A client that has the password, and the parts behind the BMC."""

    def __init__(self, folder: Path) -> None:
        self.board, self.hung_up = FakeBoard(), 0
        users = folder / "users"
        users.write_text(f"ADMIN:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
        self.quirk = folder / "quirk"
        self.console = Console(
            node="node1", netns=folder, address="10.10.1.11", mac="ac:1f:6b:6c:58:31", certificate=folder,
            key=folder, users=users, board_socket=folder, quirk=self.quirk, serial="S123",
            product="SYS-2029TP", manufacturer="Supermicro", uuid="4916e828-6e75-5c5c-9dd5-ad61d583e613",
            bios_version="3.4",
            memory_gib=128, cores=32, nics={"eno1": "ac:1f:6b:6c:5a:76", "eno3": "02:00:00:00:00:01"},
        )  # fmt: skip
        app = application(Bmc(self.console, self.board.ask))
        self.plain: FlaskClient = app.test_client()

    def ask(self, method: str, path: str, body: object = None) -> TestResponse:
        def hang_up() -> None:
            self.hung_up += 1

        return self.plain.open(path, method=method, json=body, auth=("ADMIN", PASSWORD),
                               environ_overrides={"rackproof.hang_up": hang_up})  # fmt: skip

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.get_json(force=True)

    def boot(self, **properties: str) -> int:
        wanted = {f"BootSourceOverride{name}": value for name, value in properties.items()}
        return self.ask("PATCH", SYSTEM, {"Boot": wanted}).status_code

    def reset(self, kind: str) -> TestResponse:
        return self.ask("POST", RESET, {"ResetType": kind})


@pytest.fixture(scope="module")
def only_client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """One for the module: the emulator has one application in a process."""
    return Client(tmp_path_factory.mktemp("bmc"))


@pytest.fixture
def client(only_client: Client) -> Iterator[Client]:
    only_client.board.clear()
    only_client.hung_up = 0
    yield only_client
    only_client.quirk.unlink(missing_ok=True)
    only_client.get(SYSTEM)  # so that it forgets the quirk


def test_without_the_password_nothing_but_the_root_is_told(client: Client) -> None:
    assert client.plain.get("/redfish/v1/").status_code == 200
    assert client.plain.get(SYSTEM).status_code == 401
    assert client.plain.get(SYSTEM, auth=("ADMIN", "wrong")).status_code == 401
    assert client.plain.post(RESET, json={"ResetType": "On"}).status_code == 401
    assert client.board.did == []


def test_the_system_says_who_it_is(client: Client) -> None:
    system = client.get(SYSTEM)
    assert (system["SerialNumber"], system["Model"]) == ("S123", "SYS-2029TP")
    assert system["Manufacturer"] == "Supermicro"
    assert (system["UUID"], system["BiosVersion"]) == (client.console.uuid, "3.4")
    assert system["MemorySummary"]["TotalSystemMemoryGiB"] == 128
    assert system["PowerState"] == "On"
    assert system["Boot"]["BootSourceOverrideTarget@Redfish.AllowableValues"] == ["None", "Pxe", "Hdd"]


def test_http_boot_is_offered_by_a_board_with_real_firmware_alone(client: Client) -> None:
    assert client.boot(Target="UefiHttp", Enabled="Once") == 400
    assert client.board.did == []
    real = Bmc(replace(client.console, http_boot=True), client.board.ask)
    real.set_override({"BootSourceOverrideTarget": "UefiHttp"})
    assert client.board.did == [{"do": "override", "target": "UefiHttp", "enabled": "Once"}]


def test_every_link_of_system_manager_and_chassis_leads_somewhere(client: Client) -> None:
    for collection in ("Systems", "Managers", "Chassis"):
        for member in client.get(f"/redfish/v1/{collection}")["Members"]:
            body = client.get(member["@odata.id"])
            for name, value in body.items():
                if isinstance(value, dict) and "@odata.id" in value:
                    assert client.ask("GET", value["@odata.id"]).status_code == 200, name


def test_nics_of_the_server_and_of_the_console(client: Client) -> None:
    members = client.get(f"{SYSTEM}/EthernetInterfaces")["Members"]
    macs = [client.get(member["@odata.id"])["MACAddress"] for member in members]
    assert macs == ["AC:1F:6B:6C:5A:76", "02:00:00:00:00:01"]
    own = client.get("/redfish/v1/Managers/1/EthernetInterfaces")["Members"][0]["@odata.id"]
    assert client.get(own)["MACAddress"] == "ac:1f:6b:6c:58:31"
    assert client.get("/redfish/v1/Managers/1")["FirmwareVersion"]


def test_a_one_time_override_is_kept_and_read_back(client: Client) -> None:
    assert client.boot(Target="Pxe", Enabled="Once", Mode="UEFI") == 204
    boot = client.get(SYSTEM)["Boot"]
    assert (boot["BootSourceOverrideTarget"], boot["BootSourceOverrideEnabled"]) == ("Pxe", "Once")
    assert client.board.did == [{"do": "override", "target": "Pxe", "enabled": "Once", "mode": "UEFI"}]
    client.board.override = dict(OFF)
    assert client.get(SYSTEM)["Boot"]["BootSourceOverrideEnabled"] == "Disabled"


def test_a_target_alone_is_meant_once(client: Client) -> None:
    assert client.boot(Target="Pxe") == 204
    assert client.board.override["enabled"] == "Once"


@pytest.mark.parametrize(
    "body",
    [{"Boot": {"BootSourceOverrideTarget": "Cd"}}, {"Boot": {"HttpBootUri": "http://x"}}, {"Boot": {}},
     {"Boot": "Pxe"}, {"Boot": {"BootSourceOverrideTarget": "Pxe"}, "AssetTag": "x"},
     {"AssetTag": "x"}, ["Boot"], None],
)  # fmt: skip
def test_other_changes_are_refused(client: Client, body: object) -> None:
    assert client.ask("PATCH", SYSTEM, body).status_code == 400
    assert client.board.override == OFF


def test_a_reset_reaches_the_board(client: Client) -> None:
    assert client.reset("ForceRestart").status_code == 204
    assert client.board.did == [{"do": "power", "action": "ForceRestart"}]


@pytest.mark.parametrize("kind", ["Nmi", "Explode", "", None])
def test_an_unknown_reset_is_refused(client: Client, kind: Any) -> None:
    assert client.reset(kind).status_code == 400
    assert client.board.did == []


@pytest.mark.parametrize("kind", ["ForceRestart", "GracefulShutdown", "PowerCycle"])
def test_what_needs_power_is_refused_without(client: Client, kind: str) -> None:
    client.board.power = "Off"
    refused = client.reset(kind)
    assert refused.status_code == 409
    assert "powered off" in refused.text
    assert client.board.did == []


def test_power_changes_are_seen_to_be_under_way(client: Client) -> None:
    client.board.power = "Off"
    client.reset("On")
    assert [client.get(SYSTEM)["PowerState"] for _ in range(2)] == ["PoweringOn", "On"]
    client.reset("ForceOff")
    assert client.get(SYSTEM)["PowerState"] == "PoweringOff"
    client.board.power = "Off"
    assert client.get(SYSTEM)["PowerState"] == "Off"


def test_other_systems_and_absent_parts_are_not_found(client: Client) -> None:
    for path in ("/redfish/v1/Systems/2", f"{SYSTEM}/Storage", f"{SYSTEM}/SecureBoot", "/redfish/v1/Nothing"):
        assert client.ask("GET", path).status_code == 404


def test_a_board_that_does_not_answer_is_unavailable(client: Client) -> None:
    client.board.broken = True
    assert client.ask("GET", SYSTEM).status_code == 503
    client.board.broken = False


def test_x10_knows_no_mode(client: Client) -> None:
    client.quirk.write_text("x10\n")
    assert client.boot(Target="Pxe", Enabled="Once", Mode="UEFI") == 400
    assert not any("Mode" in name for name in client.get(SYSTEM)["Boot"])
    assert client.boot(Target="Pxe", Enabled="Once") == 204


def test_a_lost_answer_comes_after_the_reset_and_once(client: Client) -> None:
    client.quirk.write_text("lost-answer")
    client.reset("ForceRestart")
    assert (client.hung_up, len(client.board.did)) == (1, 1)
    client.reset("ForceRestart")
    assert (client.hung_up, len(client.board.did)) == (1, 2)


def test_busy_says_when_to_come_back_and_once(client: Client) -> None:
    client.quirk.write_text("busy")
    busy = client.ask("POST", RESET, {"ResetType": "ForceRestart"})
    assert (busy.status_code, busy.headers["Retry-After"], client.board.did) == (503, "1", [])
    assert client.reset("ForceRestart").status_code == 204


def test_ignored_pxe_looks_like_success(client: Client) -> None:
    client.quirk.write_text("ignores-pxe")
    assert client.boot(Target="Pxe", Enabled="Once", Mode="UEFI") == 204
    assert client.get(SYSTEM)["Boot"]["BootSourceOverrideTarget"] == "None"


def test_a_wrong_serial_is_told_everywhere(client: Client) -> None:
    client.quirk.write_text("wrong-serial")
    assert client.get(SYSTEM)["SerialNumber"] == "X123"
    assert client.get(f"/redfish/v1/Chassis/{client.console.uuid}")["SerialNumber"] == "X123"


def test_a_quirk_given_again_is_played_again(client: Client) -> None:
    bmc = Bmc(client.console, client.board.ask)
    client.quirk.write_text("busy")
    assert [bmc.quirk("busy", once=True) for _ in range(2)] == [True, False]
    client.quirk.unlink()
    assert not bmc.quirk("busy", once=True)
    client.quirk.write_text("busy")
    assert bmc.quirk("busy", once=True)


def test_a_refusal_of_the_board_is_a_bad_request(client: Client) -> None:
    with pytest.raises(NotWorking) as refused:
        Bmc(client.console, client.board.ask).set_override({"BootSourceOverrideTarget": "Cd"})
    assert refused.value.code == 400

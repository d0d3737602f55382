"""Installers of Proxmox 9.1 and 9.2, prepared ISOs, Ubuntu's installer, GRUB and classic nodes are served alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.boot_service.messages import Rack, RackNode
from provision.ledger import Event
from tests.unit.boot_bench import (
    ANSWER_TOKEN,
    MAC1,
    PERMIT_SECONDS,
    REPORT_TOKEN,
    STANDING,
    STORAGE_MAC1,
    Bench,
    Reply,
    rack,
    request_of,
    sha256,
)

ISO_TOKEN = "hall:iso-secret"
NEW = "application/json, application/toml;q=0.5"
JSON_ANSWER = '{"global": {"fqdn": "node1"}}'


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "boot.db", leases=tmp_path / "leases")
    bench.hold({"10.10.1.21": MAC1})
    know(bench)
    yield bench
    bench.close()


def know(bench: Bench, **other: Any) -> None:
    nodes = [rack().nodes[0].model_copy(update={"grub_script": "exit\n"}), rack().nodes[1]]
    values: dict[str, Any] = {"lab": "hall", "nodes": tuple(nodes), "iso_tokens_sha256": (sha256(ISO_TOKEN),)}
    bench.store.put_rack(Rack(**values | other), bench.clock.now)


def heard(bench: Bench, kind: str) -> Event:
    return [event for event in bench.store.events() if event.kind == kind][-1]


# Proxmox


@pytest.mark.parametrize(
    ("accept", "has_json", "media_type"),
    [
        (None, True, "application/toml"),
        ("*/*", True, "application/toml"),
        (NEW, True, "application/json"),
        (NEW, False, "application/toml"),
        ("application/json", False, "application/toml"),
        ("application/toml, application/json;q=0.9", True, "application/toml"),
    ],
)
def test_the_answer_comes_in_the_form_that_the_installer_prefers(
    bench: Bench, accept: str | None, has_json: bool, media_type: str
) -> None:
    bench.grant(answer_json=JSON_ANSWER if has_json else None)
    headers = {"Accept": accept} if accept else {}
    reply = bench.nodes.post(f"/answer/{ANSWER_TOKEN}", json=request_of((MAC1,)), headers=headers)
    assert (reply.status_code, reply.headers["content-type"]) == (200, media_type)
    assert reply.text == (JSON_ANSWER if media_type.endswith("json") else "CANARY-ANSWER")
    assert reply.headers["cache-control"] == "no-store"
    permit = bench.store.current_permit("node1")
    assert permit is not None
    assert permit.answered_json is media_type.endswith("json")


def test_what_the_installer_says_of_the_machine_is_shown(bench: Bench) -> None:
    bench.grant()
    asked = request_of((MAC1.upper(),)) | {
        "dmi": {
            "system": {"serial": "S1", "sku": "x", "uuid": "4c4c", "name": "SYS-1", "more": "x"},
            "baseboard": {"asset_tag": "a", "serial": "b", "name": "X11"},
            "chassis": {},
        }
    }
    bench.nodes.post(f"/answer/{ANSWER_TOKEN}", json=asked)
    facts = heard(bench, "answer").facts
    assert facts == {
        "who": "10.10.1.21",
        "macs": [MAC1],
        "product": "Proxmox VE",
        "release": "9.2",
        "isorelease": "1",
        "dmi": {
            "system": {"name": "SYS-1", "serial": "S1", "uuid": "4c4c", "sku": "x"},
            "baseboard": {"name": "X11", "serial": "b", "asset_tag": "a"},
        },
        "nics": [{"link": "eno0", "mac": MAC1}],
    }


INFINIBAND = "80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1"


@pytest.mark.parametrize("path", ["/answer", "/api2/json/auto-install/answer", "/api/answer.php"])
@pytest.mark.parametrize("macs", [(MAC1,), (INFINIBAND, "00:00:00:00:00:09", STORAGE_MAC1.upper())])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_prepared_iso_is_answered_by_any_mac(
    bench: Bench, path: str, macs: tuple[str, ...], scheme: str
) -> None:
    bench.grant(answer_json=JSON_ANSWER)
    headers = {"Authorization": f"{scheme} {ISO_TOKEN}", "Accept": NEW}
    reply = bench.nodes.post(path, json=request_of(macs), headers=headers)
    assert (reply.status_code, reply.text) == (200, JSON_ANSWER)
    assert (heard(bench, "answer").node, heard(bench, "answer").run) == ("node1", "r1")
    again = bench.nodes.post(path, json=request_of(macs), headers=headers)
    assert (again.status_code, again.text) == (400, "no answer file found\n")
    assert again.headers["content-type"].startswith("text/plain")
    assert "was used already" in bench.last().text


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer hall:wrong", "Bearer hall", f"Basic {ISO_TOKEN}"]
)
def test_another_bearer_is_answered_as_proxmox_datacenter_manager_does(
    bench: Bench, authorization: str | None
) -> None:
    bench.grant()
    headers = {"Authorization": authorization} if authorization else {}
    reply = bench.nodes.post("/answer", json=request_of((MAC1,)), headers=headers)
    assert (reply.status_code, reply.content) == (401, b"")
    assert bench.last().facts["status"] == 401


def test_a_prepared_iso_on_two_nodes_nics_at_once_is_of_neither(bench: Bench) -> None:
    bench.grant()
    bench.service.leases = None
    headers = {"Authorization": f"Bearer {ISO_TOKEN}"}
    both = request_of((MAC1, "ac:1f:6b:00:00:02"))
    assert bench.nodes.post("/answer", json=both, headers=headers).status_code == 400
    assert bench.nodes.post("/answer", json=request_of((MAC1,)), headers=headers).status_code == 200


def test_a_status_is_kept_and_a_registration_keeps_its_log(bench: Bench) -> None:
    bench.grant()
    bench.ask()
    assert bench.report("status", text="mirrors the packages").status_code == 200
    assert (bench.last().kind, bench.last().text) == ("status", "mirrors the packages")
    assert bench.report("registered", nonce="n1", log="all\nis\nwell\n").status_code == 200
    assert (bench.last().kind, bench.last().facts["log"]) == ("registered", "all\nis\nwell\n")
    assert bench.last().facts["who"] == "10.10.1.21"
    permit = bench.store.current_permit("node1")
    assert permit is not None
    assert permit.state(bench.clock.now) == "done"


# Boot scripts


@pytest.mark.parametrize("path", [f"/grub/{MAC1}", f"/grub/{MAC1.upper()}/grub.cfg"])
def test_grub_has_scripts_of_its_own(bench: Bench, path: str) -> None:
    assert (bench.nodes.get(path).text, bench.last().text) == ("exit\n", "local disk")
    bench.grant(grub_script="install by grub\n")
    assert (bench.nodes.get(path).text, bench.last().text) == ("install by grub\n", "installer")
    bench.ask()
    assert bench.nodes.get(path).text == "exit\n"


def test_without_a_script_for_grub_a_node_is_not_installed_by_it(bench: Bench) -> None:
    bench.grant()
    assert (bench.nodes.get(f"/grub/{MAC1}").text, bench.last().text) == ("exit\n", "local disk")
    refused = bench.nodes.get("/grub/ac:1f:6b:00:00:02")
    assert (refused.status_code, bench.last().node) == (404, "node2")


def test_a_rescue_is_booted_until_it_expires_and_has_no_answer(bench: Bench) -> None:
    bench.grant(purpose="rescue", answer=None, boot_script="rescue", grub_script="rescue by grub")
    for _ in range(2):
        assert bench.nodes.get(f"/boot/{MAC1}.ipxe").text == "rescue"
        assert bench.nodes.get(f"/grub/{MAC1}").text == "rescue by grub"
    assert (bench.last().text, bench.last().run) == ("rescue", "r1")
    assert bench.ask().status_code == 403
    assert bench.nodes.get(f"/boot/{MAC1}").text == "rescue"
    bench.clock.now += PERMIT_SECONDS
    assert bench.nodes.get(f"/boot/{MAC1}").text == STANDING


# Ubuntu


def seed(bench: Bench, name: str) -> Reply:
    return bench.nodes.get(f"/seed/{ANSWER_TOKEN}/{name}")


def test_a_seed_is_read_in_cloud_inits_order_and_its_user_data_once(bench: Bench) -> None:
    bench.grant(system="ubuntu", answer="#cloud-config\nautoinstall: {}\n")
    assert (seed(bench, "network-config").status_code, seed(bench, "network-config").content) == (200, b"")
    meta = seed(bench, "meta-data")
    assert yaml.safe_load(meta.text) == {"instance-id": "rackproof-hall-1", "local-hostname": "node1"}
    assert bench.nodes.get(f"/boot/{MAC1}").text == "#!ipxe CANARY-BOOT"
    assert seed(bench, "user-data").text == "#cloud-config\nautoinstall: {}\n"
    assert (heard(bench, "answer").node, heard(bench, "answer").facts["who"]) == ("node1", "10.10.1.21")
    assert (seed(bench, "vendor-data").status_code, seed(bench, "vendor-data").content) == (200, b"")
    assert seed(bench, "user-data").status_code == 410
    assert bench.nodes.get(f"/boot/{MAC1}").text == STANDING
    files = [event.facts["file"] for event in bench.store.events() if event.kind == "seed"]
    assert sorted(set(files)) == ["meta-data", "network-config", "vendor-data"]


def test_what_follows_the_user_data_is_served_for_ten_minutes(bench: Bench) -> None:
    bench.grant(system="ubuntu")
    seed(bench, "user-data")
    bench.clock.now += 600
    assert seed(bench, "vendor-data").status_code == 200
    bench.clock.now += 0.1
    assert seed(bench, "vendor-data").status_code == 410
    assert "was used already" in bench.last().text


@pytest.mark.parametrize(("system", "status"), [("ubuntu", 200), ("proxmox", 403)])
def test_a_seed_is_of_a_permit_for_ubuntu(bench: Bench, system: str, status: int) -> None:
    bench.grant(system=system)
    assert seed(bench, "user-data").status_code == status
    assert seed(bench, "etc-passwd").status_code == 404


def test_an_answer_is_of_a_permit_for_proxmox(bench: Bench) -> None:
    bench.grant(system="ubuntu")
    assert bench.ask().status_code == 403
    assert "installs ubuntu" in bench.last().text
    assert seed(bench, "user-data").status_code == 200


@pytest.mark.parametrize("other", [{"system": "ubuntu"}, {"purpose": "rescue", "answer_json": "{}"}])
def test_a_prepared_iso_is_answered_only_by_a_permit_to_install_proxmox(
    bench: Bench, other: dict[str, Any]
) -> None:
    bench.grant(**other)
    headers = {"Authorization": f"Bearer {ISO_TOKEN}", "Accept": NEW}
    refused = bench.nodes.post("/answer", json=request_of((MAC1,)), headers=headers)
    assert (refused.status_code, refused.text) == (400, "no answer file found\n")
    permit = bench.store.current_permit("node1")
    assert permit is not None
    assert permit.state(bench.clock.now) == "live"


def event(name: str, event_type: str, result: str | None = None, **other: Any) -> dict[str, Any]:
    """As curtin's WebHookHandler posts it."""
    said = {"name": name, "description": "words", "event_type": event_type, "origin": "curtin",
            "timestamp": 1763820000.5, "level": "INFO"}  # fmt: skip
    return said | ({"result": result} if result else {}) | other


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        (event("subiquity/Early/load_autoinstall_data", "start"), "installer",
         "subiquity/Early/load_autoinstall_data: start: words"),
        (event("subiquity/Install/install/curtin_install", "finish", "SUCCESS"), "installer",
         "subiquity/Install/install/curtin_install: finish: SUCCESS: words"),
        (event("subiquity/Install/install", "finish", "SUCCESS"), "installer", None),
        (event("subiquity/Shutdown/shutdown", "start", description="mode=REBOOT"), "installed",
         "subiquity/Shutdown/shutdown: start: mode=REBOOT"),
        (event("subiquity/Shutdown/shutdown", "finish", "SUCCESS"), "installed", None),
        (event("subiquity/Shutdown/shutdown", "finish", "FAIL"), "installer", None),
        (event("subiquity/Shutdown/copy_logs_to_target", "finish", "FAIL"), "installer", None),
        (event("subiquity/Install/install", "finish", "FAIL", level="ERROR"), "failed", None),
        (event("subiquity/Early/run", "finish", "FAIL"), "failed", None),
        (event("subiquity/Late/run", "finish", "FAIL"), "failed", None),
        (event("subiquity/Error/run", "start"), "installer", None),
        (event("subiquity/Error/run", "finish", "SUCCESS"), "failed", None),
        (event("subiquity/Network/wait_for_initial_config", "finish", "FAIL"), "installer", None),
        (event("subiquity/Install/install/postinstall", "finish", "FAIL"), "installer", None),
        (event("modules-final", "finish", "SUCCESS", origin="cloudinit", level=None), "installer", None),
        (event("subiquity/x", "warning", description=None, level="WARNING"), "installer", "subiquity/x: warning"),
    ],
    ids=lambda value: value["name"] + (value.get("result") or value["event_type"]) if isinstance(value, dict) else "",
)  # fmt: skip
def test_ubuntus_installer_says_how_it_is_doing(
    bench: Bench, said: dict[str, Any], kind: str, text: str | None
) -> None:
    bench.grant(system="ubuntu")
    seed(bench, "user-data")
    assert bench.nodes.post(f"/seed/{REPORT_TOKEN}/reporting", json=said).status_code == 200
    last = bench.last()
    assert (last.kind, last.node, last.run) == (kind, "node1", "r1")
    assert text in (None, last.text)
    assert last.facts["name"] == said["name"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"name": "x"}', b'{"name": 1, "event_type": "start"}'])
def test_an_event_without_a_name_is_refused(bench: Bench, body: bytes) -> None:
    bench.grant(system="ubuntu")
    seed(bench, "user-data")
    assert bench.nodes.post(f"/seed/{REPORT_TOKEN}/reporting", content=body).status_code == 400


def test_an_installer_that_says_much_is_held_back_but_never_its_end(bench: Bench) -> None:
    bench.grant(system="ubuntu")
    seed(bench, "user-data")
    chatter = event("subiquity/Install/install/x", "start")
    for _ in range(300):
        assert bench.nodes.post(f"/seed/{REPORT_TOKEN}/reporting", json=chatter).status_code == 200
    assert 100 <= bench.kinds().count("installer") < 300
    end = event("subiquity/Shutdown/shutdown", "start")
    assert bench.nodes.post(f"/seed/{REPORT_TOKEN}/reporting", json=end).status_code == 200
    assert bench.last().kind == "installed"


# Classic


@pytest.mark.parametrize(
    ("path", "body", "kind", "state"),
    [
        ("register-node", {"hostname": "node1", "ip": "10.10.1.21"}, "registered", "done"),
        ("register-node", {"hostname": "node1.lab.net", "ip": "x", "status": "error"}, "registered", "done"),
        ("node-status", {"hostname": "node1", "status": "post-install-complete"}, "registered", "done"),
        ("node-status", {"hostname": "node1", "status": "ERROR", "details": {"step": 3}}, "failed", "spent"),
        ("node-status", {"hostname": "node1", "status": "updating"}, "status", "spent"),
    ],
)
@pytest.mark.parametrize("classic", [True, False])
def test_classic_nodes_report_as_others_do(
    bench: Bench, path: str, body: dict[str, str], kind: str, state: str, classic: bool
) -> None:
    know(bench, classic=classic)
    bench.grant()
    bench.ask()
    headers = {} if classic else {"Authorization": f"Bearer {REPORT_TOKEN}"}
    reply = bench.nodes.post(f"/api/{path}.php", json=body, headers=headers)
    assert (reply.status_code, reply.json()["success"]) == (200, True)
    last, permit = bench.last(), bench.store.current_permit("node1")
    assert (last.kind, last.node, last.facts["hostname"]) == (kind, "node1", body["hostname"])
    assert permit is not None
    assert permit.state(bench.clock.now) == state
    assert json.loads(last.facts.get("details", '{"step": 3}')) == {"step": 3}


@pytest.mark.parametrize(
    "body",
    [
        {"hostname": "node1"},
        {"ip": "10.10.1.21"},
        {"hostname": 1, "ip": "x"},
        {"hostname": "node2", "ip": "x"},
    ],
)
def test_a_classic_report_that_is_not_its_own_is_refused(bench: Bench, body: dict[str, Any]) -> None:
    know(bench, classic=True)
    bench.grant()
    bench.ask()
    refused = bench.nodes.post("/api/register-node.php", json=body)
    assert refused.status_code == (403 if body.get("hostname") == "node2" else 400)
    assert bench.last().kind == "refused"


@pytest.mark.parametrize("path", ["/", "/index.php"])
@pytest.mark.parametrize(
    ("query", "status"),
    [
        (f"mac={MAC1}", 200),
        (f"mac={MAC1.upper().replace(':', '-')}&format=grub", 200),
        (f"mac={MAC1}&format=pdf", 400),
        ("", 400),
        ("mac=", 404),
        ("mac=de:ad:be:ef:00:01", 404),
        (f"action=boot&mac={MAC1}", 403),
        ("action=status", 403),
        (f"action=reprovision&mac={MAC1}&os_type=proxmox9", 403),
        ("&".join(f"x{n}=1" for n in range(40)), 400),
    ],
)
def test_a_classic_node_is_given_its_boot_script_and_nothing_is_done_by_get(
    bench: Bench, path: str, query: str, status: int
) -> None:
    know(bench, classic=True)
    bench.grant(grub_script="grub")
    reply = bench.nodes.get(f"{path}?{query}")
    assert reply.status_code == status
    if status == 200:
        assert reply.text == ("grub" if "grub" in query else "#!ipxe CANARY-BOOT")
    assert (bench.last().kind == "refused") is (status != 200)


def test_a_large_rack_is_looked_up_by_mac_address_and_name() -> None:
    nodes = tuple(
        RackNode(name=f"n{i}", macs=(f"ac:1f:6b:00:{i // 256:02x}:{i % 256:02x}",), address=f"10.20.{i // 256}.{i % 256}",
                 boot_script="x") for i in range(1000)
    )  # fmt: skip
    large = Rack(lab="hall", nodes=nodes)
    again = Rack.model_validate_json(large.model_dump_json())
    node = large.by_mac("AC-1F-6B-00-03-E7")
    assert node is not None
    assert node is large.by_address("10.20.3.231") is large.by_name("n999")
    assert large.by_mac("") is large.by_mac("nonsense") is None
    assert large == again

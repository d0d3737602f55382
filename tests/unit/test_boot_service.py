"""The boot service gives each node what is its own, once, and everybody else a recorded refusal."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from provision.boot_service import installer_api, node_http
from provision.boot_service.flood import MOST_KEYS, FloodGate
from provision.boot_service.messages import Grant, PermitState, normal_mac
from provision.boot_service.node_api import NodeApi
from provision.boot_service.reports import MOST_LOG
from provision.boot_service.service import Service
from provision.boot_service.store import NotGranted, Store
from provision.ledger import Event
from tests.unit.boot_bench import (
    ANSWER_TOKEN,
    CANARIES,
    MAC1,
    MAC2,
    PERMIT_SECONDS,
    REPORT_TOKEN,
    STANDING,
    STORAGE_MAC1,
    Bench,
    Clock,
    grant,
    rack,
    request_of,
)


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that knows the rack, made once and copied for each test."""
    path = tmp_path_factory.mktemp("store") / "boot.db"
    store = Store(path)
    store.put_rack(rack(), Clock().now)
    store.close()
    return path


@pytest.fixture
def bench(tmp_path: Path, new_store: Path) -> Iterator[Bench]:
    bench = Bench(Path(copy(new_store, tmp_path)))
    yield bench
    bench.close()


# MAC addresses


@pytest.mark.parametrize(
    "text", ["AC:1F:6B:00:00:01", "ac-1f-6b-00-00-01", "AC1F6B000001", "ac:1F:6b:00:00:01"]
)
def test_a_mac_is_read_in_every_form(text: str) -> None:
    assert normal_mac(text) == MAC1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ac:1f:6b:00:00",
        "ac:1f-6b:00:00:01",
        "ac1f:6b00:0001",
        "ac:1f:6b:00:00:0g",
        "ac:1f:6b:00:00:01:02",
        MAC1 + "\n",
        "\N{ARABIC-INDIC DIGIT ZERO}" * 12,
    ],
)
def test_what_is_no_mac_is_none(text: str) -> None:
    assert normal_mac(text) is None


# Boot scripts


@pytest.mark.parametrize("mac", [MAC1, MAC1.upper(), "ac-1f-6b-00-00-01", "AC1F6B000001", STORAGE_MAC1])
def test_a_node_with_a_live_permit_boots_its_installer(bench: Bench, mac: str) -> None:
    bench.grant()
    answer = bench.nodes.get(f"/boot/{mac}")
    assert (answer.status_code, answer.text) == (200, CANARIES["boot_script"])
    assert answer.headers["content-type"].startswith("text/plain")
    event = bench.last()
    assert (event.kind, event.text, event.node, event.run) == ("boot-script", "installer", "node1", "r1")
    assert event.facts["who"] == "10.10.1.21"


def test_a_node_without_a_permit_boots_its_disk(bench: Bench) -> None:
    bench.grant()
    assert bench.nodes.get(f"/boot/{MAC2}").text == STANDING
    assert (bench.last().kind, bench.last().text, bench.last().node) == ("boot-script", "local disk", "node2")


def test_after_its_answer_a_node_boots_its_disk_and_never_installs_again(bench: Bench) -> None:
    bench.grant()
    bench.ask()
    assert bench.nodes.get(f"/boot/{MAC1}").text == STANDING
    assert (bench.last().text, bench.last().run) == ("local disk", "r1")


def test_an_expired_or_revoked_permit_boots_the_disk(bench: Bench) -> None:
    bench.grant()
    bench.clock.now += PERMIT_SECONDS
    assert bench.nodes.get(f"/boot/{MAC1}").text == STANDING
    bench.grant(answer_token_sha256="1" * 64, report_token_sha256="2" * 64)
    bench.operator.request("DELETE", "/api/v1/permits?run=r1")
    assert bench.nodes.get(f"/boot/{MAC1}").text == STANDING
    assert bench.last().run is None


@pytest.mark.parametrize("mac", ["de:ad:be:ef:00:01", "not-a-mac", "%00", "x" * 500])
def test_a_stranger_gets_no_boot_script_and_is_recorded(bench: Bench, mac: str) -> None:
    bench.grant()
    answer = bench.nodes.get(f"/boot/{mac}")
    assert answer.status_code == 404
    assert "CANARY" not in answer.text
    event = bench.last()
    assert (event.kind, event.node, event.facts["who"], event.facts["status"]) == (
        "refused",
        None,
        "10.10.1.21",
        404,
    )
    assert len(event.text) < 250


# Answers


@pytest.mark.parametrize(
    "macs",
    [
        (MAC1,),
        (MAC1.upper(),),
        ("00:00:00:00:00:09", STORAGE_MAC1.upper()),
        ("80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1", MAC1),
    ],
)
def test_the_answer_is_given_by_any_nic_in_any_case(bench: Bench, macs: tuple[str, ...]) -> None:
    bench.grant()
    answer = bench.ask(macs=macs)
    assert (answer.status_code, answer.text) == (200, CANARIES["answer"])
    assert answer.headers["content-type"] == "application/toml"
    assert (bench.last().kind, bench.last().node, bench.last().run) == ("answer", "node1", "r1")


def test_a_second_use_is_refused_and_says_so(bench: Bench) -> None:
    bench.grant()
    bench.ask()
    again = bench.ask()
    assert (again.status_code, "CANARY" in again.text) == (410, False)
    event = bench.last()
    assert (event.kind, event.node, event.run, event.facts["state"]) == ("refused", "node1", "r1", "spent")
    assert "was used already" in event.text


def test_an_installer_on_another_node_is_refused_and_the_permit_stays_good(bench: Bench) -> None:
    bench.grant()
    refused = bench.ask(macs=(MAC2, "00:00:00:00:00:09"))
    assert (refused.status_code, "CANARY" in refused.text) == (403, False)
    assert bench.last().facts["macs"] == [MAC2, "00:00:00:00:00:09"]
    assert bench.ask().status_code == 200


def test_an_expired_permit_is_refused_to_the_second(bench: Bench) -> None:
    bench.grant()
    bench.clock.now += PERMIT_SECONDS
    assert bench.ask().status_code == 410
    assert "has expired" in bench.last().text
    bench.clock.now -= 0.001
    assert bench.ask().status_code == 200


def test_a_revoked_a_replaced_and_an_unknown_token_are_refused(bench: Bench) -> None:
    bench.grant()
    bench.grant(run="r2", answer_token_sha256="1" * 64, report_token_sha256="2" * 64)
    assert bench.ask().status_code == 410
    assert "was revoked or replaced" in bench.last().text
    assert bench.ask(token="no-such-token").status_code == 404
    assert bench.ask(token=REPORT_TOKEN).status_code == 404


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"9" * 5000, "the body is not JSON"),
        (b"[]", "the body is a JSON list, not an object"),
        (json.dumps(request_of((MAC1,)) | {"$schema": {"version": "2.0"}}).encode(), "schema version 2.0"),
        (json.dumps(request_of((MAC1,)) | {"$schema": "1.0"}).encode(), "schema version None"),
        (json.dumps(request_of(())).encode(), "no list network_interfaces"),
        (
            json.dumps(request_of((MAC1,)) | {"network_interfaces": {"mac": MAC1}}).encode(),
            "no list network_interfaces",
        ),
        (json.dumps(request_of((MAC1,) * 300)).encode(), "no list network_interfaces"),
        (json.dumps(request_of(("x",))).encode(), "have no MAC address"),
        (
            json.dumps(request_of((MAC1,)) | {"network_interfaces": [MAC1, 1, None, {"mac": 5}]}).encode(),
            "no MAC address",
        ),
    ],
)
def test_a_malformed_request_is_refused_in_one_line_and_spends_nothing(
    bench: Bench, body: bytes, why: str
) -> None:
    bench.grant()
    refused = bench.nodes.post(f"/answer/{ANSWER_TOKEN}", content=body)
    assert refused.status_code == 400
    assert why in refused.text
    assert refused.text.count("\n") == 1
    assert (bench.last().kind, bench.last().node) == ("refused", "node1")
    assert bench.ask().status_code == 200


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(
    ("path", "most"), [("answer", installer_api.MOST_BODY), ("report", installer_api.MOST_REPORT)]
)
def test_an_oversized_body_is_refused_however_it_is_sent(
    bench: Bench, path: str, most: int, chunked: bool
) -> None:
    bench.grant()
    bench.ask() if path == "report" else None
    token = REPORT_TOKEN if path == "report" else ANSWER_TOKEN
    content = (b"x" * 65536 for _ in range(most // 65536 + 1)) if chunked else b"x" * (most + 1)
    refused = bench.nodes.post(f"/{path}/{token}", content=content)
    assert refused.status_code == 413
    assert bench.last().text.endswith(f"refused: the body is larger than {most} bytes")


def test_a_body_that_never_arrives_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.grant()
    monkeypatch.setattr(node_http, "BODY_SECONDS", 0.01)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/answer/{ANSWER_TOKEN}",
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("x", 80),
    }
    asyncio.run(NodeApi(bench.service).app()(scope, receive, send))
    assert sent[0]["status"] == 408
    assert bench.last().facts["status"] == 408


@pytest.mark.parametrize("threads", [16])
def test_of_many_that_ask_at_once_exactly_one_gets_the_answer(bench: Bench, threads: int) -> None:
    bench.grant()
    together = threading.Barrier(threads)
    permit = bench.store.permit_by_answer_token(ANSWER_TOKEN)
    assert permit is not None

    def spend(number: int) -> str | None:
        together.wait()
        return bench.store.spend(permit, bench.clock.now, asker=number)

    with ThreadPoolExecutor(threads) as pool:
        got = list(pool.map(spend, range(threads)))
    assert sorted(answer for answer in got if answer) == [CANARIES["answer"]]
    assert bench.kinds().count("answer") == 1


def test_a_permit_that_ended_after_it_was_looked_up_is_not_spent(bench: Bench) -> None:
    bench.grant()
    permit = bench.store.permit_by_answer_token(ANSWER_TOKEN)
    assert permit is not None
    assert bench.store.spend(permit, permit.expires) is None
    bench.store.revoke(bench.clock.now, run="r1")
    assert bench.store.spend(permit, bench.clock.now) is None
    assert "answer" not in bench.kinds()


def test_the_hand_out_is_kept_or_not_made(bench: Bench) -> None:
    """An answer whose event cannot be kept is not given, and its permit stays good."""
    bench.grant()
    with bench.store.writing() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_answer BEFORE INSERT ON events WHEN NEW.kind = 'answer' "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    failed = bench.ask()
    assert (failed.status_code, "CANARY" in failed.text) == (503, False)
    with bench.store.writing() as connection:
        connection.exec_driver_sql("DROP TRIGGER no_answer")
    assert bench.ask().text == CANARIES["answer"]


# First boot, webhook, reports


def test_the_first_boot_script_is_given_only_after_the_answer(bench: Bench) -> None:
    bench.grant()
    early = bench.nodes.get(f"/first-boot/{REPORT_TOKEN}")
    assert (early.status_code, "CANARY" in early.text) == (403, False)
    bench.ask()
    assert bench.nodes.get(f"/first-boot/{REPORT_TOKEN}").text == CANARIES["first_boot"]
    assert bench.last().kind == "first-boot-script"
    assert bench.nodes.get(f"/first-boot/{ANSWER_TOKEN}").status_code == 404
    bench.clock.now += PERMIT_SECONDS
    assert bench.nodes.get(f"/first-boot/{REPORT_TOKEN}").status_code == 410


HOOK = {
    "$schema": {"version": "1.2"},
    "debian-version": "13.5",
    "product": {"fullname": "Proxmox VE", "short": "pve", "version": "9.2.1"},
    "iso": {"release": "9.2", "isorelease": "1"},
    "kernel-version": {"sysname": "Linux", "release": "6.17.2-1-pve", "version": "#1", "machine": "x86_64"},
    "boot-info": {"mode": "efi", "secureboot": True},
    "cpu-info": {"cores": 8, "cpus": 16, "flags": "x", "hvm": True, "model": "Xeon", "sockets": 1},
    "dmi": {"system": {"serial": "S123"}},
    "filesystem": "ext4",
    "fqdn": "node1.lab.example.net",
    "machine-id": "0123456789abcdef0123456789abcdef",
    "disks": [
        {
            "size": 1,
            "is-bootdisk": True,
            "udev-properties": {"DEVNAME": "/dev/sda", "ID_SERIAL_SHORT": "S3Z8"},
        },
        {"size": 1, "udev-properties": {"DEVNAME": "/dev/sdb"}},
    ],
    "network-interfaces": [{"name": "eno1", "mac": MAC1, "address": "10.10.1.21/24", "is-management": True}],
    "ssh-public-host-keys": {
        "ecdsa": "ecdsa-sha2-nistp256 AAAA e",
        "ed25519": "ssh-ed25519 AAAA e",
        "rsa": "unknown",
    },
    "reboot-mode": "reboot",
    "a-key-of-tomorrow": [{"deep": [None]}],
}


def test_the_webhook_is_recorded_with_what_the_harness_needs(bench: Bench) -> None:
    bench.grant()
    bench.ask()
    assert bench.nodes.post(f"/installed/{REPORT_TOKEN}", json=HOOK).status_code == 200
    event = bench.last()
    assert (event.kind, event.node, event.text) == ("installed", "node1", "Proxmox VE 9.2.1 installed")
    assert event.facts == {
        "who": "10.10.1.21",
        "machine_id": HOOK["machine-id"],
        "fqdn": "node1.lab.example.net",
        "product": "Proxmox VE",
        "version": "9.2.1",
        "debian": "13.5",
        "kernel": "6.17.2-1-pve",
        "boot_mode": "efi",
        "secure_boot": True,
        "filesystem": "ext4",
        "serial": "S123",
        "reboot_mode": "reboot",
        "dmi": {"system": {"serial": "S123"}},
        "cpu": {"model": "Xeon", "sockets": "1", "cores": "8", "cpus": "16"},
        "ssh_host_keys": ["ecdsa-sha2-nistp256 AAAA e", "ssh-ed25519 AAAA e"],
        "disks": [
            {"boot": True, "name": "/dev/sda", "model": None, "serial": "S3Z8"},
            {"boot": False, "name": "/dev/sdb", "model": None, "serial": None},
        ],
        "nics": [{"name": "eno1", "mac": MAC1, "address": "10.10.1.21/24", "management": True}],
    }


@pytest.mark.parametrize(
    "hook",
    [
        {},
        {"product": "x", "disks": {}, "network-interfaces": [1, {"mac": None}], "ssh-public-host-keys": []},
        {"fqdn": ["\ud800"], "machine-id": "\ud800\x00\n", "product": {"fullname": "\ud800", "version": 9}},
    ],
)
def test_a_strange_webhook_is_taken_too(bench: Bench, hook: dict[str, Any]) -> None:
    bench.grant()
    bench.ask()
    body = json.dumps(hook).encode()
    assert bench.nodes.post(f"/installed/{REPORT_TOKEN}", content=body).status_code == 200
    assert bench.last().kind == "installed"


def test_reports_come_in_any_order_and_more_than_once(bench: Bench) -> None:
    bench.grant()
    bench.ask()
    for phase in ("registered", "first-boot", "registered", "failed"):
        assert bench.report(phase, nonce="n1", extra={"ignored": 1}).status_code == 200
    assert bench.kinds()[-4:] == ["registered", "first-boot", "registered", "failed"]
    assert bench.last().facts["nonce"] == "n1"


def test_a_failed_report_keeps_the_tail_of_its_log_without_the_token(bench: Bench) -> None:
    bench.grant()
    bench.ask()
    log = "é" * MOST_LOG + f"\x1b[31mcurl http://10.10.1.1/report/{REPORT_TOKEN}\nlast line\n"
    body = json.dumps(
        {"phase": "failed", "text": f"line 3 of {REPORT_TOKEN}\n", "log": log}, ensure_ascii=False
    )
    assert bench.nodes.post(f"/report/{REPORT_TOKEN}", content=body.encode()).status_code == 200
    event = bench.last()
    assert event.text == "line 3 of [token]"
    assert event.facts["log"].endswith("�[31mcurl http://10.10.1.1/report/[token]\nlast line\n")
    assert MOST_LOG - 2 <= len(event.facts["log"].replace("�", "x").encode()) <= MOST_LOG


@pytest.mark.parametrize("body", [b"", b"[]", b'{"phase": "rm -rf"}', b'{"phase": ["failed"]}', b"{}"])
def test_a_report_of_no_known_phase_is_refused(bench: Bench, body: bytes) -> None:
    bench.grant()
    bench.ask()
    assert bench.nodes.post(f"/report/{REPORT_TOKEN}", content=body).status_code == 400
    assert bench.last().kind == "refused"


def test_reports_before_the_answer_or_after_the_permit_are_refused(bench: Bench) -> None:
    bench.grant()
    assert bench.report().status_code == 403
    assert bench.nodes.post(f"/installed/{REPORT_TOKEN}", json=HOOK).status_code == 403
    bench.ask()
    bench.operator.request("DELETE", "/api/v1/permits?node=node1")
    assert bench.report().status_code == 410
    assert bench.nodes.post("/report/unknown", json={"phase": "failed"}).status_code == 404


def test_a_finished_node_may_report_after_expiry(bench: Bench) -> None:
    """A late webhook refused would leave an installed node in a shell."""
    bench.grant()
    bench.ask()
    bench.clock.now += 2 * PERMIT_SECONDS
    assert bench.nodes.post(f"/installed/{REPORT_TOKEN}", json=HOOK).status_code == 200
    assert bench.report("registered").status_code == 200


def test_a_node_that_reports_without_end_is_held_back(bench: Bench) -> None:
    bench.grant()
    bench.ask()
    bench.service.reports = FloodGate(each=3, all_together=100)
    assert [bench.report().status_code for _ in range(5)] == [200] * 3 + [429] * 2


# What a permit carries


def test_nothing_a_permit_carried_is_left_once_it_is_done(bench: Bench) -> None:
    bench.grant()
    assert b"CANARY" in bench.bytes_on_disk()
    bench.ask()
    bench.store.scrub(bench.clock.now)
    assert b"CANARY-ANSWER" not in bench.bytes_on_disk()
    bench.report("registered")
    bench.store.scrub(bench.clock.now)
    assert b"CANARY" not in bench.bytes_on_disk()


def test_nothing_a_permit_carried_is_left_once_it_is_revoked(bench: Bench) -> None:
    bench.grant()
    assert bench.operator.request("DELETE", "/api/v1/permits?run=r1").json() == {"revoked": 1}
    assert b"CANARY" not in bench.bytes_on_disk()
    assert bench.last().kind == "permit-revoked"


def test_nothing_a_permit_carried_is_left_once_it_has_expired(bench: Bench) -> None:
    bench.grant()
    bench.store.scrub(bench.clock.now + PERMIT_SECONDS)
    assert b"CANARY" not in bench.bytes_on_disk()
    assert (bench.last().kind, bench.last().text) == ("permit-expired", "the permit expired unused")
    bench.store.scrub(bench.clock.now + PERMIT_SECONDS)
    assert bench.kinds().count("permit-expired") == 1


def test_tokens_are_nowhere_in_the_ledger(bench: Bench) -> None:
    bench.grant()
    bench.ask()
    bench.ask()
    bench.report("failed", text=REPORT_TOKEN, log=REPORT_TOKEN, nonce="n")
    for method, path in (
        ("GET", "/answer/"),
        ("POST", "//answer/"),
        ("GET", "/x/"),
        ("POST", "/first-boot/"),
    ):
        for token in (ANSWER_TOKEN, REPORT_TOKEN):
            assert bench.nodes.request(method, path + token).status_code in (404, 405)
    assert ANSWER_TOKEN.encode() not in bench.bytes_on_disk()
    assert REPORT_TOKEN.encode() not in bench.bytes_on_disk()


def test_a_new_permit_ends_the_old_one(bench: Bench) -> None:
    bench.grant()
    bench.grant(run="r2", answer_token_sha256="1" * 64, report_token_sha256="2" * 64)
    states = [(permit["run"], permit["state"]) for permit in bench.operator.get("/api/v1/permits").json()]
    assert states == [("r1", "revoked"), ("r2", "live")]


def test_permits_are_listed_with_their_state_and_nothing_secret(bench: Bench) -> None:
    bench.grant()
    seen = []
    for act in (
        lambda: None,
        bench.ask,
        lambda: bench.report("registered"),
        lambda: bench.operator.request("DELETE", "/api/v1/permits?node=node1"),
    ):
        act()
        (permit,) = bench.operator.get("/api/v1/permits").json()
        seen.append(permit.pop("state"))
        assert permit.keys() == PermitState.model_fields.keys() - {"state"}
    assert seen == ["live", "spent", "done", "revoked"]


# The operator's side


def test_the_rack_is_put_once_and_survives_a_restart(bench: Bench) -> None:
    put = bench.operator.request("PUT", "/api/v1/rack", json=rack().model_dump(mode="json"))
    assert put.json() == {"changed": False}
    changed = rack().model_copy(update={"nodes": rack().nodes[1:]})
    bench.grant()
    assert bench.operator.request("PUT", "/api/v1/rack", json=changed.model_dump(mode="json")).json() == {
        "changed": True
    }
    assert bench.kinds()[-2:] == ["permit-revoked", "rack"]
    again = Store(bench.path)
    assert again.rack == changed
    again.close()


@pytest.mark.parametrize(
    "second",
    [
        {"name": "node1"},
        {"macs": (STORAGE_MAC1.upper().replace(":", "-"),)},
        {"address": "10.10.1.21"},
    ],
)
def test_a_rack_in_which_two_nodes_share_something_is_refused(bench: Bench, second: dict[str, Any]) -> None:
    nodes = [node.model_dump(mode="json") for node in rack().nodes]
    refused = bench.operator.request(
        "PUT", "/api/v1/rack", json={"lab": "hall", "nodes": [nodes[0], nodes[1] | second]}
    )
    assert refused.status_code == 422
    assert "given to more than one node: " in refused.json()["detail"]


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        ({"node": "node9"}, 409, "node9 is no node of the rack"),
        ({"lab": "other"}, 409, "put the rack first"),
        ({"expires": 999_990.0}, 409, "node1: the permit would have expired 10 s ago"),
        ({"answer": ""}, 422, "body.answer"),
        ({"answer_token_sha256": ANSWER_TOKEN}, 422, "body.answer_token_sha256"),
        ({"first_boot": "é" * 600_000}, 422, "has 1200000 bytes; the installer takes at most 1048576"),
        ({"unknown": 1}, 422, "body.unknown"),
    ],
)
def test_a_permit_that_makes_no_sense_is_refused_without_repeating_it(
    bench: Bench, change: dict[str, Any], status: int, why: str
) -> None:
    refused = bench.post_grant(**change)
    assert refused.status_code == status
    assert why in refused.json()["detail"]
    assert "CANARY" not in refused.text
    assert ANSWER_TOKEN not in refused.text


def test_a_token_serves_one_permit_only(bench: Bench) -> None:
    assert bench.post_grant().json() == {"id": 1}
    assert bench.post_grant(node="node2").status_code == 409
    with pytest.raises(NotGranted, match="a permit with one of these tokens exists already"):
        bench.store.grant(Grant(**grant(bench.clock.now, node="node2")), bench.clock.now)
    assert bench.ask().status_code == 200


def test_a_grant_shows_nothing_of_what_it_carries() -> None:
    assert "CANARY" not in repr(Grant(**grant(0.0)))
    with pytest.raises(ValidationError) as raised:
        Grant(**grant(0.0, expires="CANARY"))
    assert "CANARY" not in str(raised.value)


@pytest.mark.parametrize("query", ["", "?run=r1&node=node1"])
def test_revoking_needs_one_of_run_and_node(bench: Bench, query: str) -> None:
    assert bench.operator.request("DELETE", f"/api/v1/permits{query}").status_code == 422


def test_health_names_the_ledger_and_how_far_it_is(bench: Bench) -> None:
    assert bench.operator.get("/healthz").json() == {"ok": True, "ledger": bench.store.uuid, "last": 1}


def test_nodes_are_offered_nothing_of_the_operator(bench: Bench) -> None:
    for path in ("/healthz", "/api/v1/permits", "/api/v1/rack", "/api/v1/events", "/openapi.json", "/docs"):
        for method in ("GET", "PUT", "POST", "DELETE"):
            bench.clock.now += 60
            assert bench.nodes.request(method, path).status_code == 404
            assert bench.last().facts["what"] == f"{method} {path}"


def test_the_operator_is_offered_nothing_of_the_nodes(bench: Bench) -> None:
    bench.grant()
    assert bench.operator.post(f"/answer/{ANSWER_TOKEN}", json=request_of((MAC1,))).status_code == 404


# Refusals


def test_a_flood_of_refusals_is_recorded_in_part_and_counted(bench: Bench) -> None:
    for _ in range(50):
        assert bench.nodes.get("/boot/de:ad:be:ef:00:01").status_code == 404
    assert bench.kinds().count("refused") == 30
    bench.clock.now += 60
    bench.nodes.get("/boot/de:ad:be:ef:00:01")
    assert bench.last().facts["held_back"] == 20


def test_a_flood_of_strangers_does_not_hide_what_a_permit_holder_does(bench: Bench) -> None:
    bench.grant()
    bench.service.refusals = FloodGate(each=30, all_together=5)
    for number in range(10):
        bench.nodes.get("/boot/de:ad:be:ef:00:01", headers={"X-Real-IP": f"10.10.7.{number}"})
    bench.ask()
    bench.ask()
    assert bench.kinds()[2:] == ["refused"] * 5 + ["answer", "refused"]


def test_a_gate_counts_per_key_and_for_all_and_forgets_old_keys() -> None:
    gate = FloodGate(each=2, all_together=3)
    assert [gate.admit(key, 0.0) for key in "aaabb"] == [0, 0, None, 0, None]
    assert gate.admit("a", 61.0) == 1
    for number in range(MOST_KEYS + 100):
        gate.admit(str(number), 61.0)
    assert len(gate._windows) == MOST_KEYS


@pytest.mark.parametrize("header", ["", "x" * 300, "10.10.1.21, 1.2.3.4", "<script>"])
def test_who_asks_is_an_address_or_unknown(bench: Bench, header: str) -> None:
    bench.nodes.get("/boot/x", headers={"X-Real-IP": header})
    assert bench.last().facts["who"] == "unknown"


def test_a_store_that_cannot_write_refuses_politely(bench: Bench) -> None:
    def broken(*_: Any) -> None:
        raise OperationalError("INSERT", {"answer": "CANARY"}, OSError("disk full"), hide_parameters=True)

    bench.store.enter = broken  # type: ignore[assignment,method-assign]
    refused = bench.nodes.get(f"/boot/{MAC1}")
    assert refused.status_code == 503
    assert refused.text == "this could not be recorded, so it was not done; ask again\n"


# Events


async def hear(service: Service, after: int, count: int) -> list[dict[str, Any]]:
    heard: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        async for message in service.stream(after):
            first, data = message.splitlines()[:2]
            heard.append(json.loads(data.removeprefix("data: ")))
            assert first == f"id: {heard[-1]['seq']}"
            if len(heard) == count:
                break
    return heard


def test_listeners_hear_each_event_once_in_order_and_resume_exactly(bench: Bench) -> None:
    async def scene() -> list[list[int]]:
        service = Service(bench.store)
        listeners = [asyncio.create_task(hear(service, after, 201 - after)) for after in (0, 1, 150)]
        event = bench.store.event(1.0, "x", "x")
        await asyncio.gather(*(service.work(bench.store.append, event) for _ in range(200)))
        return [[event["seq"] for event in await listener] for listener in listeners]

    assert asyncio.run(scene()) == [list(range(1, 202)), list(range(2, 202)), list(range(151, 202))]


def test_an_event_names_its_origin(bench: Bench) -> None:
    (event,) = asyncio.run(hear(Service(bench.store), 0, 1))
    assert event["origin"] == f"{bench.store.uuid}:1"
    assert Event(**event).text == "2 nodes known"


def test_a_silent_stream_has_a_heartbeat_and_ends_with_the_service(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provision.boot_service.service.HEARTBEAT_SECONDS", 0.01)

    async def scene() -> list[str]:
        service, heard = Service(bench.store), []
        async for message in service.stream(1):
            heard.append(message)
            if len(heard) == 2:
                service.stop()
        return heard

    assert asyncio.run(scene()) == [": still here\n\n"] * 2


# Sockets and systemd


def test_the_sockets_have_their_modes_and_replace_dead_ones(tmp_path: Path) -> None:
    path = tmp_path / "operator.sock"
    sockets.listen(path, 0o600).close()
    with sockets.listen(path, 0o600), sockets.listen(tmp_path / "nodes.sock", 0o666):
        assert [
            stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("operator.sock", "nodes.sock")
        ] == [
            0o600,
            0o666,
        ]


@pytest.mark.parametrize("abstract", [True, False])
def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    address = f"@rackproof-test-{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        sockets.notify("READY=1")
        assert manager.recv(100) == b"READY=1"

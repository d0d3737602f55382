"""The API's calls without a server: parameters, rights, tickets, task names, status files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from virtual_lab.pve.pmx import api, auth, router, tasks
from virtual_lab.pve.pmx.api import facts
from virtual_lab.pve.pmx.auth import Caller, caller
from virtual_lab.pve.pmx.corosync import new_conf
from virtual_lab.pve.pmx.errors import Failure
from virtual_lab.pve.pmx.httpd import Asked, refusal
from virtual_lab.pve.pmx.keys import merge_lines
from virtual_lab.pve.pmx.schema import MISSING, UNKNOWN
from virtual_lab.pve.pmx.status import Status
from virtual_lab.pve.pmx.tasks import Upid

assert api

FINGERPRINT = ":".join(["AB"] * 32)


def errors_of(method: str, path: str, params: dict[str, str]) -> dict[str, str]:
    endpoint, in_path = router.find(method, path)
    with pytest.raises(Failure) as refused:
        endpoint.run(caller("root@pam"), {**params, **in_path})
    assert refused.value.code == 400
    return refused.value.errors


def test_unknown_and_missing_parameters_are_all_named() -> None:
    assert errors_of("POST", "/cluster/config", {"link9": "x"}) == {"link9": UNKNOWN, "clustername": MISSING}


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("clustername", "sixteen-letters-", "value may only be 15 characters long"),
        ("clustername", "under_score", "invalid format - value does not look like a valid node name"),
        ("votes", "0", "value must have a minimum value of 1"),
        ("nodeid", "one", "type check ('integer') failed - got 'one'"),
        (
            "link0",
            "10.0.0.1,priority=300",
            "invalid format - format error\npriority: value must have a maximum",
        ),
    ],
)
def test_wrong_parameters_of_create(name: str, value: str, complaint: str) -> None:
    errors = errors_of("POST", "/cluster/config", {"clustername": "lab", name: value})
    assert errors[name].startswith(complaint)


@pytest.mark.parametrize("value", ["AB", FINGERPRINT.replace(":", ""), FINGERPRINT + ":AB"])
def test_a_join_wants_a_whole_fingerprint(value: str) -> None:
    params = {"hostname": "10.0.0.1", "password": "x", "fingerprint": value}
    assert errors_of("POST", "/cluster/config/join", params) == {
        "fingerprint": "value does not match the regex pattern"
    }


def test_a_join_refuses_a_boolean_that_is_none() -> None:
    params = {"hostname": "h", "password": "x", "fingerprint": FINGERPRINT, "force": "perhaps"}
    assert errors_of("POST", "/cluster/config/join", params) == {
        "force": "type check ('boolean') failed - got 'perhaps'"
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/cluster/config"), ("POST", "/cluster/config/join"), ("POST", "/cluster/config/nodes/pve2"),
     ("DELETE", "/cluster/config/nodes/pve2")],
)  # fmt: skip
def test_clusters_are_root_s_own_and_no_token_s(method: str, path: str) -> None:
    endpoint, _ = router.find(method, path)
    endpoint.check_right(caller("root@pam"))
    with pytest.raises(Failure, match=r"Permission check failed \(user != root@pam\)") as refused:
        endpoint.check_right(Caller("root@pam!ci", all_rights=True))
    assert refused.value.code == 403


def test_reading_needs_rights() -> None:
    endpoint, _ = router.find("GET", "/cluster/status")
    endpoint.check_right(Caller("root@pam!ci", all_rights=True))
    with pytest.raises(Failure, match=r"Sys\.Audit"):
        endpoint.check_right(Caller("root@pam!ci", all_rights=False))


def test_a_call_that_is_not_there() -> None:
    with pytest.raises(Failure, match="Method 'GET /nope' not implemented") as refused:
        router.find("GET", "/nope")
    assert refused.value.code == 501


def test_a_refusal_s_reason_is_one_line() -> None:
    answer = refusal(Failure("one\ntwo", errors={"a": "b"}, code=400))
    assert (answer.code, answer.reason) == (400, "one two")
    assert json.loads(answer.body) == {"data": None, "message": "one\ntwo\n", "errors": {"a": "b"}}


def test_parameters_come_from_query_form_and_json() -> None:
    form = Asked("POST", "/", "a=1", b"b=x%20y&c=", {"Content-Type": "application/x-www-form-urlencoded"})
    assert form.params() == {"a": "1", "b": "x y", "c": ""}
    body = Asked("POST", "/", "", b'{"force": true, "votes": 2}', {"Content-Type": "application/json"})
    assert body.params() == {"force": "1", "votes": "2"}
    with pytest.raises(Failure, match="malformed JSON"):
        Asked("POST", "/", "", b"{", {"Content-Type": "application/json"}).params()


def test_tickets_live_two_hours_and_forgive_five_minutes() -> None:
    assert auth.is_fresh(1000, 1000 + 7199)
    assert not auth.is_fresh(1000, 1000 + 7200)
    assert auth.is_fresh(1000, 701)
    assert not auth.is_fresh(1000, 699)


@pytest.mark.parametrize("ticket", ["", "PVE:root@pam:zz::x", "PVE:root@pam:00000001::YQ==", "x" * 5000])
def test_what_is_no_ticket_is_nobody_s(ticket: str) -> None:
    assert auth.Tickets(clock=lambda: 1e9).user_of(ticket) is None


def test_a_token_header_that_is_none() -> None:
    with pytest.raises(Failure) as refused:
        auth.token_caller("Bearer abc")
    assert refused.value.code == 401


def test_task_names_are_read_as_they_are_written() -> None:
    text = "UPID:pve1:000000B2:0004729F:6B031017:clustercreate:lab:root@pam:"
    upid = Upid.parse(text)
    assert str(upid) == text
    assert (upid.type, upid.id, upid.pid) == ("clustercreate", "lab", 0xB2)
    assert upid.log.parent.name == "7"
    assert Upid.parse("UPID:pve1:000000B2:0004729F:6B031017:clusterjoin::root@pam:").id == ""


@pytest.mark.parametrize(
    "text", ["", "UPID:x", "UPID:pve1:b2:0004729F:6B031017:t::root@pam:", "UPID:../../x:"]
)
def test_what_is_no_task_name(text: str) -> None:
    with pytest.raises(ValueError, match="unable to parse worker upid"):
        Upid.parse(text)


@pytest.mark.parametrize(
    ("log", "status"),
    [
        ("a\nTASK OK\n", "OK"),
        ("TASK ERROR: no way\n", "no way"),
        ("TASK WARNINGS: 3\n", "WARNINGS: 3"),
        ("waiting for quorum...", "unexpected status"),
        ("", "unexpected status"),
    ],
)
def test_how_a_task_ended(log: str, status: str) -> None:
    assert tasks.exit_status(log) == status


def test_status_files_of_a_lone_node_name_no_cluster() -> None:
    assert json.loads(Status("pve1").members()) == {"nodename": "pve1", "version": 0}


def test_status_files_of_a_member() -> None:
    status = Status("pve1")
    status.conf = new_conf("pve1", "10.0.0.1", {"clustername": "lab"})
    status.quorate, status.online, status.addresses = True, {1}, {"pve1": "10.0.0.1"}
    assert json.loads(status.members()) == {
        "nodename": "pve1",
        "version": 0,
        "cluster": {"name": "lab", "version": 0, "nodes": 1, "quorate": 1},
        "nodelist": {"pve1": {"id": 1, "online": 1, "ip": "10.0.0.1"}},
    }


def test_rsa_keys_are_merged_once_and_others_kept() -> None:
    lines = ["ssh-rsa AAA root@a", "ssh-ed25519 BBB me", "ssh-rsa AAA root@a", "# ssh-rsa AAA root@a"]
    assert merge_lines(lines) == [lines[0], lines[1], lines[3]]


def test_interfaces_are_read_with_their_options() -> None:
    found = facts.stanzas("auto vmbr0\niface vmbr0 inet static\n\taddress 10.0.0.1/24\n\tbridge-ports eno1\n")
    assert found["vmbr0"] == {"method": "static", "families": ["inet"], "address": "10.0.0.1/24",
                              "bridge-ports": "eno1", "autostart": True}  # fmt: skip


def test_a_process_start_of_none(tmp_path: Path) -> None:
    assert tasks.process_start(2**22 + 1) is None

"""The client of the Proxmox API against a strict API on loopback TLS."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator

import pytest
import urllib3.exceptions

from provision.errors import GaveUp, LabError, Unreachable
from provision.inventory import Secret
from provision.pve import (
    RENEW_AFTER,
    AnswerLost,
    ApiRefused,
    CertificateChanged,
    Hidden,
    Session,
    TaskFailed,
    fingerprint_of,
    settling,
)
from provision.wait import NotYet
from tests.unit.pve_api import LOCK, FakeNode, FakeRack

CANARY = "s3cret&canary=%41 ü"


@pytest.fixture
def rack() -> Iterator[FakeRack]:
    with FakeRack(
        {"node1": ["10.10.1.21", "10.10.2.21"], "node2": ["10.10.1.22", "10.10.2.22"]}
    ).serving() as rack:
        for node in rack.nodes.values():
            node.password = CANARY
        yield rack


@pytest.fixture
def node(rack: FakeRack) -> FakeNode:
    return rack.nodes["node1"]


@pytest.fixture
def session(rack: FakeRack, node: FakeNode) -> Iterator[Session]:
    yield from opened(rack, node)


def opened(
    rack: FakeRack, node: FakeNode, *, fingerprint: str = "", password: str = CANARY
) -> Iterator[Session]:
    session = Session(
        node.name,
        "127.0.0.1",
        Secret.known(password),
        fingerprint or node.fingerprint,
        port=rack.ports[node.name],
        timeout=5.0,
        now=rack.clock.now,
    )
    try:
        yield session
    finally:
        session.close()


def logins(rack: FakeRack) -> int:
    return sum(call.path == "/access/ticket" for call in rack.calls)


def test_a_standalone_node(session: Session) -> None:
    status = session.status()
    assert (status.name, status.quorate, status.version) == (None, False, None)
    assert status.members["node1"].nodeid == 0
    assert session.config_nodes() == {}
    assert session.version().release == "9.1"


def test_a_cluster(rack: FakeRack, session: Session) -> None:
    rack.stand("lab", "node1", "node2").online.discard("node2")
    status, info = session.status(), session.join_info()
    assert (status.name, status.quorate, set(status.online)) == ("lab", False, {"node1"})
    assert status.members["node2"].nodeid == 2
    assert info.config_version == 2
    assert info.nodes["node1"].pve_fp == rack.nodes["node1"].fingerprint
    assert session.config_nodes()["node2"].links == {0: "10.10.1.22", 1: "10.10.2.22"}


def test_one_login_serves_many_requests(rack: FakeRack, session: Session) -> None:
    for _ in range(3):
        session.version()
    assert logins(rack) == 1


def test_the_ticket_is_renewed_before_it_dies(rack: FakeRack, session: Session) -> None:
    session.version()
    rack.clock.sleep(RENEW_AFTER - 1)
    session.version()
    assert logins(rack) == 1
    rack.clock.sleep(2)
    session.version()
    assert logins(rack) == 2


def test_a_dead_ticket_is_replaced_and_the_request_sent_again(
    rack: FakeRack, node: FakeNode, session: Session
) -> None:
    session.version()
    node.tickets.clear()
    node.csrf = "another"
    assert session.create_cluster("lab", ["10.10.1.21"]).startswith("UPID:node1:")
    assert rack.writes() == [("node1", "POST", "/cluster/config")] * 2, "once refused, once carried out"


def test_links_are_fields_of_their_own_in_order(rack: FakeRack, session: Session) -> None:
    session.create_cluster("lab", ["10.10.1.21", "10.10.2.21"])
    assert rack.calls[-1].params == {"clustername": "lab", "link0": "10.10.1.21", "link1": "10.10.2.21"}


def test_no_request_leaves_for_a_certificate_that_is_not_pinned(rack: FakeRack, node: FakeNode) -> None:
    other = rack.nodes["node2"].fingerprint
    for session in opened(rack, node, fingerprint=other):
        with pytest.raises(CertificateChanged, match=other):
            session.version()
    assert rack.calls == [], "the password must not be sent to a machine that proved nothing"


def test_pinning_needs_no_environment_and_warns_of_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.version()


def test_urllib3_still_warns_others(session: Session) -> None:
    """proxmoxer's own backend would have switched the warnings off for the whole process."""
    session.version()
    ignored = [entry[2] for entry in warnings.filters if entry[0] == "ignore"]
    assert urllib3.exceptions.InsecureRequestWarning not in ignored


def test_a_refusal_names_node_call_status_and_parameters(session: Session) -> None:
    with pytest.raises(ApiRefused) as caught:
        session.api.cluster.config.post(clustername="lab", lnk0="10.10.1.21")
    assert caught.value.status == 400
    assert str(caught.value) == (
        "node1: POST /cluster/config was refused: 400 Parameter verification failed.; lnk0: property is not "
        "defined in schema and the schema does not allow additional properties"
    )


def test_a_wrong_password_is_named_and_not_shown(rack: FakeRack, node: FakeNode) -> None:
    for session in opened(rack, node, password="wrong&canary"):
        with pytest.raises(
            ApiRefused, match="POST /access/ticket was refused: 401 authentication failure"
        ) as caught:
            session.version()
        assert "wrong&canary" not in everything_of(caught.value)


def test_a_second_factor_is_refused(node: FakeNode, session: Session) -> None:
    node.csrf = ""
    with pytest.raises(ApiRefused, match="second factor"):
        session.version()


def test_the_password_appears_nowhere(
    rack: FakeRack, node: FakeNode, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("proxmoxer.core", "urllib3", "requests"):
        caplog.set_level(logging.DEBUG, logger=name)
    texts = [repr(session), repr(session.api), repr(Hidden(CANARY)), repr({"password": Hidden(CANARY)})]
    for provoke in ("/cluster/config/join", "/access/ticket"):
        node.tickets.clear()
        node.lose_answer_to = provoke
        with pytest.raises(AnswerLost) as caught:
            session.join_cluster(
                "10.10.1.22", rack.nodes["node2"].fingerprint, Secret.known(CANARY), ["10.10.1.21"]
            )
        texts.append(everything_of(caught.value))
    node.answers_with = (500, f"unexpected: {CANARY}")
    with pytest.raises(ApiRefused) as refused:
        session.join_cluster("10.10.1.22", "AA", Secret.known(CANARY), ["10.10.1.21"])
    texts += [everything_of(refused.value), caplog.text]
    assert "POST https://127.0.0.1" in caplog.text, "proxmoxer's own log line must be among what is searched"
    assert not [text for text in texts if CANARY in text or "canary" in text]
    joins = [call for call in rack.calls if call.path == "/cluster/config/join"]
    assert joins
    assert joins[0].params["password"] == CANARY, "it reaches the node"


def everything_of(error: BaseException) -> str:
    """The error as a report with all local variables would print it, causes included, below the test."""
    assert error.__traceback__ is not None
    below = error.__traceback__.tb_next
    shown = traceback.TracebackException(type(error), error, below, capture_locals=True)
    return "".join(shown.format()) + repr(error) + repr(vars(error)) + repr(error.__context__)


def test_a_node_that_is_not_there(rack: FakeRack, node: FakeNode, session: Session) -> None:
    rack.ports[node.name] = 1
    for absent in opened(rack, node):
        with pytest.raises(Unreachable, match=r"could not connect: .*Connection refused") as caught:
            absent.version()
        assert not isinstance(caught.value, AnswerLost), "nothing was sent"


def test_an_api_that_is_down(node: FakeNode, session: Session) -> None:
    node.down = True
    with pytest.raises(Unreachable, match=r"no answer|could not connect"):
        session.version()


def test_a_reset_is_an_answer_lost(node: FakeNode, session: Session) -> None:
    node.lose_answer_to = "/version"
    with pytest.raises(AnswerLost, match=r"GET .*/version: no answer"):
        session.version()


def test_a_restart_closes_kept_connections(node: FakeNode, session: Session) -> None:
    session.version()
    node.generation = object()
    with pytest.raises(AnswerLost):
        session.version()
    assert session.version().version == "9.1.4"


def test_answers_of_another_shape_are_named(session: Session) -> None:
    with pytest.raises(LabError, match=r"node1: the Proxmox API answered in an unknown shape: .*list"):
        session.read(list[str], {"not": "a list"})


def test_a_task_that_worked(rack: FakeRack, session: Session) -> None:
    upid = session.create_cluster("lab", ["10.10.1.21"])
    task = session.finish(upid, "creation", rack.clock.patience(30))
    assert (task.status, task.exitstatus) == ("stopped", "OK")


@pytest.mark.parametrize(("exitstatus", "worked"), [
    ("OK", True), ("WARNINGS: 2", True), ("unexpected status", False), ("unable to create authkey", False),
])  # fmt: skip
def test_a_stopped_task_is_not_a_successful_one(
    rack: FakeRack, node: FakeNode, session: Session, exitstatus: str, worked: bool
) -> None:
    node.create_fails = exitstatus
    upid = session.create_cluster("lab", ["10.10.1.21"])
    assert session.task(upid).running
    if worked:
        assert session.finish(upid, "creation", rack.clock.patience(30)).exitstatus == exitstatus
    else:
        with pytest.raises(TaskFailed, match=f"creation failed: {exitstatus}") as caught:
            session.finish(upid, "creation", rack.clock.patience(30))
        assert caught.value.last_seen == f"clustercreate begins\nTASK ERROR: {exitstatus}"
        assert not caught.value.busy


def test_a_task_that_met_a_lock_says_so(rack: FakeRack, node: FakeNode, session: Session) -> None:
    node.locked_until = rack.clock.now() + 1
    with pytest.raises(TaskFailed) as caught:
        session.finish(session.create_cluster("lab", ["10.10.1.21"]), "creation", rack.clock.patience(30))
    assert LOCK in str(caught.value)
    assert caught.value.busy


def test_a_task_is_waited_for_through_a_restart_of_the_api(
    rack: FakeRack, node: FakeNode, session: Session
) -> None:
    node.create_fails = "OK"
    upid = session.create_cluster("lab", ["10.10.1.21"])
    node.down = True
    rack.later(1.0, lambda: setattr(node, "down", False))
    rack.later(1.0, node.tickets.clear)
    assert session.finish(upid, "creation", rack.clock.patience(30)).worked


def test_a_task_that_never_ends(rack: FakeRack, node: FakeNode, session: Session) -> None:
    upid = node._task("clusterjoin", "").upid
    with pytest.raises(GaveUp, match="join: not reached within 30 s") as caught:
        session.finish(upid, "join", rack.clock.patience(30))
    assert caught.value.last_seen == "task clusterjoin is running"


@pytest.mark.parametrize("status", [401, 500, 503, 595, 596])
def test_a_settling_api_may_answer_so(status: int) -> None:
    def probe() -> bool:
        raise ApiRefused("no", node="node1", status=status)

    assert settling(probe) == NotYet("node1: no")


def test_a_settling_api_may_not_answer_so() -> None:
    def refused() -> bool:
        raise ApiRefused("no", node="node1", status=403)

    def changed() -> bool:
        raise CertificateChanged("another", node="node1")

    with pytest.raises(ApiRefused):
        settling(refused)
    with pytest.raises(CertificateChanged):
        settling(changed)
    assert settling(changed, renewed=True) == NotYet("node1: another")


def test_the_fingerprint_is_read_on_the_node(rack: FakeRack, node: FakeNode) -> None:
    assert fingerprint_of(rack.remotes["node1"]) == node.fingerprint
    node.fingerprint = "rubbish"
    with pytest.raises(LabError, match="node1: openssl printed no fingerprint"):
        fingerprint_of(rack.remotes["node1"])

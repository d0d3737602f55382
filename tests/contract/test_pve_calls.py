"""Every call to the Proxmox API, as it goes over the wire, against Proxmox's own API schema.

The schema is the one that the package fakepve carries. What the source calls is read from its syntax
tree, so that a call that no test sends is a failure here, and not a gap.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakepve import schema

from provision import cluster, pve
from provision.inventory import Secret
from provision.pve import ApiRefused, Session
from tests.unit.pve_api import Call, FakeRack

VERBS = ("get", "post", "put", "delete", "set", "create")
ADDRESSES = {"node1": ["10.10.1.21", "10.10.2.21"], "node2": ["10.10.1.22", "10.10.2.22"]}
PASSWORD = Secret.known("a password")
# The calls of Ceph and of guests have tests of their own beside this one.
SOURCES = [Path(pve.__file__).with_name("session.py"), Path(cluster.__file__)]


def open_session(rack: FakeRack, name: str) -> Session:
    node, now = rack.nodes[name], rack.clock.now
    return Session(name, "127.0.0.1", PASSWORD, node.fingerprint, port=rack.ports[name], now=now)


@pytest.fixture(scope="module")
def rack() -> Iterator[FakeRack]:
    """A rack on which every method of a session was used, successfully."""
    with FakeRack(ADDRESSES).serving() as rack:
        for node in rack.nodes.values():
            node.password = PASSWORD.reveal()
        first, second = open_session(rack, "node1"), open_session(rack, "node2")
        use(rack, first, second)
        first.close()
        second.close()
        yield rack


def use(rack: FakeRack, first: Session, second: Session) -> None:
    upid = first.create_cluster("lab-cluster", ADDRESSES["node1"])
    first.finish(upid, "creation", rack.clock.patience(30))
    rack.clock.sleep(5)
    first.task_log(upid)
    first.version()
    first.status()
    first.config_nodes()
    second.join_cluster("10.10.1.21", first.fingerprint, PASSWORD, ADDRESSES["node2"])
    rack.clock.sleep(30)
    first.join_info()
    first.delete_node("node2")


def accepted(rack: FakeRack) -> list[Call]:
    return [call for call in rack.calls if call.status == 200]


def described(call: Call) -> tuple[Any, dict[str, Any]]:
    """The schema's path and description of a call's method."""
    match = schema.load().match(call.path)
    assert match is not None, f"{call.path} is no path of the Proxmox API"
    assert call.method in match.methods, f"{match.template} has no {call.method}"
    return match, match.methods[call.method]


def faults(call: Call) -> dict[str, str]:
    match, info = described(call)
    params = {**match.params, **call.params}
    _, errors = schema.validate(info.get("parameters"), params)
    return dict(errors)


def test_every_request_obeys_the_schema(rack: FakeRack) -> None:
    wrong = {f"{call.method} {call.path}": found for call in accepted(rack) if (found := faults(call))}
    assert wrong == {}


def test_everything_that_the_source_calls_was_sent(rack: FakeRack) -> None:
    sent = {(call.method, described(call)[0].template) for call in accepted(rack)}
    called = {call for source in SOURCES for call in calls_in(source)}
    assert len(called) >= 9, "the reader of the source finds what there is"
    assert {call for call in called if not any(same(call, other) for other in sent)} == set()
    assert ("POST", "/access/ticket") in sent, "the login, which is sent without proxmoxer"


def test_nothing_else_of_the_source_reaches_the_api(rack: FakeRack) -> None:
    """The login is the only request that is not made through proxmoxer's resources."""
    own = re.findall(r"base_url\}?(/[a-z/]+)", "".join(source.read_text() for source in SOURCES))
    assert own == ["/access/ticket"]


def test_links_are_in_the_schema_up_to_link7() -> None:
    links = {f"link{number}": f"10.10.{number}.1" for number in range(8)}
    assert faults(Call("node1", "POST", "/cluster/config", {"clustername": "lab", **links})) == {}
    wrong = {"clustername": "lab", "links": "10.10.1.1"}
    assert "links" in faults(Call("node1", "POST", "/cluster/config", wrong)), "the judge can say no"


def test_what_changes_a_cluster_is_for_root_alone(rack: FakeRack) -> None:
    """No permission entry in the schema: root@pam with a ticket, and no API token."""
    changes = [call for call in accepted(rack) if call.path.startswith("/cluster") and call.method != "GET"]
    assert len(changes) == 3
    assert not [call.path for call in changes if described(call)[1].get("permissions")]
    assert pve.USER == "root@pam"


def test_our_own_fake_answers_in_the_schemas_shapes(rack: FakeRack) -> None:
    """A client proved against answers of another shape would prove nothing."""
    session = open_session(rack, "node1")
    answers: dict[str, Any] = {
        "/version": session.api.version.get(),
        "/cluster/status": session.api.cluster.status.get(),
        "/cluster/config/nodes": session.api.cluster.config.nodes.get(),
        "/cluster/config/join": session.api.cluster.config.join.get(),
    }
    session.close()
    for path, answer in answers.items():
        returns = schema.load().match(path).methods["GET"]["returns"]
        assert list(misshapen(returns, answer, path)) == []


def test_our_own_fake_is_as_strict_as_the_schema(rack: FakeRack) -> None:
    session = open_session(rack, "node1")
    for params in ({"clustername": "lab", "lnk0": "10.10.1.1"}, {"link0": "10.10.1.1"}):
        with pytest.raises(ApiRefused, match="400 Parameter verification failed"):
            session.api.cluster.config.post(**params)
        assert faults(Call("node1", "POST", "/cluster/config", params))
    session.close()


def misshapen(shape: dict[str, Any], answer: object, place: str) -> Iterator[str]:
    """Where an answer is not as the schema describes it."""
    if shape.get("type") == "array":
        assert isinstance(answer, list), place
        for number, item in enumerate(answer):
            yield from misshapen(shape.get("items") or {}, item, f"{place}[{number}]")
    elif shape.get("properties"):
        assert isinstance(answer, dict), place
        _, errors = schema.validate(
            {**shape, "additionalProperties": shape.get("additionalProperties", 1)}, answer
        )
        yield from (f"{place}.{name}: {why}: {json.dumps(answer)}" for name, why in errors.items())


def calls_in(source: Path) -> set[tuple[str, str]]:
    """Method and path of every call through a proxmoxer resource; "*" stands for what a path is given."""
    helpers = {
        function.name: function.body[-1].value
        for function in ast.walk(ast.parse(source.read_text()))
        if isinstance(function, ast.FunctionDef) and isinstance(function.body[-1], ast.Return)
    }
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS:
            path = path_of(node.func.value, helpers)
            if path is not None:
                found.add((node.func.attr.upper(), path))
    return found


def path_of(node: ast.expr | None, helpers: dict[str, ast.expr | None]) -> str | None:
    """The path that a chain such as `self.api.nodes(name).status` leads to, None when it is no such chain."""
    if isinstance(node, ast.Attribute):
        if node.attr == "api":
            return ""
        before = path_of(node.value, helpers)
        return None if before is None else f"{before}/{node.attr}"
    if isinstance(node, ast.Call):
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in helpers
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "self"
        ):
            return path_of(helpers[node.func.attr], {})
        before = path_of(node.func, helpers)
        return None if before is None else f"{before}/{segment(node.args)}"
    return None


def segment(arguments: Sequence[ast.expr]) -> str:
    """What a chain was given for a part of the path: itself when it is written out, else "*"."""
    first = arguments[0] if arguments else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else "*"


def same(call: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether a call of the source is one of the schema's."""
    return call[0] == other[0] and call[1] == re.sub(r"\{\w+\}", "*", other[1])


def test_the_reader_of_the_source(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("def a(self): return self._b(1).log.get(start=0)\n"
                      "def _b(self, n): return self.api.nodes(n).tasks(n)\n"
                      "def c(session): session.api.access.users(1).delete(); {}.get(1)\n"
                      "def d(session, n): session.api.nodes(n)('aplinfo').get()\n")  # fmt: skip
    assert calls_in(source) == {
        ("GET", "/nodes/*/tasks/*/log"), ("DELETE", "/access/users/*"), ("GET", "/nodes/*/aplinfo"),
    }  # fmt: skip

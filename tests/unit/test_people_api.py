"""What each role may do on the people's socket, path by path, and what the dashboard shows and hides."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event as listening

from provision.boot_service import accounts as accounts_module
from provision.boot_service.accounts import Account, AccountList, Accounts, TooManyFailures, csrf_token
from provision.boot_service.current_run import read_run
from provision.boot_service.gate import COOKIE
from provision.boot_service.masked import STRUCK, masked
from provision.boot_service.operator_api import OperatorApi
from provision.boot_service.people_api import HEADERS, MOST_BODY, PeopleApi
from provision.boot_service.rack_state import PHASES, node_state, rack_state
from provision.boot_service.routes import API, PAGES, Role, Route
from provision.boot_service.service import Service
from provision.boot_service.store import Store
from provision.boot_service.timeline import picture, run_events
from provision.ledger import Event
from tests import dashboard_material as material
from tests.dashboard_material import PASSWORDS, TOKENS, Played, PlayedActions, everybody

NOW = 1_795_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class People:
    """The people's application over a busy rack, asked directly."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.rack = material.busy_rack(folder, NOW)
        self.service = Service(self.rack.store, clock=self.clock)
        self.actions = PlayedActions(self.service, {"node1": "on"})
        self.app = PeopleApi(self.service, self.actions).app()
        self.accounts = Accounts(self.rack.store)
        self.sessions: dict[str, str] = {}

    def session(self, who: str) -> str:
        if who not in self.sessions:
            session = self.accounts.log_in(who, PASSWORDS[who], "10.9.9.9", self.clock())
            assert session
            self.sessions[who] = session
        return self.sessions[who]

    def ask(
        self,
        method: str,
        path: str,
        *,
        app: FastAPI | None = None,
        headers: dict[str, str] | None = None,
        **how: Any,
    ) -> httpx.Response:
        return asyncio.run(_ask(app or self.app, method, path, headers or {}, how))

    def events(self, kind: str) -> list[Any]:
        return [event for event in self.rack.store.events() if event.kind == kind]


async def _ask(
    app: FastAPI, method: str, path: str, headers: dict[str, str], how: dict[str, Any]
) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="https://rack") as client:
        return await client.request(method, path, headers={"x-real-ip": "10.10.1.99"} | headers, **how)


@pytest.fixture(scope="module", autouse=True)
def cheap_hashes() -> Iterator[None]:
    with material.cheap_hashes():
        yield


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    people = People(tmp_path_factory.mktemp("people"))
    yield people
    people.rack.store.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[People]:
    people = People(tmp_path)
    yield people
    people.rack.store.close()


# Roles by routes

OPEN = [route for route in API if route.role <= Role.OPERATOR]
BODIES = {"power": {"how": "on"}, "boot_once": {"source": "disk"}, "permit_install": {"confirmed": "node1"}}
NOBODIES = ("nobody", "unknown token", "unknown session", "expired session", "removed account")
WHO: dict[str, Role] = dict.fromkeys(NOBODIES, Role.ANYONE) | {
    "vera's token": Role.VIEWER, "otto's token": Role.OPERATOR, "vera's session": Role.VIEWER, "otto's session": Role.OPERATOR,
    "otto's session without CSRF": Role.OPERATOR, "otto's session with vera's CSRF": Role.OPERATOR,
}  # fmt: skip


@pytest.fixture(scope="module")
def removed(people: People) -> str:
    """The session and token of somebody whose account is there no more."""
    gone = Account(
        name="gone", role="operator", password="password-of-gone", token="token-of-gone-0123456789"
    )
    people.accounts.put(AccountList(accounts=(*everybody().accounts, gone)), NOW)
    session = people.accounts.log_in("gone", "password-of-gone", "10.9.9.9", NOW)
    people.accounts.put(everybody(), NOW)
    assert session
    return session


def headers_of(who: str, people: People, removed: str) -> dict[str, str]:
    name = who.partition("'")[0]
    if who == "nobody":
        return {}
    if who.endswith("token"):
        return {"authorization": f"Bearer {TOKENS.get(name, 'no-such-token-0123456789')}"}
    session = {"unknown session": "no-such-session", "removed account": removed}.get(who) or people.session(
        name if name in PASSWORDS else "otto"
    )
    csrf = {
        "otto's session without CSRF": None,
        "otto's session with vera's CSRF": csrf_token(people.session("vera")),
    }.get(who, csrf_token(session))
    return {"cookie": f"{COOKIE}={session}"} | ({"x-csrf-token": csrf} if csrf else {})


@pytest.mark.parametrize("who", WHO)
def test_every_route_by_everybody(people: People, removed: str, who: str) -> None:
    headers = headers_of(who, people, removed)
    people.clock.now = NOW + (12 * 3600 + 1 if who == "expired session" else 0)
    changed = len(people.actions.done)
    wrong = []
    for route in [*OPEN, *PAGES]:
        if route.name in ("events", "logout"):
            continue
        status = people.ask(route.method, _path(route), headers=headers, **_body(route)).status_code
        if status not in _expected(route, who):
            wrong.append(f"{route.method} {route.path}: {status}")
    people.clock.now = NOW
    assert wrong == []
    may = WHO[who] is Role.OPERATOR and "CSRF" not in who
    assert (len(people.actions.done) > changed) is may


def _expected(route: Route, who: str) -> tuple[int, ...]:
    page, reads = route in PAGES, route.method == "GET"
    if who == "unknown token":
        return (401, 303)
    if route.role is Role.ANYONE:
        return (200, 303, 403, 422)
    if WHO[who] is Role.ANYONE:
        return (303,) if page else (401,)
    if not reads and "CSRF" in who:
        return (403,)
    if WHO[who] < route.role:
        return (403,)
    return (303,) if page and not reads else (200,)


def _path(route: Route) -> str:
    return route.path.format(node="node1", action="power", name="dashboard.css")


def _body(route: Route) -> dict[str, Any]:
    if route.method == "GET":
        return {}
    return {"json": BODIES.get(route.name, {})} if route in API else {"data": {"how": "on"}}


def test_what_only_the_harness_may_is_not_on_the_peoples_socket(people: People) -> None:
    headers = {"authorization": f"Bearer {TOKENS['otto']}"}
    for route in API:
        if route.role is Role.HARNESS:
            assert people.ask(route.method, route.path, headers=headers, json={}).status_code in (404, 405), (
                route
            )
    document = people.ask("GET", "/api/v1/openapi.json").json()
    published = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert published == {(route.method, route.path) for route in OPEN}
    assert document["paths"]["/api/v1/nodes/{node}/power"]["post"]["x-role"] == "operator"


def test_nothing_changes_by_get(people: People) -> None:
    assert all(route.method != "GET" for route in [*API, *PAGES] if route.name in (
        "power", "boot_once", "permit_install", "rescue", "cancel", "act", "logout", "put_run", "put_rack", "put_accounts", "grant", "revoke"))  # fmt: skip
    before = people.rack.store.last_seq()
    headers = {"authorization": f"Bearer {TOKENS['otto']}"}
    for route in [*OPEN, *PAGES]:
        if route.method == "GET" and route.name != "events":
            people.ask("GET", _path(route), headers=headers)
    assert people.rack.store.last_seq() == before


def test_every_answer_has_the_protecting_headers(people: People) -> None:
    headers = {"authorization": f"Bearer {TOKENS['vera']}"}
    for path in (
        "/",
        "/login",
        "/nodes/node1",
        "/nodes/nobody",
        "/nothing",
        "/api/v1/nodes",
        "/api/v1/nothing",
        "/static/htmx.min.js",
        "/audit",
    ):
        answer = people.ask("GET", path, headers=headers)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
        if not path.startswith("/static"):
            assert answer.headers["cache-control"] == "no-store", path
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_a_page_of_another_site_cannot_log_anyone_in(people: People) -> None:
    fields = {"name": "otto", "password": PASSWORDS["otto"]}
    answer = people.ask("POST", "/login", data=fields, headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    good = people.ask("POST", "/login", data=fields, headers={"sec-fetch-site": "same-origin"})
    assert good.headers["set-cookie"].startswith(f"{COOKIE}=")
    assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/"} <= set(good.headers["set-cookie"].split("; "))


def test_log_out_ends_the_session(fresh: People) -> None:
    headers = headers_of("otto's session", fresh, "")
    assert fresh.ask("POST", "/logout", headers=headers).status_code == 303
    assert fresh.ask("GET", "/api/v1/nodes", headers=headers).status_code == 401


def test_a_body_that_is_too_large_is_refused(people: People) -> None:
    headers = {"authorization": f"Bearer {TOKENS['otto']}", "content-type": "application/json"}
    for path in ("/api/v1/nodes/node1/power", "/nodes/node1/power"):
        kind = "application/x-www-form-urlencoded" if path.startswith("/nodes") else "application/json"
        answer = people.ask(
            "POST", path, headers=headers | {"content-type": kind}, content=b" " * (MOST_BODY + 1)
        )
        assert answer.status_code == 413, path


def test_a_token_that_is_nobodys_is_recorded_and_not_repeated(fresh: People) -> None:
    for _ in range(50):
        fresh.ask("GET", "/api/v1/nodes", headers={"authorization": "Bearer a-wrong-token-0123456789"})
    told = fresh.events("login-refused")
    assert 0 < len(told) <= 30
    assert told[0].facts["address"] == "10.10.1.99"
    assert "a-wrong-token" not in str(told)


def test_a_refused_attempt_is_in_the_audit_trail(fresh: People) -> None:
    fresh.ask(
        "POST",
        "/api/v1/nodes/node1/power",
        headers={"authorization": f"Bearer {TOKENS['vera']}"},
        json={"how": "off"},
    )
    event = fresh.events("action")[-1]
    assert (event.node, event.facts["who"], event.facts["outcome"]) == (
        "node1",
        "vera",
        "refused: needs the role operator",
    )
    told = fresh.ask("GET", "/api/v1/audit", headers={"authorization": f"Bearer {TOKENS['otto']}"}).json()
    assert told[0]["facts"]["who"] == "vera"


# Accounts


def test_accounts_are_put_once_and_for_all(fresh: People) -> None:
    assert not fresh.accounts.differ(everybody())
    assert not fresh.accounts.put(everybody(), NOW)
    session = fresh.session("otto")
    only_vera = AccountList(accounts=(everybody().accounts[0],))
    assert fresh.accounts.differ(only_vera)
    assert fresh.accounts.by_session(session, NOW), "to ask for the difference makes none"
    assert fresh.accounts.put(only_vera, NOW)
    assert fresh.accounts.by_session(session, NOW) is None
    assert fresh.accounts.by_token(TOKENS["otto"]) is None
    vera = fresh.session("vera")
    assert fresh.accounts.put(
        AccountList(accounts=(Account(name="vera", role="operator", password=PASSWORDS["vera"]),)), NOW
    )
    principal = fresh.accounts.by_session(vera, NOW)
    assert principal
    assert principal.role is Role.OPERATOR
    assert fresh.accounts.put(
        AccountList(accounts=(Account(name="vera", role="operator", password="another-password"),)), NOW
    )
    assert fresh.accounts.by_session(vera, NOW) is None, "a new password ends the sessions of the old one"


def test_no_secret_of_an_account_is_kept_or_shown(fresh: People) -> None:
    fresh.session("otto")
    fresh.accounts.log_in("otto", "a wrong password", "10.9.9.9", NOW)
    fresh.accounts.log_in("my password, typed into the wrong field", "x", "10.9.9.9", NOW)
    secrets = [
        *PASSWORDS.values(),
        *TOKENS.values(),
        *fresh.sessions.values(),
        "a wrong password",
        "typed into",
    ]
    with fresh.rack.store.engine.connect() as connection:
        dump = "\n".join(
            str(list(connection.exec_driver_sql(f"select * from {name}")))
            for name in ("accounts", "sessions", "login_failures", "events")
        )
    assert [secret for secret in secrets if secret in dump] == []
    assert "$argon2id$" in dump
    assert not any(secret in repr(everybody()) for secret in secrets)


def test_accounts_over_the_operator_socket(fresh: People) -> None:
    app = OperatorApi(fresh.service).app()
    body = {"accounts": [{"name": "anna", "role": "viewer", "password": "annas-password"}]}
    assert fresh.ask("PUT", "/api/v1/accounts", app=app, json=body).json() == {"changed": True}
    assert fresh.ask("PUT", "/api/v1/accounts", app=app, json=body).json() == {"changed": False}
    for wrong in ({"name": "anna", "role": "king", "password": "secret-word-1"}, {"name": "a/b", "role": "viewer", "password": "secret-word-1"},
                  {"name": "anna", "role": "viewer"}, {"name": "anna", "role": "viewer", "password": "secret"}):  # fmt: skip
        answer = fresh.ask("PUT", "/api/v1/accounts", app=app, json={"accounts": [wrong]})
        assert answer.status_code == 422
        assert "secret" not in answer.text


def test_failed_log_ins_are_limited_by_account_and_by_address(
    fresh: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        accounts_module,
        "_verified",
        lambda known, password: known is not None and password in PASSWORDS.values(),
    )
    for number in range(accounts_module.MOST_OF_ACCOUNT):
        assert fresh.accounts.log_in("otto", "wrong", f"10.9.9.{number}", NOW) is None
    with pytest.raises(TooManyFailures):
        fresh.accounts.log_in("otto", PASSWORDS["otto"], "10.9.8.1", NOW)
    assert fresh.accounts.log_in("vera", PASSWORDS["vera"], "10.9.8.1", NOW)
    assert (
        fresh.ask("POST", "/login", data={"name": "otto", "password": PASSWORDS["otto"]}).status_code == 429
    )
    fresh.clock.now += accounts_module.WINDOW_SECONDS + 1
    assert fresh.accounts.log_in("otto", PASSWORDS["otto"], "10.9.8.1", fresh.clock())
    for number in range(accounts_module.MOST_OF_ADDRESS):
        fresh.accounts.log_in(f"guess{number}", "wrong", "10.9.7.7", fresh.clock())
    with pytest.raises(TooManyFailures):
        fresh.accounts.log_in("vera", PASSWORDS["vera"], "10.9.7.7", fresh.clock())


def test_an_unknown_name_takes_as_long_as_a_wrong_password(
    fresh: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    monkeypatch.setattr(accounts_module, "_verified", lambda known, password: looked.append(password))
    fresh.accounts.log_in("otto", "wrong", "10.9.9.9", NOW)
    fresh.accounts.log_in("nobody", "wrong", "10.9.9.9", NOW)
    fresh.accounts.log_in("\0'; drop table accounts; --", "wrong", "10.9.9.9", NOW)
    assert len(looked) == 3


def test_a_flood_of_log_ins_does_not_take_the_threads(fresh: People, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, refused = 0, 0, threading.Event()
    real = fresh.accounts.log_in

    def counted(*args: Any) -> str | None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        refused.wait(5)
        at_once -= 1
        return real(*args)

    monkeypatch.setattr(Accounts, "log_in", lambda _self, *args: counted(*args))

    async def flood() -> list[int]:
        fields = {"data": {"name": "vera", "password": "wrong"}}
        asked = [asyncio.create_task(_ask(fresh.app, "POST", "/login", {}, fields)) for _ in range(40)]
        # While the first is looked at nobody else is: what ends before it was refused.
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        refused.set()
        return [answer.status_code for answer in await asyncio.gather(*asked)]

    statuses = asyncio.run(flood())
    assert most == 1
    assert set(statuses) == {403, 429}


# What is shown


def test_the_phases_are_those_of_the_harness() -> None:
    assert vars(import_module("provision.install"))["PHASES"] == PHASES


def test_the_rack_is_read_with_as_many_questions_for_64_nodes_as_for_one(tmp_path: Path) -> None:
    asked = []
    for count in (1, 64):
        folder = tmp_path / str(count)
        folder.mkdir()
        with closing(Played(folder, count, NOW, people=False).store) as store:
            questions: list[str] = []
            listening.listen(
                store.engine, "before_cursor_execute", lambda *args, into=questions: into.append(args[2])
            )
            assert len(rack_state(store, NOW)) == count
            asked.append(len([each for each in questions if "SELECT" in each]))
    assert asked[0] == asked[1] <= 6


def test_64_nodes_with_many_events_are_read_quickly(tmp_path: Path) -> None:
    rack = Played(tmp_path, 64, NOW, people=False)
    for name in rack.names:
        rack.grant(name, NOW)
    rack.store.append_all([_news(name, number) for number in range(60) for name in rack.names])
    began = time.process_time()
    states = rack_state(rack.store, NOW + 1)
    took = time.process_time() - began
    rack.store.close()
    assert all(state.last_word and state.last_word.text == "boot 59" for state in states)
    assert took < 0.2


def _news(node: str, number: int) -> Any:
    return Event(
        time=NOW + number / 1000,
        run=None,
        lab=material.LAB,
        step=None,
        node=node,
        kind="boot-script",
        text=f"boot {number}",
        facts={},
    )


def test_how_nodes_stand(people: People) -> None:
    states = {state.name: state for state in rack_state(people.rack.store, NOW)}
    assert {name: state.condition for name, state in states.items()} == {
        "node1": "registered", "node2": "installing", "node3": "late", "node4": "failed", "node5": "waiting", "node6": "idle",
    }  # fmt: skip
    assert (states["node2"].phase, states["node2"].awaits, states["node2"].deadline) == (
        "first-boot",
        "registered",
        300,
    )
    assert states["node1"].nonce == material.NONCE
    assert states["node6"].last_word is None
    later = node_state(people.rack.store, "node5", NOW + 4000)
    assert later
    assert later.condition == "expired"


def test_only_the_node_itself_breaks_its_silence(fresh: People) -> None:
    for kind in ("refused", "action", "permit-revoked"):
        fresh.rack.tell(NOW, "node2", kind)
    state = node_state(fresh.rack.store, "node2", NOW)
    assert state
    assert state.last_word
    assert state.last_word.kind == "first-boot"


def test_a_node_that_is_installed_again_begins_anew(fresh: People) -> None:
    fresh.rack.grant("node1", NOW, mark="2")
    state = node_state(fresh.rack.store, "node1", NOW + 1)
    assert state
    assert (state.condition, state.phase, state.nonce) == ("waiting", None, material.NONCE)
    fresh.rack.store.revoke(NOW + 2, node="node1")
    state = node_state(fresh.rack.store, "node1", NOW + 3)
    assert state
    assert (state.condition, state.permit and state.permit.state) == ("idle", "revoked")


def test_the_picture_of_the_run(people: People) -> None:
    drawn = picture(
        read_run(people.rack.store), run_events(people.rack.store, material.RUN), people.rack.names, NOW
    )
    assert drawn
    assert [span.name for span in drawn.rows[0].spans] == [
        "power",
        "network boot",
        "installing",
        "reboot to disk",
        "first boot",
        "ready",
    ]
    assert [band.name for band in drawn.bands] == ["server", "power", "install"]
    assert all(
        0 <= span.left <= 100 and span.left + span.width <= 100.2 for row in drawn.rows for span in row.spans
    )
    assert drawn.rows[3].failures
    assert drawn.rows[5].spans == []


def test_a_page_shows_the_answer_without_its_secrets(people: People) -> None:
    page = people.ask("GET", "/nodes/node5", headers={"authorization": f"Bearer {TOKENS['vera']}"}).text
    assert "root-password-hashed" in page
    assert material.SECRET_HASH not in page
    assert material.token("node5", "answer") not in page
    assert material.token("node5", "report") not in page
    assert "AAAAmiddleAAAA" not in page
    assert "admin@hall" in page
    assert "AB:CD:EF:01" in page
    spent = people.ask("GET", "/nodes/node1", headers={"authorization": f"Bearer {TOKENS['vera']}"}).text
    assert "and erased since" in spent


@given(st.sampled_from(['password = "{}"', '"password": "{}"', "password: {}", "root-password = '{}'", '{{"auth-token":"{}","x":1}}', "hashed_passwd: {}",
                        "https://10.0.0.1/answer/{}", "s=http://10.0.0.1/seed/{}/ x", "https://u:{}@10.0.0.1/"]),
       st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHJ0123456789_-", min_size=10, max_size=40))  # fmt: skip
def test_secrets_are_struck_out_by_their_place(form: str, secret: str) -> None:
    assert secret not in masked(form.format(secret))


@given(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=10, max_size=40),
    st.text(" =:\"'/<>\n", max_size=3),
)
def test_known_tokens_are_struck_out_wherever_they_stand(secret: str, around: str) -> None:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in masked(f"x {around}{secret}{around} y", {digest})


def test_what_is_no_secret_stays() -> None:
    text = 'fqdn = "n1.lab"\nkeyboard = "de"\nurl = "http://10.10.1.1/media/ubuntu-24.04/vmlinuz"\nserial: S3Z8NX0M100001\nnonce=5f2a9c1e7b3d48608c1f0e2d4b6a8c90\n'
    assert masked(text) == text
    assert masked('root-password-hashed = "$6$a$b"') == f"root-password-hashed = {STRUCK}"


def test_events_are_paged(fresh: People) -> None:
    fresh.rack.store.append_all([_news("node6", number) for number in range(120)])
    headers = {"authorization": f"Bearer {TOKENS['vera']}"}
    told = []
    before = ""
    while page := fresh.ask("GET", f"/api/v1/nodes/node6/events?limit=50{before}", headers=headers).json():
        told += [event["seq"] for event in page]
        before = f"&before={told[-1]}"
    assert told == sorted(told, reverse=True)
    assert len(told) == len(set(told)) == 120
    first = fresh.ask("GET", "/nodes/node6", headers=headers).text
    assert "boot 119" in first
    assert "boot 69" not in first
    assert f"?before={told[49]}" in first


def test_an_action_that_is_refused_says_why(people: People) -> None:
    headers = {"authorization": f"Bearer {TOKENS['otto']}"}
    answer = people.ask("POST", "/api/v1/nodes/node1/permit", headers=headers, json={"confirmed": "node2"})
    assert (answer.status_code, answer.json()) == (422, {"detail": "type node1 to mean it"})
    assert people.ask("POST", "/api/v1/nodes/node9/cancel", headers=headers).status_code == 404
    assert people.ask("POST", "/nodes/node1/explode", headers=headers).status_code == 404
    no_hands = PeopleApi(people.service).app()
    assert people.ask("POST", "/api/v1/nodes/node1/cancel", app=no_hands, headers=headers).status_code == 503


def test_power_is_asked_once_and_a_silent_console_is_not_known(fresh: People) -> None:
    headers = {"authorization": f"Bearer {TOKENS['vera']}"}
    asked = []
    real = fresh.actions.power_state

    async def counted(node: str) -> str | None:
        asked.append(node)
        return await real(node)

    fresh.actions.power_state = counted  # type: ignore[method-assign]
    app = PeopleApi(fresh.service, fresh.actions).app()
    for _ in range(3):
        assert fresh.ask("GET", "/api/v1/nodes/node1/power", app=app, headers=headers).json()["power"] == "on"
    assert asked == ["node1"]
    fresh.actions.powers["node2"] = "silent"
    assert fresh.ask("GET", "/api/v1/nodes/node2/power", app=app, headers=headers).json()["power"] is None
    fresh.clock.now += 31
    fresh.ask("GET", "/api/v1/nodes/node1/power", app=app, headers=headers)
    assert asked == ["node1", "node2", "node1"]


def test_metrics_are_those_of_the_rack(people: People) -> None:
    text = people.ask("GET", "/metrics", headers={"authorization": f"Bearer {TOKENS['vera']}"}).text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["rackproof_nodes", "failed"] == 1
    assert samples["rackproof_node_phase", "first-boot", "node2"] == 1
    assert samples["rackproof_node_silence_seconds", "node4"] == 30
    assert samples["rackproof_run_step", "install", "running"] == 1
    assert ("rackproof_node_silence_seconds", "node6") not in samples


def test_ready_only_with_a_store_and_a_rack(tmp_path: Path, fresh: People) -> None:
    assert fresh.ask("GET", "/readyz").json()["ready"]
    (tmp_path / "empty").mkdir()
    with closing(Store(tmp_path / "empty" / "boot.db")) as store:
        assert fresh.ask("GET", "/readyz", app=PeopleApi(Service(store)).app()).status_code == 503
    with fresh.rack.store.writing() as connection:
        connection.exec_driver_sql("alter table events rename to gone")
    assert fresh.ask("GET", "/readyz").status_code == 503
    assert "gone" not in fresh.ask("GET", "/", headers={"authorization": f"Bearer {TOKENS['vera']}"}).text


# The stream


def test_the_stream_tells_of_one_node_and_ends_with_the_session(fresh: People) -> None:
    async def listen(query: str, headers: dict[str, str]) -> tuple[int, list[Any]]:
        return await asyncio.wait_for(_stream(fresh, query, headers), 5)

    cookie = headers_of("vera's session", fresh, "")
    status, told = asyncio.run(listen("node=node1&after=3", cookie))
    assert status == 200
    assert {event["node"] for event in told} == {"node1"}
    assert all(event["seq"] > 3 for event in told)
    assert asyncio.run(listen("", {}))[0] == 401


async def _stream(people: People, query: str, headers: dict[str, str]) -> tuple[int, list[Any]]:
    """What the stream says until the session, which is taken away when the first event came, ends it."""
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "https", "path": "/api/v1/events", "raw_path": b"/api/v1/events",
             "query_string": query.encode(), "server": ("x", 443), "root_path": "", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}  # fmt: skip
    status, told = 0, []
    gone = asyncio.Event()

    async def receive() -> Any:
        if not gone.is_set():
            gone.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)
        for line in message.get("body", b"").decode().splitlines() if status == 200 else []:
            told.extend([json.loads(line[6:])] if line.startswith("data: ") else [])
        if told and people.clock.now == NOW:
            people.clock.now += 13 * 3600
            await people.service.work(people.rack.store.append, _news("node1", 1))

    people.service.clock = people.clock
    await people.app(scope, receive, send)
    return status, told

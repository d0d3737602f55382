"""Whoever is not the node, or comes too late, too often or with nonsense, gets nothing, whatever the path.

A matrix of every path that nodes use by every way of lying to it. For each: the right status, not one byte of
a secret in body, headers or events, an event that says so, the permits as they were; and afterwards the node
that asks as it should is served.
"""

from __future__ import annotations

import dataclasses
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle, repeat
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from provision.boot_service import identity, installer_api, store
from provision.boot_service.flood import FloodGate
from provision.boot_service.installer_api import MOST_BODY, MOST_REPORT
from provision.boot_service.messages import Grant, Rack
from provision.boot_service.node_http import MOST_HEADERS, MOST_PATH
from provision.boot_service.store import Store
from tests.unit.boot_bench import (
    ANSWER_TOKEN,
    MAC1,
    MAC2,
    PERMIT_SECONDS,
    REPORT_TOKEN,
    STANDING,
    Bench,
    Clock,
    Reply,
    rack,
    request_of,
    sha256,
)

HOME, ELSEWHERE = "10.10.1.21", "10.10.1.99"
ISO_TOKEN = "isos-of-the-hall:iso-secret-0001-canary"
HOOK_TOKEN = "hook-token-of-node1-0001"
NONCE = "nonce-canary-0001"
OTHER_TOKENS = {
    "old": ("answer-token-of-run-zero", "report-token-of-run-zero"),
    "node2": ("answer-token-of-node2-0001", "report-token-of-node2-0001"),
    "rescue": ("answer-token-of-rescue-01", "report-token-of-rescue-01"),
}
SECRETS = [
    "CANARY",
    "canary",
    ANSWER_TOKEN,
    REPORT_TOKEN,
    HOOK_TOKEN,
    *(token for pair in OTHER_TOKENS.values() for token in pair),
]
RESCUED = "ac:1f:6b:00:00:03"


def grant(now: float, **other: Any) -> Grant:
    carried = {
        "boot_script": "#!ipxe CANARY-BOOT",
        "grub_script": "CANARY-GRUB",
        "answer": "CANARY-ANSWER",
        "answer_json": '{"CANARY": "JSON"}',
        "first_boot": "#!/bin/sh\n: CANARY-FIRST",
    }
    own = {
        "run": "r1",
        "lab": "hall",
        "node": "node1",
        "answer_token_sha256": sha256(ANSWER_TOKEN),
        "report_token_sha256": sha256(REPORT_TOKEN),
        "hook_token_sha256": sha256(HOOK_TOKEN),
        "nonce": NONCE,
        "private_boot": True,
        "expires": now + PERMIT_SECONDS,
    }
    return Grant(**carried | own | other)


def tokens(which: str) -> dict[str, str]:
    answer, said = OTHER_TOKENS[which]
    return {"answer_token_sha256": sha256(answer), "report_token_sha256": sha256(said)}


def hall(*, classic: bool) -> Rack:
    nodes = [node.model_copy(update={"grub_script": "# standing"}) for node in rack().nodes]
    third = nodes[1].model_copy(update={"name": "node3", "macs": (RESCUED,)})
    third = third.model_validate(third.model_dump() | {"address": "10.10.1.23"})
    return Rack(
        lab="hall",
        nodes=(*nodes, third),
        iso_tokens_sha256=(sha256("another:iso"), sha256(ISO_TOKEN)),
        classic=classic,
    )


@dataclass(frozen=True)
class Ask:
    """One request, as the rightful node makes it."""

    name: str
    method: str
    path: str
    proof: str
    """What says who asks: lease, address, macs (leases and the MACs in the body, no token)."""
    state: str = "live"
    token: str | None = None
    bearer: str | None = None
    body: Any = None
    most: int = MOST_BODY
    system: str = "proxmox"
    classic: bool = False
    once: bool = False
    who: str = HOME
    headers: dict[str, str] = field(default_factory=dict)

    def make(self, bench: Bench, **change: Any) -> Reply:
        ask = replace(self, **change)
        headers = {"X-Real-IP": ask.who} | ask.headers
        headers |= {"Authorization": f"Bearer {ask.bearer}"} if ask.bearer else {}
        url = ask.path.replace("TOKEN", ask.token or "")
        if isinstance(ask.body, bytes):
            return bench.nodes.request(ask.method, url, content=ask.body, headers=headers)
        return bench.nodes.request(ask.method, url, json=ask.body, headers=headers)


ASKED = request_of(("00:00:00:00:00:09", MAC1.upper()))
PDM = "/api2/json/auto-install"
BOOT: dict[str, Any] = {"method": "GET", "proof": "lease"}
GIVEN: dict[str, Any] = {"state": "spent", "proof": "address"}
HOOK = {"machine-id": "m1", "token": HOOK_TOKEN}
REGISTERS = {"hostname": "node1", "ip": HOME, "type": "proxmox", "status": "post-install-complete"}
EVENT = {"name": "subiquity/Install", "event_type": "start", "description": "x", "timestamp": 1.0}
UBUNTU: dict[str, Any] = {"method": "GET", "proof": "lease", "token": ANSWER_TOKEN, "system": "ubuntu"}

ASKS = [
    Ask("boot", path=f"/boot/{MAC1}", **BOOT),
    Ask("boot.ipxe", path=f"/boot/{MAC1}.ipxe", **BOOT),
    Ask("grub", path=f"/grub/{MAC1}", **BOOT),
    Ask("grub.cfg", path=f"/grub/{MAC1}/grub.cfg", **BOOT),
    Ask("classic boot", path=f"/?mac={MAC1}", classic=True, **BOOT),
    Ask("classic grub", path=f"/index.php?mac={MAC1}&format=grub", classic=True, **BOOT),
    Ask("answer", "POST", "/answer/TOKEN", "lease", token=ANSWER_TOKEN, body=ASKED, once=True),
    Ask("iso", "POST", "/answer", "macs", bearer=ISO_TOKEN, body=ASKED, once=True),
    Ask("pdm", "POST", f"{PDM}/answer", "macs", bearer=ISO_TOKEN, body=ASKED, once=True),
    Ask("classic answer", "POST", "/api/answer.php", "macs", body=ASKED, once=True, classic=True),
    Ask("answer.php by ISO", "POST", "/api/answer.php", "macs", bearer=ISO_TOKEN, body=ASKED, once=True),
    Ask("user-data", path="/seed/TOKEN/user-data", once=True, **UBUNTU),
    Ask("meta-data", path="/seed/TOKEN/meta-data", **UBUNTU),
    Ask("vendor-data", path="/seed/TOKEN/vendor-data", **UBUNTU),
    Ask("network-config", path="/seed/TOKEN/network-config", **UBUNTU),
    Ask("first-boot", "GET", "/first-boot/TOKEN", token=REPORT_TOKEN, **GIVEN),
    Ask("installed", "POST", "/installed/TOKEN", token=REPORT_TOKEN, body=HOOK, **GIVEN),
    Ask("post-hook", "POST", f"{PDM}/installations/TOKEN/post-hook", token=REPORT_TOKEN, body=HOOK, **GIVEN),
    Ask("report", "POST", "/report/TOKEN", token=REPORT_TOKEN, body={"phase": "status"}, most=MOST_REPORT,
        **GIVEN),
    Ask("reporting", "POST", "/seed/TOKEN/reporting", token=REPORT_TOKEN, body=EVENT, system="ubuntu", **GIVEN),
    Ask("register", "POST", "/api/register-node.php", bearer=REPORT_TOKEN, body=REGISTERS, most=MOST_REPORT,
        **GIVEN),
    Ask("status", "POST", "/api/node-status.php", bearer=REPORT_TOKEN, body=REGISTERS, most=MOST_REPORT,
        **GIVEN),
    Ask("classic register", "POST", "/api/register-node.php", body=REGISTERS, most=MOST_REPORT, classic=True,
        **GIVEN),
    Ask("classic status", "POST", "/api/node-status.php", body=REGISTERS, most=MOST_REPORT, classic=True,
        **GIVEN),
]  # fmt: skip

Lie = Callable[[Ask, Bench], tuple[Reply, int]]
"""Tells a lie, and says what status it must get; None: the path knows nothing of what is lied about."""


def denied(ask: Ask, status: int) -> int:
    """Who has no token of the node's own is told 400, whatever it is."""
    return 400 if ask.proof == "macs" else status


def wrong_mac(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    if ask.proof == "address" or ask.system == "ubuntu":
        return None
    if ask.method == "GET":
        return ask.make(bench, path=ask.path.replace(MAC1, "de:ad:be:ef:00:01")), 404
    return ask.make(bench, body=request_of(("de:ad:be:ef:00:01",))), denied(ask, 403)


def mac_of_another_node(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    if ask.proof == "address" or ask.system == "ubuntu":
        return None
    if ask.method == "GET":
        return ask.make(bench, path=ask.path.replace(MAC1, MAC2)), 403
    return ask.make(bench, body=request_of((MAC2,))), denied(ask, 403)


def wrong_source(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    return ask.make(bench, who=ELSEWHERE), denied(ask, 403)


def no_source(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    return ask.make(bench, who="<script>"), denied(ask, 403)


def source_of_another_node(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    return ask.make(bench, who="10.10.1.22"), denied(ask, 403)


def no_lease(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return with_leases(ask, bench, {})


def lease_of_another_node(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return with_leases(ask, bench, {HOME: MAC2})


def lease_of_a_stranger(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return with_leases(ask, bench, {HOME: "de:ad:be:ef:00:01"})


def expired_lease(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return with_leases(ask, bench, {HOME: MAC1}, ends=bench.clock.now - 1)


def with_leases(
    ask: Ask, bench: Bench, leases: dict[str, str], ends: float | None = None
) -> tuple[Reply, int] | None:
    if ask.proof == "address":
        return None
    bench.hold(leases, ends)
    reply = ask.make(bench)
    bench.hold({HOME: MAC1, "10.10.1.22": MAC2})
    return reply, denied(ask, 403)


def unknown_token(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return with_token(ask, bench, "no-such-token-anywhere-0001", 404)


def token_of_another_node(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return with_token(ask, bench, OTHER_TOKENS["node2"][ask.proof == "address"], 403)


def token_of_another_run(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return with_token(ask, bench, OTHER_TOKENS["old"][ask.proof == "address"], 410)


def token_of_a_rescue(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return with_token(ask, bench, OTHER_TOKENS["rescue"][ask.proof == "address"], 403)


def token_of_the_other_kind(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return with_token(ask, bench, ANSWER_TOKEN if ask.proof == "address" else REPORT_TOKEN, 404)


def with_token(ask: Ask, bench: Bench, token: str, status: int) -> tuple[Reply, int] | None:
    if ask.token is not None:
        return ask.make(bench, token=token), status
    if ask.bearer == ISO_TOKEN:
        return ask.make(bench, bearer=token), 401
    if ask.bearer is not None or "/api/" in ask.path:
        # Whoever names a token is judged by it, in a classic rack too.
        return ask.make(bench, bearer=token), 401 if ask.proof == "macs" else status
    return None


def no_token(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    if ask.token is not None:
        return ask.make(bench, token=""), 404
    return (ask.make(bench, bearer=None), 401) if ask.bearer is not None else None


def half_a_token(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    known = ask.token or ask.bearer
    return with_token(ask, bench, known[:-1], 404) if known else None


def another_scheme(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    if ask.bearer is None:
        return None
    return ask.make(bench, bearer=None, headers={"Authorization": f"Basic {ask.bearer}"}), 401


def traversal(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    return ask.make(bench, path=ask.path.partition("?")[0] + "/../../etc/passwd"), 404


def encoded_traversal(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    head = ask.path.partition("?")[0].replace("TOKEN", "%2e%2e%2f%2e%2e%2fTOKEN")
    return ask.make(bench, path=head + "%2f..%2f%00%0a"), 404


def newline_in_path(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    return ask.make(bench, path=ask.path.partition("?")[0] + "%0aX-Injected:%20yes"), 404


def oversized_path(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    more = "&" if "?" in ask.path else "?"
    return ask.make(bench, path=f"{ask.path}{more}x={'x' * MOST_PATH}"), 414


def oversized_header(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    return ask.make(bench, headers={"X-Much": "x" * MOST_HEADERS}), 431


def oversized_body(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return (ask.make(bench, body=b" " * (ask.most + 1)), 413) if ask.body else None


def body_said_to_be_oversized(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    if not ask.body:
        return None
    reply = ask.make(bench, headers={"Content-Length": str(ask.most + 1)})
    assert bench.nodes.parts_read == 0
    return reply, 413


def malformed_json(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return (ask.make(bench, body=b'{"network_interfaces": ['), 400) if ask.body else None


def deep_json(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return (ask.make(bench, body=b'{"a":' * 20_000), 400) if ask.body else None


def no_object(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    return (ask.make(bench, body=b"[1]"), 400) if ask.body else None


def other_method(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    return ask.make(bench, method="GET" if ask.method == "POST" else "POST"), 405


def head(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    # GRUB on firmware that boots by HTTP looks first how large its script is.
    if ask.name == "grub":
        return None
    return ask.make(bench, method="HEAD"), 405


def made_up_method(ask: Ask, bench: Bench) -> tuple[Reply, int]:
    return ask.make(bench, method="PROPFIND" * 50), 405


def action_by_get(ask: Ask, bench: Bench) -> tuple[Reply, int] | None:
    if "?" not in ask.path:
        return None
    return ask.make(bench, path=f"{ask.path}&action=callback&status=DONE"), 403


LIES = [
    wrong_mac, mac_of_another_node, wrong_source, no_source, source_of_another_node, no_lease,
    lease_of_another_node, lease_of_a_stranger, expired_lease, unknown_token, token_of_another_node,
    token_of_another_run, token_of_a_rescue, token_of_the_other_kind, no_token, half_a_token, another_scheme,
    traversal, encoded_traversal, newline_in_path, oversized_path, oversized_header, oversized_body,
    body_said_to_be_oversized, malformed_json, deep_json, no_object, other_method, head, made_up_method,
    action_by_get,
]  # fmt: skip


@pytest.fixture(scope="module")
def halls(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool, str], Path]:
    """Stores with all permits, by system, kind of rack and state of node1's permit; each is copied for a test."""
    made = {}
    for system, classic, state in {(ask.system, ask.classic, ask.state) for ask in ASKS}:
        path = tmp_path_factory.mktemp("store") / "boot.db"
        made[system, classic, state] = path
        begin(path, system, classic=classic, state=state)
    return made


def begin(path: Path, system: str, *, classic: bool, state: str) -> None:
    kept, now = Store(path), Clock().now
    kept.put_rack(hall(classic=classic), now)
    kept.grant(grant(now, run="r0", system=system, **tokens("old")), now)
    kept.grant(grant(now, system=system), now)
    kept.grant(grant(now, node="node2", system=system, **tokens("node2")), now)
    rescue = grant(now, node="node3", purpose="rescue", answer=None, answer_json=None, **tokens("rescue"))
    kept.grant(rescue, now)
    for token in (ANSWER_TOKEN, OTHER_TOKENS["node2"][0]) if state == "spent" else ():
        permit = kept.permit_by_answer_token(token)
        assert permit is not None
        kept.spend(permit, now, as_json=True)
    kept.close()


@pytest.fixture
def scene(tmp_path: Path, halls: dict[tuple[str, bool, str], Path]) -> Iterator[Callable[[Ask], Bench]]:
    """A bench for a request, its node holding its lease."""
    made: list[Bench] = []

    def new(ask: Ask) -> Bench:
        path = Path(copy(halls[ask.system, ask.classic, ask.state], tmp_path / f"boot{len(made)}.db"))
        made.append(Bench(path, leases=tmp_path / "dnsmasq.leases"))
        made[-1].hold({HOME: MAC1, "10.10.1.22": MAC2})
        return made[-1]

    yield new
    for bench in made:
        bench.close()


def permits(bench: Bench) -> list[Any]:
    with bench.store.engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT * FROM permits ORDER BY id"))


def said(reply: Reply) -> str:
    return reply.content.decode() + json.dumps(reply.headers)


def told(bench: Bench, after: int) -> str:
    return "".join(
        json.dumps([event.text, event.facts, event.kind]) for event in bench.store.events(after=after)
    )


def no_secret(text: str) -> None:
    assert [secret for secret in SECRETS if secret in text] == []


def test_a_look_at_grubs_script_is_no_boot(scene: Callable[[Ask], Bench]) -> None:
    ask = next(ask for ask in ASKS if ask.name == "grub")
    bench = scene(ask)
    before, last = permits(bench), bench.store.last_seq()
    reply = ask.make(bench, method="HEAD")
    assert reply.status_code == 200
    assert int(reply.headers["content-length"]) == len(ask.make(bench).text)
    assert permits(bench) == before
    assert [event.kind for event in bench.store.events(after=last)] == ["boot-script"]


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.name)
def test_every_lie_is_refused_recorded_and_without_effect(ask: Ask, scene: Callable[[Ask], Bench]) -> None:
    bench = scene(ask)
    bench.service.refusals = FloodGate(each=1000, all_together=1000)
    before = permits(bench)
    told_any = 0
    for lie in LIES:
        last = bench.store.last_seq()
        outcome = lie(ask, bench)
        if outcome is None:
            continue
        reply, status = outcome
        told_any += 1
        assert (lie.__name__, reply.status_code) == (lie.__name__, status), reply.text
        no_secret(said(reply))
        assert reply.text.count("\n") == (status != 401)
        no_secret(told(bench, last))
        assert_recorded(bench, last, status)
        assert permits(bench) == before, lie.__name__
    assert told_any >= 15
    assert ask.make(bench).status_code == 200


def assert_recorded(bench: Bench, last: int, status: int) -> None:
    (event,) = bench.store.events(after=last)
    assert (event.kind, event.facts["status"]) == ("refused", status)
    assert event.facts["who"] in (HOME, ELSEWHERE, "10.10.1.22", "unknown")
    assert len(event.text) < 400
    assert event.text.isprintable()


@pytest.mark.parametrize("ask", [ask for ask in ASKS if ask.once], ids=lambda ask: ask.name)
def test_an_answer_is_given_once(ask: Ask, scene: Callable[[Ask], Bench]) -> None:
    bench = scene(ask)
    assert "CANARY" in ask.make(bench).text
    after = bench.store.last_seq()
    again = ask.make(bench)
    assert again.status_code == denied(ask, 410)
    no_secret(said(again) + told(bench, after))
    assert bench.last().facts["state"] == "spent"


def revoke(bench: Bench) -> None:
    bench.store.revoke(bench.clock.now, run="r1")


def expire(bench: Bench) -> None:
    bench.clock.now += PERMIT_SECONDS
    bench.hold({HOME: MAC1})


@pytest.mark.parametrize("end", [revoke, expire])
@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.name)
def test_a_permit_that_has_ended_gives_nothing(
    ask: Ask, end: Callable[[Bench], None], scene: Callable[[Ask], Bench]
) -> None:
    """A node whose permit has ended boots its disk; one that was installed in time may say so later."""
    bench = scene(ask)
    end(bench)
    before, after = permits(bench), bench.store.last_seq()
    reply = ask.make(bench)
    no_secret(said(reply) + told(bench, after))
    if ask.proof == "address" and end is expire and ask.name != "first-boot":
        assert reply.status_code == 200
        return
    assert permits(bench) == before
    if ask.token is None and ask.method == "GET":
        assert (reply.status_code, reply.text) in [(200, STANDING), (200, "# standing")]
        assert bench.last().text == "local disk"
        return
    gone = 403 if ask.classic and ask.proof == "address" else denied(ask, 410)
    assert (reply.status_code, bench.last().kind) == (gone, "refused")


@pytest.mark.parametrize("ask", [ask for ask in ASKS if ask.state == "spent"], ids=lambda ask: ask.name)
def test_nobody_reports_before_the_answer(ask: Ask, scene: Callable[[Ask], Bench]) -> None:
    bench = scene(replace(ASKS[0], system=ask.system, classic=ask.system != "ubuntu"))
    refused = ask.make(bench)
    assert refused.status_code == 403
    no_secret(said(refused))
    assert "was not handed out yet" in bench.last().text


@pytest.mark.parametrize(
    "body", [{"machine-id": "m1"}, HOOK | {"token": ""}, HOOK | {"token": ISO_TOKEN}, HOOK | {"token": 5}]
)
def test_a_webhook_without_the_token_of_the_answer_is_as_good_as_an_unknown_path(
    body: dict[str, Any], scene: Callable[[Ask], Bench]
) -> None:
    ask = next(ask for ask in ASKS if ask.name == "post-hook")
    bench = scene(ask)
    refused, unknown = ask.make(bench, body=body), ask.make(bench, token="x" * 24)
    assert (refused.status_code, refused.content) == (404, unknown.content)
    assert unknown.status_code == 404
    assert "the webhook's token is not that of node1" in bench.store.events()[-2].text
    no_secret(told(bench, 0))


def test_the_webhook_of_an_older_installer_needs_no_token(scene: Callable[[Ask], Bench]) -> None:
    ask = next(ask for ask in ASKS if ask.name == "installed")
    bench = scene(replace(ask, state="live"))
    permit = bench.store.permit_by_answer_token(ANSWER_TOKEN)
    assert permit is not None
    bench.store.spend(permit, bench.clock.now, as_json=False)
    assert ask.make(bench, body={"machine-id": "m1"}).status_code == 200


# What is answered where a rack is not a classic one


@pytest.mark.parametrize("ask", [ask for ask in ASKS if ask.classic], ids=lambda ask: ask.name)
def test_the_classic_paths_need_a_token_in_any_other_rack(ask: Ask, scene: Callable[[Ask], Bench]) -> None:
    bench = scene(replace(ask, classic=False))
    refused = ask.make(bench)
    assert refused.status_code == (404 if ask.method == "GET" else 401)
    no_secret(said(refused))


def test_a_classic_answer_needs_leases(scene: Callable[[Ask], Bench]) -> None:
    ask = next(ask for ask in ASKS if ask.name == "classic answer")
    bench = scene(ask)
    bench.service.leases = None
    assert ask.make(bench).status_code == 403


# Hostile words

HOSTILE = [
    "a\nb\rc",
    "x\x1b[31mred\x1b[0m",
    '"; rm -rf / #',
    "'$(reboot)`reboot`'",
    "${net0/mac} && sanboot",
    "<script>alert(1)</script>",
    '"""\n[global]\nroot-password = "x"',
    "- !!python/object/apply:os.system ['x']",
    "\ud800\udfff\ud800",
    "\x00\x7f\u202e\u2028\u2029",
    "é" * 5000,
    "{{ 7 * 7 }}{% raw %}",
]


def everywhere(words: Iterator[str], content: Any) -> Any:
    """The same content with these words in turn in the place of its texts, but for those that decide something."""
    if isinstance(content, dict):
        kept = ("mac", "version", "phase", "token", "event_type")
        return {key: item if key in kept else everywhere(words, item) for key, item in content.items()}
    if isinstance(content, list):
        return [everywhere(words, item) for item in content]
    return next(words) if isinstance(content, str) else content


def from_word(first: int) -> Iterator[str]:
    return cycle(HOSTILE[first:] + HOSTILE[:first])


WORDY_HOOK = HOOK | {
    "dmi": {"system": {"name": "n", "serial": "s"}},
    "cpu-info": {"model": "m"},
    "disks": [{"udev-properties": {"DEVNAME": "d", "ID_MODEL": "m"}}],
    "network-interfaces": [{"name": "n", "mac": MAC1, "address": "a"}],
    "ssh-public-host-keys": {"rsa": "ssh-rsa k"},
}


def clean(value: Any) -> bool:
    if isinstance(value, dict):
        return all(clean(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return all(map(clean, value))
    return not isinstance(value, str) or (value.isprintable() and len(value) <= 1000)


@pytest.mark.parametrize("first", range(0, len(HOSTILE), 4))
@pytest.mark.parametrize("ask", [ask for ask in ASKS if ask.body], ids=lambda ask: ask.name)
def test_hostile_words_are_kept_as_one_clean_line(
    ask: Ask, first: int, scene: Callable[[Ask], Bench]
) -> None:
    bench = scene(ask)
    body = everywhere(from_word(first), WORDY_HOOK if ask.body is HOOK else ask.body)
    reply = ask.make(bench, body=json.dumps(body).encode())
    assert reply.status_code == 200
    assert reply.text in ('{"CANARY": "JSON"}', "CANARY-ANSWER", "recorded\n") or "success" in reply.text
    event = bench.last()
    assert clean(event.facts), event.facts
    assert event.text.isprintable()
    assert len(event.text) <= 500
    assert len(json.dumps(dataclasses.asdict(event))) < 64 * 1024


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_words_in_a_refused_request_are_kept_clean(word: str, scene: Callable[[Ask], Bench]) -> None:
    ask = next(ask for ask in ASKS if ask.name == "answer")
    bench = scene(ask)
    body = everywhere(repeat(word), request_of(("de:ad:be:ef:00:01",)))
    assert ask.make(bench, body=json.dumps(body).encode()).status_code == 403
    assert clean(bench.last().facts)
    schema = json.dumps(ASKED | {"$schema": {"version": word}}).encode()
    refused = ask.make(bench, body=schema)
    assert (refused.status_code, refused.text.count("\n")) == (400, 1)
    assert clean(bench.last().facts)
    assert ask.make(bench).status_code == 200


# What stays in the store, and what a refusal costs


def test_no_token_and_no_secret_is_in_the_store_when_all_is_done(scene: Callable[[Ask], Bench]) -> None:
    """Every path is used and abused, with tokens wherever one can be put; then the files are searched."""
    used = [ask for ask in ASKS if ask.state == "live" and ask.system == "proxmox"]
    bench = scene(replace(ASKS[0], classic=True))
    known = (ANSWER_TOKEN, REPORT_TOKEN, HOOK_TOKEN, ISO_TOKEN)
    for token in known:
        bench.clock.now += 60
        for place in (
            "/x/",
            "/boot/",
            "/grub/",
            "//answer/",
            "/answer/x/",
            "/?mac=",
            "/index.php?format=",
            "/seed/",
        ):
            for method in ("GET", "POST", "BREW"):
                bench.nodes.request(method, place + token)
    for ask in used:
        shown = ask.token or ask.bearer or "n"
        dmi = {"system": {"name": shown, "serial": f"x{shown}y"}}
        ask.make(bench, body=ASKED | {"dmi": dmi} if ask.body else None)
    for ask in ASKS:
        if ask.state == "spent" and isinstance(ask.body, dict):
            words = {"text": REPORT_TOKEN, "log": f"a {REPORT_TOKEN}", "nonce": REPORT_TOKEN,
                     "fqdn": f"{HOOK_TOKEN}.{REPORT_TOKEN}", "details": {REPORT_TOKEN: [REPORT_TOKEN]},
                     "hostname": REPORT_TOKEN, "description": REPORT_TOKEN}  # fmt: skip
            ask.make(
                bench, body=ask.body | {key: word for key, word in words.items() if ask.bearer or ask.token}
            )
    bench.store.revoke(bench.clock.now, run="r1")
    bench.store.revoke(bench.clock.now, node="node1")
    bench.store.scrub(bench.clock.now)
    found = bench.bytes_on_disk()
    assert [token for token in known if token.encode() in found] == []
    assert b"CANARY" not in found
    assert {"answer", "installed", "registered", "status"} <= set(bench.kinds())


def test_refusals_without_a_token_cost_no_more_writes_than_the_gate_lets_through(
    scene: Callable[[Ask], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = scene(ASKS[0])
    written = bench.store.last_seq()
    for number in range(400):
        bench.nodes.post(f"/report/made-up-token-{number}", content=b"{}")
        assert bench.nodes.parts_read == 0
    assert bench.store.last_seq() - written == 30


def test_strangers_at_a_private_script_do_not_hide_what_a_token_holder_is_refused(
    scene: Callable[[Ask], Bench],
) -> None:
    bench = scene(ASKS[0])
    for _ in range(300):
        assert ASKS[0].make(bench, who=ELSEWHERE).status_code == 403
    assert bench.kinds().count("refused") == 30
    assert {event.run for event in bench.store.events() if event.kind == "refused"} == {"r1"}
    answer = next(ask for ask in ASKS if ask.name == "answer")
    assert answer.make(bench, who=ELSEWHERE).status_code == 403
    assert bench.kinds().count("refused") == 31


def test_an_oversized_body_is_not_read_to_its_end(scene: Callable[[Ask], Bench]) -> None:
    ask = next(ask for ask in ASKS if ask.name == "report")
    bench = scene(ask)
    chunks = (b"x" * 65536 for _ in range(1000))
    reply = bench.nodes.post(f"/report/{REPORT_TOKEN}", content=chunks, headers={"X-Real-IP": HOME})
    assert (reply.status_code, reply.headers["connection"]) == (413, "close")
    assert bench.nodes.parts_read == MOST_REPORT // 65536 + 1


@pytest.mark.parametrize(
    ("name", "change", "compared"),
    [
        ("answer", {}, 1),
        ("report", {}, 1),
        ("iso", {"bearer": "no:such"}, 2),
        ("iso", {}, 2),
        ("post-hook", {"body": HOOK | {"token": "wrong"}}, 2),
    ],
)
def test_every_token_is_compared_in_constant_time(
    name: str, change: dict[str, Any], compared: int, scene: Callable[[Ask], Bench],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    compared_with: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared_with.append((one, other))
        return one == other

    watched = type("watched", (), {"compare_digest": staticmethod(compare)})
    for module in (store, identity, installer_api):
        assert module.hmac is hmac
        monkeypatch.setattr(module, "hmac", watched)
    ask = next(ask for ask in ASKS if ask.name == name)
    ask.make(scene(ask), **change)
    assert len(compared_with) >= compared
    assert all(len(each) == 64 for pair in compared_with for each in pair)

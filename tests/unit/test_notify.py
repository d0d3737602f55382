"""A webhook hears of a run what it wants to hear, in its own shape; one that is deaf changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from provision.options import SHAPES as OFFERED
from provision.options import WHEN
from provision.run import STEPS
from reports.culprits import culprits
from reports.history import About, RunRow
from reports.notify import SHAPES, Ended, NotNotified, notify, wanted
from reports.story import Outcome, Story


class Hook:
    """A webhook on loopback: what it heard, and how it answers."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.status = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                hook.heard.append(json.loads(body))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/T00/secret-part"


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    thread = threading.Thread(target=hook.server.serve_forever)
    thread.start()
    yield hook
    hook.server.shutdown()
    thread.join()
    hook.server.server_close()


def run_row(name: str, verdict: str, began: float = 1.0) -> RunRow:
    return RunRow(name, "hall", "provision", began, 60.0, verdict, "0.1", "abc")


def ended(*said: str, about: About | None = None) -> Ended:
    story = Story("hall", STEPS, ["node1", "node2"])
    for number, text in enumerate(said, start=1):
        story.note(Outcome(f"mtu: mtu_of_bridge[node{number}-storage]", "install", "failed", 0.1, said=text))
    if not said:
        story.note(Outcome("dns: a", "server", "passed", 0.1))
    return Ended("run-9", "provision", story, "/out/run-9/index.html", culprits(story), about or About())


def test_what_is_offered_is_what_there_is() -> None:
    assert tuple(SHAPES) == OFFERED
    assert {when: wanted(ended(), when) for when in WHEN} == {"always": True, "bad": False, "change": True}


def test_json_names_culprits_and_since_when(hook: Hook) -> None:
    first = run_row("run-7", "NOT PROVED")
    notify(f"json:{hook.url}", ended("1500 is not 9000", about=About(first_bad={"f": first}, before=first)))
    (told,) = hook.heard
    assert (told["verdict"], told["since"], told["lab"], told["change"]) == (
        "NOT PROVED",
        "run-7",
        "hall",
        False,
    )
    assert [(each["where"], each["step"]) for each in told["culprits"]] == [(["node1"], "install")]
    assert told["report"] == "/out/run-9/index.html"


def test_slack_and_matrix_cannot_be_injected_into(hook: Hook) -> None:
    bad = ended("<!channel> & <script>alert(1)</script>")
    notify(f"slack:{hook.url}", bad)
    notify(f"matrix:{hook.url}", bad)
    slack, matrix = hook.heard
    assert "<" not in slack["text"]
    assert "NOT PROVED: lab hall" in slack["text"]
    assert "<script>" not in matrix["html"]
    assert matrix["html"].startswith("<strong>✗ NOT PROVED: lab hall")


def test_the_url_may_be_a_secret_and_is_never_shown(hook: Hook) -> None:
    notify("slack:env:HOOK", ended(), {"HOOK": hook.url + "\n"})
    assert hook.heard[0]["text"].startswith("✓ PROVED: lab hall")
    hook.status = 500
    with pytest.raises(NotNotified, match="the slack webhook was not told: it answers 500") as refused:
        notify("slack:env:HOOK", ended(), {"HOOK": hook.url})
    assert "secret-part" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/T00/secret-part", "file:///etc/passwd", "gopher://x"])
def test_one_that_cannot_be_told_says_so_without_its_url(url: str) -> None:
    with pytest.raises(NotNotified) as deaf:
        notify("json:env:HOOK", ended(), {"HOOK": url})
    assert "secret-part" not in str(deaf.value)
    assert "passwd" not in str(deaf.value)


@pytest.mark.parametrize(
    ("before", "first_bad", "bad", "change"),
    [
        (None, None, False, True),
        ("PROVED", None, False, False),
        ("NOT PROVED", None, False, True),
        ("PROVED", "run-9", True, True),
        ("NOT PROVED", "run-7", True, False),
        ("NOT PROVED", "run-9", True, True),
    ],
)
def test_a_change_is_another_verdict_or_a_new_failure(
    before: str | None, first_bad: str | None, bad: bool, change: bool
) -> None:
    about = About(
        before=run_row("run-8", before) if before else None,
        first_bad={"f": run_row(first_bad, "NOT PROVED")} if first_bad else {},
    )
    run = ended(*(["1500"] if bad else []), about=about)
    assert run.is_change == change
    assert wanted(run, "change") == change
    assert wanted(replace(run, about=About()), "bad") == bad

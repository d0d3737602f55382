"""Tells a webhook how a run ended: as Slack, as Matrix (hookshot), or as plain JSON."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from provision.errors import LabError
from provision.inventory import Secret
from reports.culprits import Culprit
from reports.history import About
from reports.story import Story

SECONDS = 15.0
MOST_CULPRITS = 5


class NotNotified(LabError):
    """The webhook could not be told; that changes nothing of the run."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended, as others are told of it; `page` is where its report lies."""

    run: str
    mode: str
    story: Story
    page: str
    culprits: Sequence[Culprit] = ()
    about: About = field(default_factory=About)

    @property
    def proved(self) -> bool:
        """Whether the lab was proved."""
        return self.story.verdict == "PROVED"

    @property
    def since(self) -> str:
        """The run since which one of its failures stands, "" for none or when nobody knows."""
        first = min(self.about.first_bad.values(), key=lambda run: run.began, default=None)
        return first.id if first and not self.proved else ""

    @property
    def is_change(self) -> bool:
        """Whether the last run was another verdict, or had not one of these failures."""
        before = self.about.before
        new = any(first.id == self.run for first in self.about.first_bad.values())
        return before is None or before.proved != self.proved or (not self.proved and new)

    @property
    def heading(self) -> str:
        """All of it in one line."""
        return f"{self.story.verdict}: lab {self.story.lab}, {self.story.closing_line()}"

    @property
    def lines(self) -> list[str]:
        """What is wrong, since when, and where to read on."""
        told = [_culprit(each) for each in self.culprits[:MOST_CULPRITS]]
        more = len(self.culprits) - len(told)
        told += [f"and {more} more"] if more > 0 else []
        told += [f"since run {self.since}"] if self.since not in ("", self.run) else []
        return [*told, f"report: {self.page}"]


def wanted(ended: Ended, when: str) -> bool:
    """Whether whoever asked to be told `when` (provision.options.WHEN) is to be told of this."""
    return {"always": True, "bad": not ended.proved, "change": ended.is_change}[when]


def notify(target: str, ended: Ended, env: Mapping[str, str] = os.environ) -> None:
    """POST to `SHAPE:URL`, where the URL may be a secret reference (env:NAME or file:PATH).

    Raises NotNotified, which never shows the URL: whoever knows it may write there.
    """
    shape, _, place = target.partition(":")
    try:
        answer = requests.post(
            _url(place, env), json=SHAPES[shape](ended), timeout=SECONDS, allow_redirects=False
        )
    except requests.RequestException as error:
        raise NotNotified(f"the {shape} webhook was not told: {type(error).__name__}") from None
    if not answer.ok or answer.is_redirect:
        raise NotNotified(f"the {shape} webhook was not told: it answers {answer.status_code}")


def _slack(ended: Ended) -> dict[str, Any]:
    # Slack reads &, < and > as markup (api.slack.com: formatting text), and nothing else as an escape.
    text = html.escape("\n".join([_sign(ended), *ended.lines]), quote=False)
    return {"text": text}


def _matrix(ended: Ended) -> dict[str, Any]:
    """As matrix-hookshot's generic webhooks take it."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in ended.lines)
    return {
        "text": "\n".join([_sign(ended), *ended.lines]),
        "html": f"<strong>{html.escape(_sign(ended))}</strong><ul>{items}</ul>",
    }


def _json(ended: Ended) -> dict[str, Any]:
    story = ended.story
    return {
        "run": ended.run,
        "lab": story.lab,
        "mode": ended.mode,
        "verdict": story.verdict,
        "seconds": round(story.seconds, 1),
        "checks": dict(story.counts),
        "change": ended.is_change,
        "since": ended.since or None,
        "culprits": [
            {
                "step": each.step,
                "where": each.where,
                "what": each.what,
                "likely": each.likely,
                "sort": each.sort,
            }
            for each in ended.culprits
        ],
        "report": ended.page,
    }  # fmt: skip


SHAPES: Mapping[str, Callable[[Ended], dict[str, Any]]] = {"slack": _slack, "matrix": _matrix, "json": _json}


def _url(place: str, env: Mapping[str, str]) -> str:
    url = place
    if place.startswith(("env:", "file:")):
        url = Secret.from_reference(place).reveal(env).strip()
    if not url.startswith(("https://", "http://")):
        raise NotNotified("the webhook was not told: what stands for its URL is none")
    return url


def _sign(ended: Ended) -> str:
    return f"{'✓' if ended.proved else '✗'} {ended.heading}"


def _culprit(culprit: Culprit) -> str:
    where = ", ".join(culprit.where)
    parts = [where, culprit.step, culprit.what]
    likely = f" (likely: {culprit.likely})" if culprit.likely else ""
    return " · ".join(part for part in parts if part) + likely

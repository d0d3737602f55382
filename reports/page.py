"""The page of a run: one HTML file that asks no other host, told from story, events, evidence and history."""

from __future__ import annotations

import base64
import functools
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

from provision.drift import told
from provision.errors import RackproofError
from provision.journal import Event, Evidence
from reports import timeline
from reports.changes import Changes
from reports.culprits import Culprit, culprits, nodes_in, subject_of
from reports.history import About
from reports.story import Outcome, Story, duration
from reports.terminal import alike

PARTS = Path(__file__).parent / "page"
SIGNS = {
    "done": "✓", "recalled": "✓", "checked": "✓", "passed": "✓", "PROVED": "✓",
    "failed": "✗", "error": "✗", "NOT PROVED": "✗",
    "running": "▸",
    "waiting": "\u2013", "not reached": "\u2013", "skipped": "\u2013", "NOTHING CHECKED": "\u2013",
}  # fmt: skip
ERRORS = {"error": "in error"}
TONES = {"✓": "good", "✗": "bad", "▸": "bad", "\u2013": "idle"}
MOMENTS = frozenset({"permitted", "installed", "registered", "first_boot"})
"""Facts that are seconds since the epoch."""
CARD_FACTS = {
    "power": {"model": "model", "serial": "serial", "boot_mode": "boots by"},
    "install": {"version": "Proxmox VE", "registered": "registered"},
    "cluster": {"nodeid": "node id"},
    "ceph": {"osds": "OSDs", "disks": "OSD disks"},
}
"""The facts that a node's card shows, of those that each step read back."""
MOST_FILES = 8


@dataclass(frozen=True)
class Material:
    """All that a page is told from; `environment` is what ran, `about` what the history says of it."""

    run: str
    mode: str
    story: Story
    events: Sequence[Event] = ()
    evidence: Sequence[Evidence] = ()
    addresses: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    environment: Sequence[tuple[str, str]] = ()
    about: About = field(default_factory=About)
    changes: Changes = field(default_factory=Changes)


@dataclass(frozen=True, slots=True)
class Link:
    """Where evidence lies, from the page's own folder."""

    href: str
    text: str


@dataclass(frozen=True, slots=True)
class Box:
    """A culprit with its evidence, as the first screen shows it."""

    culprit: Culprit
    links: list[Link]


@dataclass(frozen=True, slots=True)
class Card:
    """One node in the rack view."""

    number: int
    name: str
    phase: str
    tone: str
    said: str
    addresses: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    last: str
    wrong: list[str]
    changed: int


@dataclass(frozen=True, slots=True)
class Group:
    """The checks of one step, by subject."""

    step: str
    tone: str
    words: str
    subjects: dict[str, list[Outcome]]


class PageUnwritable(RackproofError):
    """The page of a run could not be made or written; everything else that a run leaves is there."""


def write_page(folder: Path, material: Material) -> Path:
    """Write index.html into a run's folder; raises PageUnwritable."""
    path = folder / "index.html"
    try:
        # What machines say may hold bytes that are no text.
        path.write_text(render(folder, material), encoding="utf-8", errors="replace")
    except (OSError, TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Facts have the shape that a machine gave them: one that the page cannot show costs the page alone.
        raise PageUnwritable(f"{path}: not written: {type(error).__name__}: {error}") from error
    return path


def render(folder: Path, material: Material) -> str:
    """The page as text; the folder is only looked into, for evidence to link to."""
    story = material.story
    found = culprits(story)
    style, script = _part("style.css"), _part("script.js")
    return _environment().get_template("index.html.j2").render(
        material=material, story=story, style=style, script=script,
        style_hash=_hash(style), script_hash=_hash(script),
        began=_moment(story.began), since=_since(material), usual=material.about.usual,
        nodes=list(story.nodes),
        boxes=_boxes(folder, story, found),
        timeline=timeline.draw(story, material.events, found, material.about.usual),
        legend=timeline,
        cards=_cards(material, found), failures=alike(story.bad),
        groups=[group for name in [*story.steps, ""] if (group := _group(story, name))],
        facts=_facts(material),
    )  # fmt: skip


@functools.cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(PARTS), undefined=StrictUndefined, autoescape=True,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"duration": duration, "subject": subject_of, "case": _case, "told": told}
    environment.globals |= {"signs": SIGNS, "tones": TONES, "errors": ERRORS}
    return environment


def _part(name: str) -> Markup:
    return Markup((PARTS / name).read_text(encoding="utf-8"))  # noqa: S704 (a file of our own)


def _boxes(folder: Path, story: Story, found: list[Culprit]) -> list[Box]:
    names = list(story.nodes)
    return [Box(each, _links(folder, each, names)) for each in _with_interruption(story, found)]


def _hash(text: str) -> str:
    """What the page's own policy lets in: this text and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _moment(seconds: float) -> str:
    return time.strftime("%-d %b %Y %H:%M UTC", time.gmtime(seconds))


def _since(material: Material) -> str:
    """Since when the run is bad, as far as the history knows."""
    about = material.about
    if material.story.verdict == "PROVED" or not about.first_bad:
        return ""
    first = min(about.first_bad.values(), key=lambda run: run.began)
    which = "this one" if first.id == material.run else f"{_moment(first.began)} ({first.id})"
    last = f"last proved {_moment(about.last_proved.began)}" if about.last_proved else "never proved before"
    return f"first bad run: {which}, {last}"


def _case(name: str) -> str:
    """What stands between the brackets of a test's name; all of a name without."""
    return name.partition("[")[2].removesuffix("]") or subject_of(name)


def _with_interruption(story: Story, found: list[Culprit]) -> list[Culprit]:
    if not story.interrupted:
        return found
    step = story.running.name if story.running else ""
    return [Culprit(step, [], "the run was interrupted before it was done", trouble=True), *found]


def _links(folder: Path, culprit: Culprit, nodes: Sequence[str]) -> list[Link]:
    places = culprit.where if len(culprit.where) <= 4 else []
    links = [Link("#failures", "the failure in full")] if culprit.outcomes else []
    links += [Link(f"#facts-{nodes.index(name) + 1}", f"facts of {name}") for name in places if name in nodes]
    files = [path for name in places for path in _files(folder / name)] + [folder / "events.jsonl"]
    known = (path.relative_to(folder).as_posix() for path in files if path.exists())
    return links + [Link(quote(name), name) for name in known]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())[:MOST_FILES] if folder.is_dir() else []


def _cards(material: Material, found: Iterable[Culprit]) -> list[Card]:
    known = list(found)
    return [_card(number, name, material, known) for number, name in enumerate(material.story.nodes, 1)]


def _card(number: int, name: str, material: Material, found: Iterable[Culprit]) -> Card:
    moved = timeline.reached(event for event in material.events if event.node == name)
    wrong = [f"{each.step}: {each.what}" for each in found if name in each.where]
    phase = timeline.GROUPS[moved[-1].kind] if moved else "not rebuilt in this run"
    # What was not reached is not proved, however well a node came up until then.
    well = "proved" if material.story.verdict == "PROVED" else "nothing wrong"
    tone = "bad" if wrong else "good" if _checked(material.story, name) else "idle"
    return Card(
        number, name, phase, tone,
        {"bad": "wrong", "good": well, "idle": "not checked"}[tone],
        list(material.addresses.get(name, {}).items()), _card_facts(name, material.evidence),
        _last_word(name, material.events), wrong, len(material.changes.counting.get(name, ())),
    )  # fmt: skip


def _checked(story: Story, name: str) -> bool:
    passed = (outcome for outcome in story.outcomes if outcome.result == "passed" and not outcome.acts)
    return any(f"[{name}" in outcome.name and name in nodes_in(outcome.name, [name]) for outcome in passed)


def _card_facts(name: str, evidence: Iterable[Evidence]) -> list[tuple[str, str]]:
    facts = {step.step: step.nodes.get(name, {}) for step in evidence}
    return [
        (words, _text(key, facts[step][key]))
        for step, wanted in CARD_FACTS.items()
        for key, words in wanted.items()
        if key in facts.get(step, {})
    ]


def _last_word(name: str, events: Iterable[Event]) -> str:
    said = [event for event in events if event.node == name and event.kind not in timeline.MINOR]
    return f"{said[-1].kind}: {said[-1].text}" if said else ""


def _group(story: Story, step: str) -> Group | None:
    outcomes = [outcome for outcome in story.outcomes if outcome.step == step and not outcome.acts]
    if not outcomes:
        return None
    subjects: dict[str, list[Outcome]] = {}
    # Of a subject what is bad comes first, then by name: the suite runs cases in an order of its own.
    for outcome in sorted(outcomes, key=lambda each: (not _is_bad(each), each.name)):
        subjects.setdefault(subject_of(outcome.name), []).append(outcome)
    counts = {word: sum(outcome.result == word for outcome in outcomes)
              for word in ("passed", "failed", "error", "skipped")}  # fmt: skip
    words = ", ".join(f"{count} {ERRORS.get(word, word)}" for word, count in counts.items() if count)
    tone = "bad" if counts["failed"] + counts["error"] else "good" if counts["passed"] else "idle"
    return Group(step or "other", tone, words, subjects)


def _is_bad(outcome: Outcome) -> bool:
    return outcome.result in ("failed", "error")


def _facts(material: Material) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """What each step read back from each node, in words."""
    return {
        node: {
            _origin(step, material.run): [(key.replace("_", " "), _text(key, value))
                                              for key, value in step.nodes[node].items()]
            for step in material.evidence if node in step.nodes
        }
        for node in material.story.nodes
    }  # fmt: skip


def _origin(step: Evidence, run: str) -> str:
    return step.step if step.run == run else f"{step.step} (run {step.run})"


def _text(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text('', each)}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_text("", each) for each in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "\u2013"}[value]
    if isinstance(value, int | float) and key in MOMENTS:
        return time.strftime("%-d %b %H:%M:%S UTC", time.gmtime(value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)

"""What differs between two readings of a machine's facts, by meaning: what counts, and what is only told.

Facts are by subject ("packages", "network"), then by name; a value is a text, a number, a truth value, None
(not known), a list, which is a set unless a rule says that its order counts, or again facts by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

Facts = Mapping[str, Any]
"""What is known of one subject, by name."""
Means = Literal["notice", "ordered", "about", "anew"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a fact is compared, when not as it stands; `subject` and `name` (joined by "/") as in fnmatch(3).

    notice: a difference is told and is no drift. ordered: a list in another order differs.
    about: numbers that differ by less than ABOUT are the same. anew: an install makes it anew, so that after
    one another value is what one expects; it is drift where nothing was installed.
    """

    subject: str
    name: str
    means: Means
    why: str


ABOUT = 0.02

RULES = (
    Rule("hardware", "memory", "about", "firmware and kernel keep another share of it in each version"),
    Rule("cluster", "config version", "notice", "it counts changes; what they changed is compared itself"),
    Rule("ceph", "pools/*/placement groups, autoscaled", "notice", "the autoscaler moves it"),
    Rule("network", "name servers", "ordered", "the first one is asked first"),
    Rule("network", "configuration/*", "ordered", "a later line may undo an earlier one"),
    Rule("firewall", "*", "ordered", "the first rule that fits decides"),
    Rule("keys", "host/*", "anew", "an installer makes them"),
    Rule("keys", "authorised/root root@*", "anew", "nodes make the keys by which they reach each other"),
    Rule("keys", "certificates/*", "anew", "a cluster makes them when it is formed"),
    Rule("storage", "mounts/*", "anew", "a file system has a UUID"),
    Rule("services", "instances", "anew", "an OSD's volume has a UUID"),
    Rule("ceph", "id", "anew", "each Ceph cluster has one"),
    Rule("templates", "*/smbios1", "anew", "each guest has a UUID"),
    Rule("templates", "*/net[0-9]*", "anew", "a guest is given a MAC"),
)
"""Every fact that no rule names counts as it stands, and a list of them as a set."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that is another: its `name`, before and after in words, None where there was none.

    A `notice` is no drift. What is `anew` is what an install has made anew.
    """

    machine: str
    subject: str
    name: str
    before: str | None
    after: str | None
    notice: bool = False
    anew: bool = False

    def __str__(self) -> str:
        return f"{self.machine} {self.subject}: {self.name}: {told(self.before)} → {told(self.after)}"


def compared(machine: str, subject: str, before: Facts, after: Facts) -> list[Difference]:
    """The differences in one subject, in the order of their names."""
    found = ((path, old, new, _means(subject, path)) for path, old, new in _apart((), before, after))
    return [
        Difference(
            machine, subject, " ".join(path), _words(old), _words(new),
            notice="notice" in means, anew="anew" in means and ABSENT not in (old, new),
        )
        for path, old, new, means in found
        if not _same(means, old, new)
    ]  # fmt: skip


def told(value: str | None) -> str:
    """A side of a difference, for people."""
    return "absent" if value is None else value or "empty"


class _Absent:
    """Stands where one side has no such fact: None is a fact that is not known."""


ABSENT = _Absent()


def _apart(path: tuple[str, ...], before: Any, after: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """The places to compare: what only one side has is one place, however much there is in it."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        yield path, before, after
        return
    for name in sorted({*before, *after}):
        yield from _apart((*path, name), before.get(name, ABSENT), after.get(name, ABSENT))


def _means(subject: str, path: Sequence[str]) -> set[Means]:
    # A name may have a slash of its own, as a path or a network has.
    name = "/".join(path)
    return {rule.means for rule in RULES if rule.subject == subject and fnmatchcase(name, rule.name)}


def _same(means: set[Means], before: Any, after: Any) -> bool:
    if isinstance(before, list) and isinstance(after, list) and "ordered" not in means:
        return sorted(map(_word, before)) == sorted(map(_word, after))
    if "about" in means and _are_numbers(before, after):
        return bool(abs(before - after) <= ABOUT * max(abs(before), abs(after)))
    return before is after or (ABSENT not in (before, after) and _words(before) == _words(after))


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _words(value: Any) -> str | None:
    return None if value is ABSENT else _word(value)


def _word(value: Any) -> str:
    """A fact in words, the same for the same fact however it was written."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_word(each)}" for name, each in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(_word, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not known"}[value]
    return str(value)

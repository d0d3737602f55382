"""Facts are compared by meaning: what was only written otherwise is the same, anything that counts is a difference."""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.drift import ABOUT, RULES, compared

names = st.text("abcdefgh ./", min_size=1, max_size=6)
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
values = st.recursive(
    scalars | st.lists(st.text("xyz", max_size=3), max_size=4),
    lambda inner: st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
facts = st.dictionaries(names, values, min_size=1, max_size=6)
PLANTED = "planted by a test"


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(name, shuffled(each, chance)) for name, each in value.items()]
        chance.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return chance.sample(value, len(value))
    return value


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [path]
    return [leaf for name, each in value.items() for leaf in leaves(each, (*path, name))]


def place(facts: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path[:-1]:
        facts = facts[name]
    return facts


@given(facts, st.randoms())
def test_the_same_facts_in_another_order_are_no_drift(facts: dict[str, Any], chance: random.Random) -> None:
    assert compared("node1", "packages", facts, shuffled(facts, chance)) == []


@given(facts, st.data(), st.randoms())
def test_a_planted_change_is_exactly_that_difference(
    facts: dict[str, Any], data: st.DataObject, chance: random.Random
) -> None:
    whole = {"there": 1, **facts}
    path = data.draw(st.sampled_from(leaves(whole)))
    changed = deepcopy(whole)
    place(changed, path)[path[-1]] = PLANTED
    (difference,) = compared("node1", "packages", whole, shuffled(changed, chance))
    assert (difference.machine, difference.subject, difference.name) == ("node1", "packages", " ".join(path))
    assert difference.after == PLANTED != difference.before
    assert not difference.notice


@given(facts, st.data())
def test_what_appears_and_what_is_gone_is_one_difference(facts: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(facts)))
    less = {key: value for key, value in facts.items() if key != name}
    (gone,) = compared("node1", "packages", facts, less)
    (new,) = compared("node1", "packages", less, facts)
    assert (gone.name, gone.after) == (name, None) == (new.name, new.before)
    assert gone.before == new.after is not None


@given(facts)
def test_a_difference_can_be_read(facts: dict[str, Any]) -> None:
    for difference in compared("node1", "packages", {}, facts):
        assert str(difference).startswith("node1 packages: ")
        assert " absent → " in str(difference)


@pytest.mark.parametrize(
    ("subject", "before", "after", "drifts"),
    [
        ("network", {"name servers": ["a", "b"]}, {"name servers": ["b", "a"]}, True),
        ("network", {"search": ["a", "b"]}, {"search": ["b", "a"]}, False),
        ("network", {"configuration": {"/etc/network/interfaces": ["1", "2"]}},
         {"configuration": {"/etc/network/interfaces": ["2", "1"]}}, True),
        ("firewall", {"cluster.fw RULES": ["IN DROP", "IN ACCEPT"]}, {"cluster.fw RULES": ["IN ACCEPT", "IN DROP"]}, True),
        ("hardware", {"memory": 10**11}, {"memory": int(10**11 * (1 - ABOUT / 2))}, False),
        ("hardware", {"memory": 10**11}, {"memory": int(10**11 * (1 - ABOUT * 2))}, True),
        ("hardware", {"processors": 100}, {"processors": 101}, True),
        ("firmware", {"BMC": None}, {"BMC": "1.2"}, True),
        ("firmware", {"BMC": None}, {"BMC": None}, False),
    ],
)  # fmt: skip
def test_rules(subject: str, before: dict[str, Any], after: dict[str, Any], drifts: bool) -> None:
    assert bool(compared("node1", subject, before, after)) is drifts


@pytest.mark.parametrize(
    ("subject", "before", "after"),
    [
        ("cluster", {"config version": "4"}, {"config version": "5"}),
        ("ceph", {"pools": {"rbd": {"placement groups, autoscaled": 32}}},
         {"pools": {"rbd": {"placement groups, autoscaled": 64}}}),
    ],
)  # fmt: skip
def test_a_notice_is_no_drift(subject: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    (difference,) = compared("cluster", subject, before, after)
    assert difference.notice


def test_what_an_install_makes_anew_is_told_apart_and_is_drift() -> None:
    (changed,) = compared(
        "node1", "keys", {"host": {"ssh-rsa": "SHA256:a"}}, {"host": {"ssh-rsa": "SHA256:b"}}
    )
    (new,) = compared("node1", "keys", {"authorised": {}}, {"authorised": {"root root@node9": ["SHA256:b"]}})
    assert changed.anew
    assert not changed.notice
    assert not new.anew, "a key that nobody had is not one that was made anew"


def test_every_rule_says_why() -> None:
    assert all(rule.why for rule in RULES)

"""All that is wrong with an answer: its form, its keys, the kinds of its values, and every rule on them.

Sources: those of `answer_tables` and `answer_values`, and proxmox-auto-install-assistant/src/main.rs of
pve-installer 9.2.7 for what `validate-answer` makes of it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from provision.answer_tables import FREE, OLD_NAMES, SINCE, Tables, keys_at
from provision.answer_values import RULES, Body, Fault
from provision.inventory.words import did_you_mean

Release = tuple[int, int]
NEWEST: Release = (9, 2)

TAGS = {("network", "from-dhcp"), ("network", "from-answer"), ("fqdn", "text"), ("fqdn", "table")}
"""What pydantic puts into a place to say which kind it took, behind the key."""


def installer_refuses(faults: Iterable[Fault]) -> bool:
    """Whether the installer stops at this answer."""
    return any(fault.weight == "refused" for fault in faults)


def tool_refuses(faults: Iterable[Fault]) -> bool:
    """Whether `validate-answer` says that it found issues: it minds deprecated names, and knows no traps."""
    return any(fault.weight in ("refused", "deprecated") for fault in faults)


def faults_of_toml(text: str | bytes, release: Release = NEWEST) -> list[Fault]:
    """All that is wrong with an answer in TOML, for an installer of this release."""
    try:
        given = tomllib.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        return [Fault("", f"is not TOML: {error}")]
    return faults_of(given, release)


def faults_of_json(text: str | bytes, release: Release = NEWEST) -> list[Fault]:
    """All that is wrong with an answer in JSON, which installers take from 9.2 on."""
    try:
        given = json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        return [Fault("", f"is not JSON: {error}")]
    early = [Fault("", "JSON is for installers from 9.2 on")] if release < (9, 2) else []
    return early + faults_of(given, release)


def faults_of(given: object, release: Release = NEWEST) -> list[Fault]:
    """All that is wrong with an answer that has been parsed."""
    if not isinstance(given, dict):
        return [Fault("", "must be tables such as [global]")]
    renamed, faults = _with_new_names(given)
    faults += _misshapen(renamed)
    told = {fault.place for fault in faults if fault.weight == "refused"}
    ruled = [*(fault for rule in RULES for fault in rule(renamed)), *_too_new(renamed, release)]
    # What is of the wrong kind, or missing, is told once.
    return faults + [fault for fault in ruled if fault.place not in told]


def _without_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"duplicate field `{twice[0]}`")
    return dict(pairs)


# Names and kinds


def _with_new_names(given: Body) -> tuple[dict[str, Any], list[Fault]]:
    """The tables with today's names alone, and what was wrong with the names."""
    faults: list[Fault] = []

    def renamed(place: str, body: object) -> object:
        if not isinstance(body, dict) or place in FREE:
            return body
        table: dict[str, Any] = {}
        for key, value in body.items():
            new = key.replace("_", "-") if key in OLD_NAMES.get(place, ()) else key
            where = f"{place}.{key}".lstrip(".")
            if new != key:
                faults.append(Fault(where, f"is the old name of {new}", "deprecated"))
            if new in table:
                faults.append(Fault(where, f"is given as {new}, too"))
            table[new] = renamed(f"{place}.{new}".lstrip("."), value)
        return table

    tables = renamed("", given)
    assert isinstance(tables, dict), "a table is renamed to a table"
    return tables, faults


def _misshapen(tables: Body) -> list[Fault]:
    try:
        Tables.model_validate(tables)
    except ValidationError as error:
        return [_worded(detail) for detail in error.errors(include_url=False, include_context=True)]
    return []


def _worded(detail: ErrorDetails) -> Fault:
    place = _place(detail["loc"])
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden":
        parent, _, key = place.rpartition(".")
        known = [] if "from-dhcp" in detail["loc"] else keys_at(parent)
        return Fault(place, f"is an unknown key{did_you_mean(key, known)}")
    if kind == "missing":
        return Fault(place, "is missing")
    if kind.startswith("union_tag"):
        return Fault(f"{place}.source", "must be 'from-dhcp' or 'from-answer'")
    return Fault(place, message.replace("Input should", "must", 1).replace("valid dictionary", "table"))


def _place(loc: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in loc if part != "[key]"]
    kept = [part for at, part in enumerate(parts) if at == 0 or (parts[at - 1], part) not in TAGS]
    return ".".join(kept)


def _too_new(tables: Body, release: Release) -> Iterator[Fault]:
    for place, since in SINCE.items():
        table, _, key = place.partition(".")
        body = tables.get(table)
        if release < since and isinstance(body, dict) and key in body:
            yield Fault(place, f"is for installers from {since[0]}.{since[1]} on; older ones refuse it")

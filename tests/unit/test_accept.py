"""The Accept header decides between JSON and TOML as RFC 9110 has it, and TOML wins when in doubt."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provision.boot_service.accept import prefers_json

A_HANG = 60
"""Seconds: what takes longer looks at every way to read its text."""


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("", False),
        ("*/*", False),
        ("application/*", False),
        ("text/plain", False),
        ("application/toml", False),
        ("application/json", True),
        ("application/json, application/toml;q=0.5", True),  # the installer of 9.2
        ("application/json,application/toml", False),
        ("application/json;q=0.5, application/toml;q=0.6", False),
        ("application/toml;q=0, */*;q=0.1", True),
        ("application/json;q=0, */*", False),
        ("*/*;q=0.9, application/toml;q=0.1", True),
        ("application/*;q=0.9, application/toml", False),
        ("APPLICATION/JSON;Q=1", True),
        ("application/json ; q=0.501 ,application/toml; q=0.5", True),
        ("application/json;charset=utf-8;q=0.4, application/toml;q=0.5", False),
        ('application/json;x="a,b;q=0\\"";q=1, application/toml;q=0.5', True),
        ("application/json;q=2", False),
        ("application/json;q=0.5000", False),
        ("application/json;q=", False),
        ("application/json;q=nan", False),
        ("application/json;q=-1, nonsense, application/toml;q=0.1", False),
        (",, ;;, application/json", True),
        ("application/jsonx", False),
        ("xapplication/json", False),
        ("*/json", False),
        ('"application/json', False),
        ("application/json;q=0.1,application/json;q=0.9,application/toml;q=0.5", True),
    ],
)
def test_json_is_given_to_those_who_want_it_more(accept: str, json: bool) -> None:
    assert prefers_json(accept) is json


_QUALITY = st.integers(0, 1000)
_TYPES = st.dictionaries(
    st.sampled_from(["application/json", "application/toml", "application/*", "*/*", "text/html"]), _QUALITY
)


@given(_TYPES, st.randoms())
def test_the_most_exact_range_counts_in_any_order_and_any_spelling(
    types: dict[str, int], chance: object
) -> None:
    names = list(types)
    chance.shuffle(names)  # type: ignore[attr-defined]
    header = " ,".join(f"{name.upper()} ;\tq={types[name] / 1000:.3f}" for name in names)

    def wanted(form: str) -> int:
        places = (f"application/{form}", "application/*", "*/*")
        return next((types[place] for place in places if place in types), 0)

    assert prefers_json(header) is (wanted("json") > wanted("toml"))


@given(st.text())
@example('"' * 1000)
@example("a/b;" + " ;" * 5000 + "x")
def test_no_header_is_an_error(header: str) -> None:
    assert prefers_json(header) in (True, False)


def test_a_hostile_header_takes_no_time() -> None:
    began = time.monotonic()
    for header in ("a/b" + ";  " * 5000 + "x", '"\\' * 8000, "," * 16000, "a/b;q=" + "0." * 8000):
        prefers_json(header)
    assert time.monotonic() - began < A_HANG

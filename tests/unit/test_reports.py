"""Whatever a node sends is read as facts of bounded, printable text without the token, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.boot_service.reports import (
    MOST_LOG,
    PHASES,
    Malformed,
    asked,
    classic_report,
    clean,
    installed,
    report,
    subiquity_event,
)

TOKEN = "token-of-the-node-0001"
KEYS = [
    "$schema", "version", "product", "fullname", "iso", "release", "dmi", "system", "name", "serial",
    "network_interfaces", "network-interfaces", "mac", "link", "disks", "udev-properties", "ID_MODEL", "token",
    "cpu-info", "model", "ssh-public-host-keys", "rsa", "machine-id", "phase", "text", "nonce", "log", "event_type",
    "result", "description", "hostname", "ip", "status", "details", "address", "boot-info", "secureboot",
]  # fmt: skip
WORDS = [
    TOKEN,
    f"a{TOKEN}b",
    "ac:1f:6b:00:00:01",
    "1.0",
    "failed",
    "status",
    "registered",
    "start",
    "ssh-rsa x",
]

_texts = st.text() | st.sampled_from(WORDS) | st.sampled_from(["\ud800", "\x1b[31m\n", "x" * 70_000])
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
_objects = st.dictionaries(st.sampled_from(KEYS), _values, max_size=12)

READERS: dict[str, Callable[[bytes], Any]] = {
    "asked": lambda body: asked(body, TOKEN).facts,
    "installed": lambda body: installed(body, TOKEN).facts,
    "report": lambda body: report(body, TOKEN),
    "subiquity": lambda body: subiquity_event(body, TOKEN),
    "register": lambda body: classic_report(body, TOKEN, registers=True),
    "status": lambda body: classic_report(body, TOKEN, registers=False),
}


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


@settings(max_examples=60, deadline=None)
@given(_objects)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_any_object_is_read_or_refused(reader: Callable[[bytes], Any], said: dict[str, Any]) -> None:
    said |= {
        key: value
        for key, value in (("event_type", "start"), ("hostname", "n"), ("ip", "i"))
        if key not in said
    }
    body = json.dumps(said).encode()
    try:
        facts = reader(body)
    except Malformed as error:
        assert "\n" not in str(error)
        assert TOKEN not in str(error)
        return
    for text in texts(facts):
        assert text.replace("\n", "").replace("\t", "").isprintable()
        assert len(text.encode()) <= MOST_LOG + 4
        assert TOKEN not in text
    json.dumps(facts, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_any_bytes_are_read_or_refused(reader: Callable[[bytes], Any], body: bytes) -> None:
    try:
        reader(body)
    except Malformed as error:
        assert "\n" not in str(error)


@given(st.text(), st.integers(1, 300))
def test_clean_text_is_short_and_printable(text: str, most: int) -> None:
    said = clean(text, most)
    assert len(said) <= most
    assert said.isprintable()
    if text.isprintable() and text == text.strip() and len(text) <= most:
        assert said == text


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_is_reported(phase: str) -> None:
    body = json.dumps({"phase": phase, "text": "t", "nonce": "n", "log": "l\n"}).encode()
    assert report(body, TOKEN) == (phase, "t", {"nonce": "n", "log": "l\n"})

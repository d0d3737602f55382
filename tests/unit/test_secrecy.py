"""No secret stays in what a run has saved, however it is written there."""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.secrecy import STRUCK, Leak, forms_of, strike_out

SECRET = "pa\"ss'w<o>r&d /+ü7"
NAME = "env:ROOT_PASSWORD"


@pytest.mark.parametrize(
    "written",
    [
        str,
        lambda text: json.dumps({"password": text}),
        lambda text: json.dumps({"password": text}, ensure_ascii=False),
        html.escape,
        escape,
        quote_plus,
        shlex.quote,
        lambda text: text.encode().hex(),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.b64encode(f"root:{text}".encode()).decode(),
        lambda text: base64.urlsafe_b64encode(f"u:{text}@host".encode()).decode(),
        lambda text: base64.b64encode(f"ab{text}xyz".encode()).decode(),
    ],
    ids=[
        "plain",
        "json",
        "json-utf8",
        "html",
        "xml",
        "url",
        "shell",
        "hex",
        "base64",
        "basic-auth",
        "url-base64",
        "inside",
    ],
)
def test_a_secret_is_struck_out_in_every_form(tmp_path: Path, written: Callable[[str], str]) -> None:
    file = tmp_path / "node1" / "console.log"
    file.parent.mkdir()
    file.write_text(f"before {written(SECRET)} after")
    assert strike_out(tmp_path, {SECRET: NAME}) == [Leak(file, NAME)]
    left = file.read_bytes()
    assert STRUCK in left
    assert left.startswith(b"before ")
    assert left.endswith(b" after")
    assert not any(form in left for form in forms_of(SECRET))
    assert strike_out(tmp_path, {SECRET: NAME}) == []


def test_files_without_a_secret_are_not_written(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    file.write_text("<testsuites/>")
    before = file.stat().st_mtime_ns
    assert strike_out(tmp_path, {SECRET: NAME}) == []
    assert file.stat().st_mtime_ns == before


def test_a_link_is_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    outside, folder = tmp_path / "key", tmp_path / "run"
    outside.write_text(SECRET)
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    assert strike_out(folder, {SECRET: NAME}) == []
    assert outside.read_text() == SECRET


def test_of_two_secrets_the_longer_is_struck_out_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hunter2hunter2")
    leaks = strike_out(tmp_path, {"hunter2": "short", "hunter2hunter2": "long"})
    assert (tmp_path / "a").read_bytes() == STRUCK
    assert [leak.name for leak in leaks] == ["long"]


def test_what_is_too_short_to_be_a_secret_strikes_nothing_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("root logs in")
    assert strike_out(tmp_path, {"root": NAME}) == []


@given(secret=st.text(min_size=6, max_size=40), before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_base64_is_found_wherever_the_secret_lies_in_it(secret: str, before: bytes, after: bytes) -> None:
    try:
        raw = secret.encode()
    except UnicodeEncodeError:
        return
    whole = base64.b64encode(before + raw + after)
    assert any(form in whole for form in forms_of(secret))

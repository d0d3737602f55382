"""Templates and the filters that encode a value for the language it stands in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from provision import render

LINE = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None, max_examples=30)  # a process each
@given(st.lists(LINE.filter(lambda text: "\0" not in text), min_size=1, max_size=20))
def test_sh_gives_one_word_of_a_shell(texts: list[str]) -> None:
    words = " ".join(render.sh(text) for text in texts)
    printed = subprocess.run(["/bin/sh", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True)
    assert printed.stdout.decode(errors="surrogateescape").split("\0")[:-1] == texts


@pytest.mark.parametrize("text", ["http://10.10.1.1/boot/52:54:00:00:00:01?a=b", "proxmox-9", "node1.lab"])
def test_ipxe_passes_what_needs_no_encoding(text: str) -> None:
    assert render.ipxe(text) == text


@pytest.mark.parametrize(
    "text", ["", "two words", "${net0/mac}", "a\nb", "a#b", "é", "a;b", "a\\b", "a|b", '"']
)
def test_ipxe_refuses_what_ipxe_cannot_write(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be written into an iPXE script"):
        render.ipxe(text)


@pytest.mark.parametrize("text", ["&&", ";", "||"])
def test_a_word_that_would_end_an_ipxe_command_is_refused(text: str) -> None:
    for encode in (render.ipxe, render.ipxe_argument):
        with pytest.raises(ValueError, match="cannot be written into an iPXE script"):
            encode(text)


def test_a_kernel_argument_may_hold_a_semicolon_inside() -> None:
    assert (
        render.ipxe_argument("ds=nocloud;s=http://10.10.1.1/seed/x/")
        == "ds=nocloud;s=http://10.10.1.1/seed/x/"
    )


def test_grub_quotes_what_would_end_its_command() -> None:
    assert render.grub("ds=nocloud;s=http://10.10.1.1/") == "'ds=nocloud;s=http://10.10.1.1/'"


@pytest.mark.parametrize("text", ["", "a b", "a'b", 'a"b', "$root", "a\nb", "a\\b", "é", "{", "a#b"])
def test_grub_refuses_what_it_does_not_hand_on_unchanged(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be written into a GRUB script"):
        render.grub(text)


@pytest.mark.parametrize("text", ["", "a b", "a,b", "a;b", 'a"b', "a\nb", "a{b", "a$b", "a#b", "é"])
def test_word_refuses_what_ends_or_changes_a_setting(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be written into a configuration file"):
        render.word(text)


def test_word_passes_addresses_paths_and_names() -> None:
    for text in ("10.10.1.0/24", "/srv/rackproof/http", "52:54:00:a1:01:21", "console-node1.lab.example.net"):
        assert render.word(text) == text


def test_an_unknown_name_in_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'answers' is undefined"):
        render.render("dhcp-options.j2", answer={})


def test_every_template_parses() -> None:
    environment = render._environment(render.TEMPLATES)
    names = [path.name for path in Path(render.TEMPLATES).glob("*.j2")]
    assert "dnsmasq.conf.j2" in names
    for name in names:
        environment.get_template(name)

"""What the checks of the first boot's parts read of foreign text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from checks.check_repositories import parse_sources
from checks.check_tuning import parse_rings

WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
VALUES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
STANZAS = st.lists(
    st.fixed_dictionaries(
        {"types": st.sampled_from(["deb", "deb deb-src"]), "uris": VALUES, "components": VALUES},
        optional={"enabled": st.sampled_from(["yes", "no", "False"])},
    ),
    min_size=1,
)

FOLDED = """\
# Proxmox
Types: deb
URIs: http://download.proxmox.com/debian/pve
Suites:
 trixie
Components: pve-no-subscription
   pve-test
Enabled: no

# the next one
types: deb
components: enterprise
"""

RINGS = """\
Ring parameters for eno3:
Pre-set maximums:
RX:             8192
RX Mini:        n/a
RX Jumbo:       n/a
TX:             8192
TX push buff len:\tn/a
Current hardware settings:
RX:             512
RX Mini:        n/a
RX Jumbo:       n/a
TX:             512
RX Buf Len:     n/a
"""


@given(STANZAS)
def test_stanzas_are_read_as_they_were_written(stanzas: list[dict[str, str]]) -> None:
    blocks = ["\n".join(f"{key.capitalize()}: {value}" for key, value in one.items()) for one in stanzas]
    assert list(parse_sources("\n\n".join(blocks))) == stanzas


def test_folded_lines_comments_and_names_in_any_case_are_read() -> None:
    first, second = parse_sources(FOLDED)
    assert (first["suites"], first["components"], first["enabled"]) == (
        "trixie", "pve-no-subscription pve-test", "no",
    )  # fmt: skip
    assert second == {"types": "deb", "components": "enterprise"}


@given(st.text())
def test_no_text_breaks_the_reading_of_repositories(text: str) -> None:
    assert all(stanza for stanza in parse_sources(text))


def test_rings_are_read_by_their_largest_and_their_current_size() -> None:
    assert parse_rings(RINGS) == ({"RX": "8192", "TX": "8192"}, {"RX": "512", "TX": "512"})


def test_a_nic_without_rings_has_none() -> None:
    assert parse_rings("netlink error: Operation not supported\n") == ({}, {})

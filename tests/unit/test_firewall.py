"""`server.firewall` in a lab file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provision.errors import InventoryError
from provision.inventory import Firewall, load

LAB = Path(__file__).parents[2] / "labs" / "virtual.yaml"


def written(folder: Path, firewall: str, wan: str = "wan: wan0") -> Path:
    text = LAB.read_text().replace("firewall: {allow: []}", f"firewall: {firewall}").replace("wan: wan0", wan)
    file = folder / "lab.yaml"
    file.write_text(text)
    return file


def test_what_is_let_in_is_read(tmp_path: Path) -> None:
    firewall = load(written(tmp_path, "{allow: [tcp/22, udp/500-501, icmp]}"), {}).server.firewall
    assert firewall is not None
    assert firewall.allow == ("tcp/22", "udp/500-501", "icmp")
    assert (firewall.lets_in(22), firewall.lets_in(500)) == (True, False)


def test_a_single_word_is_a_list_of_one(tmp_path: Path) -> None:
    firewall = load(written(tmp_path, "{allow: tcp/22}"), {}).server.firewall
    assert firewall is not None
    assert firewall.rules == ("tcp dport 22",)


@pytest.mark.parametrize(
    ("allow", "wrong"),
    [
        ("22", "is nothing to let in: write tcp/22"),
        ("tcp/22 accept", "is nothing to let in"),
        ('"tcp/22\\n drop"', "is nothing to let in"),
        ("tcp/0", "names no ports"),
        ("tcp/30-20", "names no ports"),
        ("udp/65536", "names no ports"),
    ],
)
def test_what_is_no_door_is_a_mistake_with_its_place(tmp_path: Path, allow: str, wrong: str) -> None:
    with pytest.raises(InventoryError, match=rf"lab\.yaml:\d+: server\.firewall\.allow[^\0]*{wrong}"):
        load(written(tmp_path, f"{{allow: [{allow}]}}"), {})


@given(st.one_of(st.text(), st.from_regex(r"(tcp|udp|icmp)/?[0-9]{0,6}-?[0-9]{0,6}")))
def test_what_is_taken_can_be_nothing_but_a_door(text: str) -> None:
    try:
        firewall = Firewall.model_validate({"allow": [text]})
    except ValidationError:
        return
    [rule] = firewall.rules
    assert re.fullmatch(r"(tcp|udp) dport [0-9]{1,5}(-[0-9]{1,5})?|meta l4proto \{ icmp, ipv6-icmp \}", rule)


def test_a_firewall_needs_an_outside(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"server\.firewall: has no interface to guard: give wan"):
        load(written(tmp_path, "{allow: []}", wan="name: server"), {})

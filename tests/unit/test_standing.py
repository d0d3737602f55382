"""A standing order becomes, word for word, what a run would have granted."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import trustme

from provision import inventory
from provision.boot_service.actions import MARK, Words, install_grant
from provision.boot_service.messages import StandingOrder
from provision.certificate import Certificate
from provision.handed import PHASES, handed
from provision.inventory import Lab
from provision.password_hash import crypt
from provision.permit import Permit
from provision.standing import standing_order

ROOT = Path(__file__).parents[2]
PASSWORD = "canary-Sesame-2"
CERTIFICATE = Certificate(trustme.CA().cert_pem.bytes().decode())
HASH = re.compile(r"\$y\$j9T\$[./0-9A-Za-z]{22}\$[./0-9A-Za-z]{43}")
TEXTS = ("boot_script", "grub_script", "answer", "answer_json", "first_boot")


@pytest.fixture(params=["proxmox-9", "ubuntu-24.04"])
def lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The default lab, its nodes with either operating system."""
    monkeypatch.setenv("RACKPROOF_ROOT_PASSWORD", PASSWORD)
    lab = inventory.load(ROOT / "labs" / "virtual.yaml")
    nodes = {name: node.model_copy(update={"os": request.param}) for name, node in lab.nodes.items()}
    return lab.model_copy(update={"nodes": nodes})


def without_hashes(value: Any) -> Any:
    return HASH.sub("HASH", value) if isinstance(value, str) else value


def test_filled_with_an_operators_words_it_is_what_a_run_would_have_granted(lab: Lab) -> None:
    node, words = lab.nodes["node2"], Words.fresh(1_763_848_800.0)
    grant = install_grant(lab.name, node.name, standing_order(lab, node, CERTIFICATE), words, 1000.0)
    permit = Permit(
        node, words.run, 0.0, words.answer_token, words.report_token, words.hook_token, words.nonce
    )
    wanted = handed(lab, permit, CERTIFICATE)
    assert {"boot_script", "grub_script", "answer", "first_boot"} <= wanted.keys()
    for name, value in wanted.items():
        assert without_hashes(getattr(grant, name)) == without_hashes(value), name


def test_no_word_of_a_permit_is_missed_and_no_mark_is_left(lab: Lab) -> None:
    order = standing_order(lab, lab.nodes["node1"], CERTIFICATE)
    marks = {mark for name in TEXTS for mark in MARK.findall(getattr(order, name) or "")}
    assert marks >= {"RUN", "REPORT_TOKEN", "NONCE"}
    grant = install_grant(lab.name, "node1", order, Words.fresh(0.0), 1000.0)
    assert not any(MARK.search(getattr(grant, name) or "") for name in TEXTS)


def test_what_stands_for_a_mark_goes_through_every_filter_unchanged(lab: Lab) -> None:
    # A dash first is what shells and iPXE would mind most.
    words = Words("operator-20261122-220000", "-aB_9" * 6, "--_Z" * 8, "_-_-" * 8, "0a" * 16)
    grant = install_grant(
        lab.name, "node1", standing_order(lab, lab.nodes["node1"], CERTIFICATE), words, 1000.0
    )
    texts = " ".join(str(getattr(grant, name)) for name in TEXTS)
    assert f"/report/{words.report_token}" in texts and texts.count(words.report_token) > 1


def test_it_is_the_same_each_time_and_another_for_each_machine(lab: Lab) -> None:
    orders = [standing_order(lab, node, CERTIFICATE).model_dump_json() for node in lab.nodes.values()]
    assert orders == [standing_order(lab, node, CERTIFICATE).model_dump_json() for node in lab.nodes.values()]
    salts = [HASH.findall(order)[0].split("$")[3] for order in orders]
    assert len(set(salts)) == len(orders)


def test_the_hash_is_of_the_nodes_password_and_the_password_is_nowhere(lab: Lab) -> None:
    order = standing_order(lab, lab.nodes["node3"], CERTIFICATE).model_dump_json()
    found = HASH.findall(order)
    assert found and all(crypt(PASSWORD, one) == one for one in found)
    assert PASSWORD not in order


def test_a_grant_lives_as_long_as_a_runs_and_keeps_hashes_of_its_tokens(lab: Lab) -> None:
    order, words = standing_order(lab, lab.nodes["node1"], CERTIFICATE), Words.fresh(1_763_848_800.0)
    grant = install_grant(lab.name, "node1", order, words, 1000.0)
    assert grant.run == "operator-20251122-220000"
    assert grant.expires - 1000.0 == sum(getattr(lab.deadlines, p.replace("-", "_")) for p in PHASES)
    assert grant.deadlines == order.deadlines and set(grant.deadlines) == set(PHASES)
    for name in ("answer", "report", "hook"):
        token = getattr(words, f"{name}_token")
        assert getattr(grant, f"{name}_token_sha256") == hashlib.sha256(token.encode()).hexdigest()
    assert grant.nonce == words.nonce


def test_marks_are_filled_once(lab: Lab) -> None:
    words = Words("@NONCE@", "a", "b", "c", "d")
    assert words.fill("@RUN@ @REPORT_TOKEN@ @OTHER@ @@") == "@NONCE@ b @OTHER@ @@"
    assert words.fill(None) is None


def test_of_an_order_every_text_is_filled(lab: Lab) -> None:
    marked = "".join(f"@{name}@ " for name in ("RUN", "ANSWER_TOKEN", "REPORT_TOKEN", "HOOK_TOKEN", "NONCE"))
    order = StandingOrder.model_validate(
        dict.fromkeys(TEXTS, marked) | {"patience": 1.0, "private_boot": True}
    )
    words = Words("run", "answer", "report", "hook", "nonce")
    grant = install_grant("lab", "node1", order, words, 0.0)
    assert {getattr(grant, name) for name in TEXTS} == {"run answer report hook nonce "}
    assert grant.private_boot and json.loads(grant.model_dump_json())["purpose"] == "install"

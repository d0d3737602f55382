"""The standing order of a node: what a run would hand it, with marks where each permit has its own words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from passlib.hash import sha512_crypt

from provision import install
from provision.boot_service.messages import StandingOrder
from provision.inventory import Lab, Node

RUN, ANSWER_TOKEN, REPORT_TOKEN, NONCE = "@RUN@", "@ANSWER_TOKEN@", "@REPORT_TOKEN@", "@NONCE@"
HASH = re.compile(r"\$6\$(?:rounds=\d+\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}")


def standing_order(lab: Lab, node: Node) -> StandingOrder:
    """What an operator may let a node be installed by; the same for the same lab, each time it is made.

    Raises SecretMissing when the node's root password is not there.
    """
    permit = install.Permit(node, RUN, 0.0, ANSWER_TOKEN, REPORT_TOKEN, NONCE)
    deadlines = {phase: install.deadline_of(lab, phase) for phase in install.PHASES}
    texts = {name: _steady(lab, node, text) for name, text in _handed(lab, permit).items()}
    return StandingOrder.model_validate({"patience": sum(deadlines.values()), "deadlines": deadlines} | texts)


def _handed(lab: Lab, permit: install.Permit) -> Mapping[str, Any]:
    return {
        "boot_script": install.boot_script(lab, permit),
        "answer": install.answer(lab, permit),
        "first_boot": install.first_boot(lab, permit),
    }


def _steady(lab: Lab, node: Node, text: object) -> object:
    """The text with password hashes that do not change: a salt is random, and a rack would be news each time.

    The salt is the machine's own, as its MACs are, so that no two machines in the world share one.
    """
    if not isinstance(text, str):
        return text
    own = " ".join([lab.name, node.fqdn, *sorted(node.all_macs)])
    salt = hashlib.sha256(own.encode()).hexdigest()[:16]
    password = node.root_password.reveal()

    def steady(found: re.Match[str]) -> str:
        if not sha512_crypt.verify(password, found[0]):
            return found[0]
        return str(sha512_crypt.using(salt=salt, rounds=5000).hash(password))

    return HASH.sub(steady, text)

"""The standing order of a node: what a run would hand it, with marks where each permit has its own words."""

from __future__ import annotations

import hashlib
import re

from passlib.hash import sha512_crypt

from provision.boot_service.messages import StandingOrder
from provision.certificate import Certificate
from provision.handed import deadlines, handed
from provision.inventory import Lab, Node
from provision.permit import Permit

RUN, ANSWER_TOKEN, REPORT_TOKEN = "@RUN@", "@ANSWER_TOKEN@", "@REPORT_TOKEN@"
HOOK_TOKEN, NONCE = "@HOOK_TOKEN@", "@NONCE@"
HASH = re.compile(r"\$6\$(?:rounds=\d+\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}")


def standing_order(lab: Lab, node: Node, certificate: Certificate) -> StandingOrder:
    """What an operator may let a node be installed by; the same for the same lab, each time it is made.

    Raises SecretMissing when the node's root password is not there.
    """
    permit = Permit(node, RUN, 0.0, ANSWER_TOKEN, REPORT_TOKEN, HOOK_TOKEN, NONCE)
    allowed = deadlines(lab)
    order = {name: _steady(lab, node, text) for name, text in handed(lab, permit, certificate).items()}
    return StandingOrder.model_validate({"patience": sum(allowed.values()), "deadlines": allowed} | order)


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

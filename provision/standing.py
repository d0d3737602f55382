"""The standing order of a node: what a run would hand it, with marks where each permit has its own words."""

from __future__ import annotations

import hashlib

from provision.boot_service.messages import StandingOrder
from provision.certificate import Certificate
from provision.handed import deadlines, handed
from provision.inventory import Lab, Node
from provision.password_hash import SALT_BYTES
from provision.permit import Permit

RUN, ANSWER_TOKEN, REPORT_TOKEN = "@RUN@", "@ANSWER_TOKEN@", "@REPORT_TOKEN@"
HOOK_TOKEN, NONCE = "@HOOK_TOKEN@", "@NONCE@"


def standing_order(lab: Lab, node: Node, certificate: Certificate) -> StandingOrder:
    """What an operator may let a node be installed by; the same for the same lab, each time it is made.

    Raises SecretMissing when the node's root password is not there.
    """
    permit = Permit(node, RUN, 0.0, ANSWER_TOKEN, REPORT_TOKEN, HOOK_TOKEN, NONCE, salt=_own_salt(lab, node))
    allowed = deadlines(lab)
    order = handed(lab, permit, certificate)
    return StandingOrder.model_validate({"patience": sum(allowed.values()), "deadlines": allowed} | order)


def _own_salt(lab: Lab, node: Node) -> bytes:
    """A salt that does not change: with a random one, a rack would be news each time it is put.

    It is the machine's own, as its MACs are, so that no two machines in the world share one.
    """
    own = " ".join([lab.name, node.fqdn, *sorted(node.all_macs)])
    return hashlib.sha256(own.encode()).digest()[:SALT_BYTES]

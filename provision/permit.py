"""The leave for one install of one node, as the harness makes it: its words are told to nobody else."""

from __future__ import annotations

from dataclasses import dataclass, field

from provision.host_key import HostKey
from provision.inventory import Node


@dataclass(frozen=True, slots=True)
class Permit:
    """The leave for one install of one node: its secret words, and the nonce that will prove it.

    `salt` are the 16 bytes of its root password's hash, None for random ones. `host_key` is the one that the
    node is to have, None when it keeps the one that its installer makes.
    """

    node: Node
    run: str
    expires: float
    answer_token: str
    report_token: str
    hook_token: str
    nonce: str
    salt: bytes | None = field(default=None, repr=False)
    host_key: HostKey | None = None

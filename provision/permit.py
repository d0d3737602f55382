"""The leave for one install of one node, as the harness makes it: its words are told to nobody else."""

from __future__ import annotations

from dataclasses import dataclass

from provision.inventory import Node


@dataclass(frozen=True, slots=True)
class Permit:
    """The leave for one install of one node: its secret words, and the nonce that will prove it."""

    node: Node
    run: str
    expires: float
    answer_token: str
    report_token: str
    hook_token: str
    nonce: str

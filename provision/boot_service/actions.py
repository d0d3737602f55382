"""What an operator may do to a node (stand-in until the real one is merged)."""

from __future__ import annotations


class ActionRefused(Exception):
    """An action was not done; `status` as in HTTP, `why` one line without a secret."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why

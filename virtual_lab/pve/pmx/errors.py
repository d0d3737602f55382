"""What goes wrong on the played node, in the words that Proxmox uses."""

from __future__ import annotations

from collections.abc import Mapping


class Failure(Exception):
    """A call or task failed; `code` is the HTTP status of the answer."""

    def __init__(self, message: str, *, code: int = 500, errors: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.errors = message, code, dict(errors or {})

"""An SSH host key that is made before the node that will show it: the first log-in is to a known key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class HostKey:
    """An ed25519 key: `public` is type and key, `private` OpenSSH's file without its last line end."""

    public: str
    private: str = field(repr=False)

    @classmethod
    def made(cls) -> Self:
        """A new one."""
        import asyncssh  # noqa: PLC0415 (a quarter of a second, and only few installs need it)

        key = asyncssh.generate_private_key("ssh-ed25519")
        public, private = key.export_public_key("openssh"), key.export_private_key("openssh")
        return cls(public.decode().strip(), private.decode().strip())

    @property
    def secrets(self) -> Iterator[str]:
        """The lines of the private half, but for those that every such key has."""
        yield from self.private.splitlines()[2:-1]

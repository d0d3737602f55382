"""Where a rack keeps what: a folder per rack under RACKPROOF_HOME, and its names on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provision.errors import InventoryError, Mistake

MARKER = "RACKPROOF_RACK"
"""The environment variable by which every process of a rack is known."""

SERVER = "server"
NAMESPACES = Path("/run/netns")


def home(env: Mapping[str, str] = os.environ) -> Path:
    """RACKPROOF_HOME, or /var/lib/rackproof."""
    return Path(env.get("RACKPROOF_HOME") or "/var/lib/rackproof").absolute()


@dataclass(frozen=True, slots=True)
class Places:
    """The paths and names of the rack `instance`."""

    home: Path
    instance: str

    @classmethod
    def of(cls, lab: str, instance: str | None = None, env: Mapping[str, str] = os.environ) -> Places:
        """The places of a lab's rack: `instance`, else RACKPROOF_INSTANCE, else the lab's name."""
        name = instance or env.get("RACKPROOF_INSTANCE") or lab
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            wrong = f'"{name}" cannot name a rack: lower-case letters, digits and inner dashes, at most 63'
            raise InventoryError([Mistake("RACKPROOF_INSTANCE", None, "", wrong)])
        return cls(home(env), name)

    @property
    def mark(self) -> str:
        """What MARKER says in every process of this rack: its name, and which folder its home is.

        A host sees the processes of its containers, where a rack of the same name may stand.
        """
        folder = self.home.stat()
        return f"{self.instance}@{folder.st_dev:x}:{folder.st_ino:x}"

    @property
    def images(self) -> Path:
        """The images, shared by all racks."""
        return self.home / "images"

    @property
    def rack(self) -> Path:
        """Everything of this rack."""
        return self.home / "racks" / self.instance

    @property
    def plan(self) -> Path:
        """What the rack was built from; there from the first moment of `up` to the last of `down`."""
        return self.rack / "plan.json"

    @property
    def supervisor(self) -> Path:
        """The socket of the process that holds the rack."""
        return self.rack / "supervisor.sock"

    @property
    def ca(self) -> Path:
        """The certificate that signs the consoles' certificates."""
        return self.rack / "ca.pem"

    @property
    def made_up_secrets(self) -> Path:
        """The secrets that the rack makes up, for root's eyes: JSON of keys.MadeUp."""
        return self.rack / "made-up-secrets.json"

    @property
    def ssh_key(self) -> Path:
        """The private key that the server and the nodes let in; its public key is beside it."""
        return self.rack / "ssh_key"

    def machine(self, name: str) -> Path:
        """The folder of one machine."""
        return self.rack / name

    def board(self, name: str) -> Path:
        """A machine's control socket."""
        return self.machine(name) / "board.sock"

    def console(self, name: str) -> Path:
        """What a machine wrote to its serial console."""
        return self.machine(name) / "console.log"

    def namespace(self, part: str) -> Path:
        """The network namespace of a part: lab, wan, server, a node, or a node's `<node>-bmc`."""
        return NAMESPACES / self.namespace_name(part)

    def namespace_name(self, part: str) -> str:
        """The name of that namespace for `ip netns`."""
        return f"rp-{self.instance}-{part}"

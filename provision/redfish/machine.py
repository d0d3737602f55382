"""What must be known of a machine and its console before the two can be spoken to.

A node of the inventory is such a machine; so is what the provisioning server keeps of one, where there is
no inventory.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal, Protocol


class Secret(Protocol):
    """A secret and where it is kept; the value only when it is asked for."""

    @property
    def reference(self) -> str:
        """Where it is kept, such as `env:BMC_PASSWORD`."""

    def reveal(self) -> str:
        """The value."""


class Console(Protocol):
    """A machine's BMC: where it is, how to log in, how its certificate is judged.

    `trust` is system, pinned (by `fingerprint`, SHA-256 as colon-separated hex) or ca; `ca` is a file of PEM
    certificates, or their text.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def address(self) -> IPv4Address: ...  # noqa: D102
    @property
    def mac(self) -> str | None: ...  # noqa: D102
    @property
    def user(self) -> Secret: ...  # noqa: D102
    @property
    def password(self) -> Secret: ...  # noqa: D102
    @property
    def trust(self) -> str: ...  # noqa: D102
    @property
    def ca(self) -> Path | str | None: ...  # noqa: D102
    @property
    def fingerprint(self) -> str | None: ...  # noqa: D102
    @property
    def system(self) -> str | None: ...  # noqa: D102


class Machine(Protocol):
    """A machine: what it is called, what proves it, and its console. MACs in lower case with colons.

    `network_target` and `boot_mode` are Redfish's words for how it boots from network.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def serial(self) -> str | None: ...  # noqa: D102
    @property
    def mac(self) -> str: ...  # noqa: D102
    @property
    def all_macs(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def network_target(self) -> Literal["Pxe", "UefiHttp"]: ...  # noqa: D102
    @property
    def boot_mode(self) -> Literal["UEFI", "Legacy"]: ...  # noqa: D102
    @property
    def bmc(self) -> Console: ...  # noqa: D102

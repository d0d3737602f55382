"""The boot chains: how a node's firmware gets to an installer's kernel, and what each can boot.

The one table of them. What DHCP, TFTP and HTTP hand out, which lab files are refused, and docs/boot-chains.md
follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Firmware = Literal["uefi", "uefi-http", "bios", "secure-boot"]
Loader = Literal["iPXE", "GRUB"]

ARCHITECTURES = MappingProxyType({"is_bios": (0,), "is_uefi": (7, 9), "is_http": (16,)})
"""The client architectures (DHCP option 93, IANA's processor architecture types) behind each tag of dnsmasq.

Those of `is_http` fetch by HTTP, the others by TFTP.
"""

IPXE_EFI, IPXE_BIOS = "snponly.efi", "undionly.kpxe"
SHIM, GRUB = "shimx64.efi", "grubx64.efi"
"""Shim asks for GRUB by this name, in the folder that it came from itself."""

SOURCES = MappingProxyType(
    {
        IPXE_EFI: "/usr/lib/ipxe/snponly.efi",
        IPXE_BIOS: "/usr/lib/ipxe/undionly.kpxe",
        SHIM: "/usr/lib/shim/shimx64.efi.signed",
        GRUB: "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
    }
)
"""Where the packages of Debian and Ubuntu leave each boot file."""

PACKAGES = MappingProxyType(
    {IPXE_EFI: "ipxe", IPXE_BIOS: "ipxe", SHIM: "shim-signed", GRUB: "grub-efi-amd64-signed"}
)


@dataclass(frozen=True, slots=True)
class Chain:
    """From the firmware to the loader that asks for the node's boot script.

    Firmware that shows one of the `doors`, tags of ARCHITECTURES, is handed the first of the `files`; it asks
    for the others itself. `target` and `mode` are what a BMC is asked for, in Redfish's words. `refused` are
    the operating systems that it cannot boot, each with the reason and what to do.
    """

    firmware: Firmware
    doors: tuple[str, ...]
    files: tuple[str, ...]
    loader: Loader
    target: Literal["Pxe", "UefiHttp"] = "Pxe"
    mode: Literal["UEFI", "Legacy"] = "UEFI"
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The boot file that DHCP names."""
        return self.files[0]


_UNSIGNED = (
    "cannot be installed under Secure Boot: the shim of Debian and Ubuntu does not trust Proxmox's kernel. "
    "Switch Secure Boot off in the node's firmware, for the installation at least, and write firmware: uefi"
)

CHAINS: Mapping[Firmware, Chain] = MappingProxyType(
    {
        chain.firmware: chain
        for chain in (
            Chain("uefi", ("is_uefi", "is_http"), (IPXE_EFI,), "iPXE"),
            Chain("uefi-http", ("is_uefi", "is_http"), (IPXE_EFI,), "iPXE", target="UefiHttp"),
            Chain("bios", ("is_bios",), (IPXE_BIOS,), "iPXE", mode="Legacy"),
            Chain(
                "secure-boot", ("is_uefi", "is_http"), (SHIM, GRUB), "GRUB", refused={"proxmox-9": _UNSIGNED}
            ),
        )
    }
)
"""Every chain, by what a node's `firmware` says in the lab file."""


def why_not(firmware: str, system: str) -> str | None:
    """Why this firmware cannot be given this operating system, and what to do; None if it can."""
    chain = next((chain for name, chain in CHAINS.items() if name == firmware), None)
    return chain.refused.get(system) if chain else None


def files_of(firmwares: Iterable[Firmware]) -> tuple[str, ...]:
    """The boot files that nodes with these firmwares are handed."""
    return tuple(dict.fromkeys(file for name in firmwares for file in CHAINS[name].files))

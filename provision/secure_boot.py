"""Whether the server's shim would start the kernels that nodes are to boot under Secure Boot."""

from __future__ import annotations

import shlex
import struct
from pathlib import Path

from provision.errors import LabError
from provision.inventory import Lab, Node
from provision.inventory.boot_chains import CHAINS, SHIM, SOURCES
from provision.remote import Remote

AUTHORITIES = {
    "Debian Secure Boot CA": "Debian",
    "Canonical Ltd. Master Certificate Authority": "Ubuntu",
}
"""Who signs the kernels of a distribution: the name in the certificate that its own shim carries."""

_SECURITY = 4
"""The place of the certificate table among a PE file's data directories."""


def require_trust(lab: Lab, server: Remote) -> None:
    """Raises LabError naming a node whose installer's kernel shim would refuse, with what to do."""
    for node in lab.nodes.values():
        media = lab.media.get(node.os)
        if CHAINS[node.firmware].loader == "GRUB" and media is not None:
            _require(node, media.vmlinuz, server)


def signed_by(kernel: Path) -> str | None:
    """Which of AUTHORITIES has signed this kernel; None for no one, or somebody else."""
    signature = signature_of(kernel.read_bytes())
    return next((name for name in AUTHORITIES if name.encode() in signature), None)


def signature_of(program: bytes) -> bytes:
    """The certificate table of an EFI program for x86-64 (PE32+); empty when it has none."""
    try:
        (header,) = struct.unpack_from("<I", program, 0x3C)
        directories = header + 24 + 112
        start, size = struct.unpack_from("<II", program, directories + 8 * _SECURITY)
    except struct.error:
        return b""
    return program[start : start + size] if program[header : header + 4] == b"PE\0\0" else b""


def _require(node: Node, kernel: Path, server: Remote) -> None:
    authority = signed_by(kernel)
    shim = SOURCES[SHIM]
    if authority and server.run(f"grep -aqF {shlex.quote(authority)} {shim}").rc == 0:
        return
    by = f"{AUTHORITIES[authority]} has signed" if authority else "neither Debian nor Ubuntu has signed"
    other = f"provision from a server that runs {AUTHORITIES[authority]}, or " if authority else ""
    raise LabError(
        f"this server's shim does not trust the kernel of {node.os} ({kernel}), which {by}",
        node=node.name,
        likely=f"{other}switch Secure Boot off in the node's firmware and write firmware: uefi",
    )

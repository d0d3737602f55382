"""A kernel that the server's shim would refuse is refused by the server step, before a node is tried with it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import LabError
from provision.inventory import InstallMedia, Lab
from provision.secure_boot import require_trust, signature_of, signed_by
from tests.unit.test_boot_chains import lab_of
from tests.unit.test_server_templates import Script

CANONICAL, DEBIAN = b"Canonical Ltd. Master Certificate Authority", b"Debian Secure Boot CA"


def kernel(signer: bytes, *, elsewhere: bytes = b"") -> bytes:
    """An EFI program with this in its certificate table, and other bytes outside of it."""
    image = bytearray(0x400)
    struct.pack_into("<I", image, 0x3C, 0x80)
    image[0x80:0x84] = b"PE\0\0"
    image[0x300 : 0x300 + len(elsewhere)] = elsewhere
    if signer:
        struct.pack_into("<II", image, 0x80 + 24 + 112 + 32, len(image), len(signer))
    return bytes(image) + signer


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Four nodes of Ubuntu, the first under Secure Boot; the kernel of their medium is still to be written."""
    media = InstallMedia(vmlinuz=tmp_path / "vmlinuz", initrd=tmp_path / "initrd", iso=tmp_path / "iso")
    return lab_of(tmp_path, "secure-boot").model_copy(update={"media": {"ubuntu-24.04": media}})


def write(lab: Lab, program: bytes) -> None:
    lab.media["ubuntu-24.04"].vmlinuz.write_bytes(program)


def test_a_kernel_that_the_servers_shim_trusts_is_taken(lab: Lab) -> None:
    write(lab, kernel(DEBIAN))
    server = Script()
    require_trust(lab, server)
    assert server.commands == ["grep -aqF 'Debian Secure Boot CA' /usr/lib/shim/shimx64.efi.signed"]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (kernel(CANONICAL), "which Ubuntu has signed.*(?s:.*)provision from a server that runs Ubuntu, or"),
        (kernel(b"Proxmox"), "which neither Debian nor Ubuntu has signed"),
        (kernel(b"", elsewhere=DEBIAN), "which neither Debian nor Ubuntu has signed"),
        (b"", "which neither Debian nor Ubuntu has signed"),
    ],
)
def test_another_kernel_is_refused_with_what_to_do(lab: Lab, program: bytes, message: str) -> None:
    write(lab, program)
    with pytest.raises(LabError, match=message) as caught:
        require_trust(lab, Script("grep"))
    assert caught.value.node == "node1"
    assert "write firmware: uefi" in str(caught.value.likely)


def test_nobody_asks_where_no_node_has_secure_boot(tmp_path: Path, lab: Lab) -> None:
    server = Script("grep")
    require_trust(lab_of(tmp_path, "uefi").model_copy(update={"media": lab.media}), server)
    require_trust(lab.model_copy(update={"media": {}}), server)
    assert server.commands == []


@given(st.binary(max_size=600))
def test_no_file_stops_the_reader(program: bytes) -> None:
    assert signature_of(program) in program


def test_only_the_signature_says_who_signed(tmp_path: Path) -> None:
    file = tmp_path / "vmlinuz"
    file.write_bytes(kernel(DEBIAN, elsewhere=CANONICAL))
    assert signed_by(file) == DEBIAN.decode()

"""Tells whether bytes are a program that UEFI firmware on x86-64 would start (PE/COFF specification)."""

from __future__ import annotations

import struct

MACHINE_X86_64 = 0x8664
PE32_PLUS = 0x20B
EFI_APPLICATION = 10


def fault_of(program: bytes) -> str | None:
    """What keeps `program` from being an EFI application for x86-64; None when nothing does."""
    if program[:2] != b"MZ" or len(program) < 0x40:
        return "no DOS header"
    (at,) = struct.unpack_from("<I", program, 0x3C)
    if program[at : at + 4] != b"PE\0\0" or len(program) < at + 24 + 70:
        return "no PE header"
    (machine,) = struct.unpack_from("<H", program, at + 4)
    if machine != MACHINE_X86_64:
        return f"machine type {machine:#06x}, not x86-64"
    (magic,) = struct.unpack_from("<H", program, at + 24)
    (subsystem,) = struct.unpack_from("<H", program, at + 24 + 68)
    if magic != PE32_PLUS or subsystem != EFI_APPLICATION:
        return "not an EFI application"
    return None

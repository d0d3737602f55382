"""Writes a raw disk as a qcow2 image, the format that cloud images are handed out in.

Layout: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst, version 3, no compression.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

_CLUSTER = 1 << 16
_ENTRIES = _CLUSTER // 8  # of an L1, L2 or refcount table
_COUNTS = _CLUSTER // 2  # of a refcount block
_COPIED = 1 << 63  # "this cluster has exactly one user"
_HEADER = ">4sIQIIQIIQQIIQQQQII"


def write(raw: Path, target: Path) -> None:
    """Write the disk `raw` as the qcow2 image `target`; clusters that are all zero take no room."""
    size = raw.stat().st_size
    data = [number for number, _ in _clusters(raw)]
    tables = -(-size // (_CLUSTER * _ENTRIES))
    blocks = -(-(len(data) + tables + 4) // (_COUNTS - 1))
    first_table = 2 + blocks + 1  # after the header, the refcount table and its blocks, and the L1 table
    first_data = first_table + tables
    with target.open("wb") as out:
        out.write(_header(size, l1=first_table - 1, tables=tables, blocks=blocks))
        out.write(_table(range(2, 2 + blocks), flags=0))
        out.write(_counts(first_data + len(data), blocks))
        out.write(_table(range(first_table, first_data), flags=_COPIED))
        out.write(_l2_tables(data, tables, first_data))
        for _, content in _clusters(raw):
            out.write(content)


def _clusters(raw: Path) -> Iterator[tuple[int, bytes]]:
    """The clusters that are not all zero, by their number."""
    empty = bytes(_CLUSTER)
    with raw.open("rb") as file:
        number = 0
        while content := file.read(_CLUSTER):
            content = content.ljust(_CLUSTER, b"\0")
            if content != empty:
                yield number, content
            number += 1


def _header(size: int, *, l1: int, tables: int, blocks: int) -> bytes:
    refcount_table, header_length, refcount_order = 1, 104, 4
    fields = struct.pack(
        _HEADER, b"QFI\xfb", 3, 0, 0, 16, size, 0, tables, l1 * _CLUSTER, refcount_table * _CLUSTER,
        -(-blocks // _ENTRIES), 0, 0, 0, 0, 0, refcount_order, header_length,
    )  # fmt: skip
    return fields.ljust(_CLUSTER, b"\0")


def _table(clusters: Sequence[int], *, flags: int) -> bytes:
    entries = [cluster * _CLUSTER | flags for cluster in clusters]
    return struct.pack(f">{len(entries)}Q", *entries).ljust(_CLUSTER, b"\0")


def _counts(used: int, blocks: int) -> bytes:
    return (b"\0\1" * used).ljust(blocks * _CLUSTER, b"\0")


def _l2_tables(data: Sequence[int], tables: int, first: int) -> bytes:
    entries = [0] * (tables * _ENTRIES)
    for at, number in enumerate(data):
        entries[number] = (first + at) * _CLUSTER | _COPIED
    return struct.pack(f">{len(entries)}Q", *entries)

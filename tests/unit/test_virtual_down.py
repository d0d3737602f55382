"""Who belongs to a rack, read from a made-up /proc."""

from __future__ import annotations

from pathlib import Path

from virtual_lab.down import ancestors, processes_of
from virtual_lab.places import MARKER


def process(
    proc: Path, pid: int, parent: int, *, environ: bytes = b"", namespace: Path | None = None
) -> None:
    folder = proc / str(pid)
    (folder / "ns").mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} (a (strange) name) S {parent} 1 1")
    (folder / "environ").write_bytes(environ)
    if namespace:
        (folder / "ns/net").symlink_to(namespace)


def test_marked_processes_and_those_in_the_racks_namespaces_belong_to_it(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.touch()
    other.touch()
    proc = tmp_path / "proc"
    process(proc, 10, 1, environ=f"A=1\0{MARKER}=blue\0".encode(), namespace=other)
    process(proc, 11, 1, namespace=ours)
    process(proc, 12, 1, environ=f"{MARKER}=blue-2\0".encode(), namespace=other)
    process(proc, 13, 1, environ=f"X{MARKER}=blue\0".encode(), namespace=other)
    process(proc, 14, 1)  # ending: its namespace is gone already
    (proc / "self").mkdir()
    assert processes_of("blue", [ours.stat().st_ino], proc) == {10, 11}


def test_ancestors_are_followed_to_the_first_process(tmp_path: Path) -> None:
    for pid, parent in ((1, 0), (5, 1), (9, 5)):
        process(tmp_path, pid, parent)
    assert list(ancestors(9, tmp_path)) == [9, 5, 1]

"""The published boot scripts are those that the service would hand out, for the node's own address alone."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from provision.boot_service.messages import Rack, RackNode
from provision.boot_service.published import Published
from provision.boot_service.store import Permit

MAC, SECOND = "ac:1f:6b:00:00:01", "ac:1f:6b:00:00:31"
NODE = RackNode(name="node1", macs=(MAC, SECOND), address="10.10.1.21", boot_script="#!ipxe\nexit\n",
                grub_script="exit\n")  # fmt: skip
PLAIN = RackNode(
    name="node2", macs=("ac:1f:6b:00:00:02",), address="10.10.1.22", boot_script="#!ipxe\nexit 2\n"
)
NOW = 1000.0


def permit(**other: Any) -> Permit:
    values: dict[str, Any] = dict.fromkeys(
        ("spent", "done", "revoked", "nonce", "answered_json", "hook_token_sha256", "answer", "answer_json",
         "first_boot")
    )  # fmt: skip
    values |= {"id": 1, "run": "r1", "lab": "hall", "node": "node1", "granted": 900.0, "expires": 1600.0,
               "purpose": "install", "system": "proxmox", "deadlines": {}, "private_boot": False,
               "boot_script": "#!ipxe\ninstall\n", "grub_script": "install\n"}  # fmt: skip
    return Permit(**values | other)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "published"


def tree(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_text() for file in files}


def both(ipxe: str, grub: str) -> dict[str, str]:
    return {f"10.10.1.21/{mac}{end}": text for mac in (MAC, SECOND) for end, text in
            ((".ipxe", ipxe), (".grub", grub))}  # fmt: skip


STANDING = both("#!ipxe\nexit\n", "exit\n")


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        (None, STANDING),
        (permit(), both("#!ipxe\ninstall\n", "install\n")),
        (permit(grub_script=None), both("#!ipxe\ninstall\n", "exit\n")),
        (permit(purpose="rescue", boot_script="rescue"), both("rescue", "install\n")),
        (permit(private_boot=True), {}),
        (permit(spent=950.0), STANDING),
        (permit(private_boot=True, spent=950.0), STANDING),
        (permit(revoked=950.0), STANDING),
        (permit(expires=NOW), STANDING),
        (permit(boot_script=None, grub_script=None), STANDING),
    ],
)
@pytest.mark.parametrize("before", [None, permit(), permit(private_boot=True)])
def test_a_node_is_published_what_it_boots_now(
    folder: Path, before: Permit | None, has: Permit | None, expected: dict[str, str]
) -> None:
    published = Published(folder)
    published.refresh(NODE, before, NOW)
    published.refresh(NODE, has, NOW)
    assert tree(folder) == expected


def test_all_are_published_and_strangers_and_old_macs_are_not(folder: Path) -> None:
    published = Published(folder)
    published.refresh(NODE.model_copy(update={"address": "10.10.1.99"}), permit(), NOW)
    published.refresh(NODE.model_copy(update={"macs": ("ac:1f:6b:00:00:77",)}), permit(), NOW)
    rack = Rack(lab="hall", nodes=(NODE, PLAIN))
    published.refresh_all(
        rack, [permit(id=2, boot_script="new"), permit(id=1), permit(id=9, node="gone")], NOW
    )
    assert tree(folder) == both("new", "install\n") | {
        "10.10.1.22/ac:1f:6b:00:00:02.ipxe": "#!ipxe\nexit 2\n"
    }


def test_nginx_can_read_what_a_careful_umask_made(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        Published(folder).refresh(NODE, permit(), NOW)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes.pop(folder.name) == modes.pop("10.10.1.21") == 0o755
    assert set(modes.values()) == {0o644}


def test_a_reader_never_sees_half_a_script(folder: Path) -> None:
    published, done = Published(folder), threading.Event()
    texts = ["a" * 100_000, "b" * 100_000]
    published.refresh(NODE, permit(boot_script=texts[0]), NOW)
    seen = set()

    def read() -> None:
        while not done.is_set():
            seen.add((folder / "10.10.1.21" / f"{MAC}.ipxe").read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(100):
        published.refresh(NODE, permit(boot_script=texts[turn % 2]), NOW)
    done.set()
    reader.join()
    assert seen <= set(texts)


def test_many_may_publish_at_once(folder: Path) -> None:
    published, faults = Published(folder), []

    def refresh(number: int) -> None:
        try:
            for turn in range(50):
                published.refresh(NODE, permit(private_boot=turn % 3 == number), NOW)
        except OSError as error:
            faults.append(error)

    threads = [threading.Thread(target=refresh, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    published.refresh(NODE, None, NOW)
    assert (faults, tree(folder)) == ([], STANDING)

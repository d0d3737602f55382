"""Keeps each node's boot scripts as files, so that nginx answers with them and the service is not asked.

`FOLDER/ADDRESS/MAC.ipxe` and `.grub` for every MAC of a node, below the node's own address: nobody else is
given them. A script with a token in it is never a file; without a file nginx asks the service.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from provision.boot_service.messages import Rack, RackNode
from provision.boot_service.store import Permit

_numbers = count()


class Published:
    """The folder of published boot scripts; nginx reads it, this process writes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def refresh_all(self, rack: Rack, permits: Iterable[Permit], now: float) -> None:
        """Publish the scripts of every node of the rack, and nothing else; the newest permit counts."""
        newest = {permit.node: permit for permit in sorted(permits, key=lambda permit: permit.id)}
        _make_folder(self._folder)
        self._drop_strangers({str(node.address) for node in rack.nodes})
        for node in rack.nodes:
            self.refresh(node, newest.get(node.name), now)

    def refresh(self, node: RackNode, permit: Permit | None, now: float) -> None:
        """Publish what this node boots now: the script of its live permit, or the standing one.

        When this returns, no request can be answered by the file that was there before.
        """
        live = permit if permit is not None and permit.state(now) == "live" else None
        folder = self._folder / str(node.address)
        _make_folder(folder)
        if live is not None and live.private_boot:
            _leave_only(folder, set())
            return
        ipxe = live.boot_script if live is not None and live.boot_script else node.boot_script
        grub = live.grub_script if live is not None and live.grub_script else node.grub_script
        files = {f"{mac}.ipxe": ipxe for mac in node.macs}
        files |= {f"{mac}.grub": grub for mac in node.macs if grub is not None}
        _leave_only(folder, set(files))
        for name, script in files.items():
            self._write(folder / name, script)

    def _drop_strangers(self, addresses: set[str]) -> None:
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in addresses:
                shutil.rmtree(folder)

    def _write(self, path: Path, script: str) -> None:
        # Made outside of the nodes' folders, where nginx never looks.
        new = self._folder / f".new-{os.getpid()}-{next(_numbers)}"
        try:
            new.write_bytes(script.encode())
            new.chmod(0o644)
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise


def _make_folder(folder: Path) -> None:
    # The service's umask lets nobody else read; nginx has to.
    for each in (folder.parent, folder):
        if not each.is_dir():
            each.mkdir(exist_ok=True)
            each.chmod(0o755)


def _leave_only(folder: Path, names: set[str]) -> None:
    for file in folder.iterdir():
        if file.name not in names:
            with suppress(FileNotFoundError):
                file.unlink()

"""One rack for all real firmware: a server as the server step makes it, and nodes of every kind of firmware."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab_fixtures import INSTANCE, ROOT, Lab, raised
from virtual_lab import telling_kernel
from virtual_lab.places import home
from virtual_lab.real_firmware import Board, Place

PERMIT = Path(__file__).parent / "permit.py"


@dataclass(frozen=True)
class Route:
    """A way through the table of chains: a node's board and the operating system that it is to be given."""

    node: str
    board: Board
    system: str


ROUTES = tuple(
    Route(f"node{number}", Board(firmware, f"52:54:00:a1:01:2{number}", way), system)  # type: ignore[arg-type]
    for number, (firmware, way, system) in enumerate(
        (
            ("uefi", "tftp", "proxmox-9"),
            ("uefi-http", "http", "ubuntu-24.04"),
            ("bios", "tftp", "proxmox-9"),
            ("secure-boot", "tftp", "ubuntu-24.04"),
            ("secure-boot", "http", "ubuntu-24.04"),
        ),
        start=1,
    )
)


@dataclass(frozen=True)
class FirmwareLab:
    """The standing rack, and where its boards run."""

    lab: Lab
    file: Path
    loaders: Path

    def place(self, name: str) -> Place:
        namespace = self.lab.places.namespace_name("lab")
        return Place(self.file.parent / name, "br-management", self.loaders, namespace)

    def permit(self) -> None:
        """Give every node its leave to install."""
        self.lab.rack("exec", "--", "env", f"PYTHONPATH={ROOT}", sys.executable, str(PERMIT), str(self.file))

    def fetched(self, node: str) -> list[str]:
        """The boot files that a node's address was sent whole, in order, and how: "tftp:snponly.efi"."""
        address = f"10.10.1.2{node[-1]}"
        journal = self.lab.on("server", "journalctl -u dnsmasq -o cat")
        requests = self.lab.on("server", "cat /var/log/nginx/rackproof.log")
        by_tftp = [line.split()[1] for line in journal.splitlines() if line.endswith(f" to {address}")
                   and line.startswith("sent /") and line.split()[1].endswith(("efi", "kpxe"))]  # fmt: skip
        by_http = [line.split()[3] for line in requests.splitlines() if line.startswith(f"{address} ")
                   and " GET /firmware/" in line and " 200 " in line]  # fmt: skip
        named = [("tftp", path) for path in by_tftp] + [("http", path) for path in by_http]
        return [f"{how}:{path.rpartition('/')[2]}" for how, path in named]


def described(folder: Path, media: Path) -> Path:
    """The default lab's file with a node for each route, no more than a server needs, and these media."""
    text: dict[str, Any] = yaml.safe_load((ROOT / "labs/virtual.yaml").read_text())
    for part in ("cluster", "ceph", "templates"):
        del text[part]
    text["nodes"] = {route.node: _node(number, route) for number, route in enumerate(ROUTES, start=1)}
    text["media"] = dict.fromkeys({route.system for route in ROUTES}, str(media))
    file = folder / "lab.yaml"
    file.write_text(yaml.dump(text, Dumper=_PlainDumper))
    return file


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _node(number: int, route: Route) -> dict[str, Any]:
    return {
        "serial": f"RPV000000{number}", "mac": route.board.mac, "management": f"10.10.1.2{number}",
        "storage": f"10.10.2.2{number}", "macs": {"storage": f"52:54:00:a1:02:2{number}"},
        "bmc": {"address": f"10.10.1.1{number}", "mac": f"52:54:00:a1:01:1{number}"},
        "disk": {"serial": f"RPVDISK000000{number}"}, "firmware": route.board.firmware, "os": route.system,
    }  # fmt: skip


@pytest.fixture(scope="session")
def firmware_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirmwareLab]:
    """The rack with its server step done and proved; no node of it is ever switched on by its own board."""
    folder = tmp_path_factory.mktemp("firmware")
    telling = telling_kernel.ready(home() / "images", print).folder
    file = described(folder, telling)
    arguments = ("--lab", str(file), "--until", "server")
    lab = raised(folder, f"{INSTANCE}-firmware", arguments=arguments)
    try:
        lab.rebuild()
        yield FirmwareLab(lab, file, telling)
    finally:
        lab.down()

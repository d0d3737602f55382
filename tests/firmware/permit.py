"""Gives every node of a lab whose server stands its leave to install, as the power step does.

Inside the lab's network: python tests/firmware/permit.py LABFILE
"""

from __future__ import annotations

import sys
from pathlib import Path

from provision import inventory, state
from provision.boot_service.client import BootService
from provision.install import Permits
from provision.ledger import Ledger
from provision.machines import Machines
from provision.run import Run
from provision.server import OPERATOR_SOCKET
from virtual_lab import rack


def main(lab_file: Path) -> None:
    """Grant; nothing is taken back when this ends."""
    lab = rack.standing(inventory.load(lab_file)).lab
    ledger = Ledger(state.folder(lab.name) / "ledger.db")
    run = Run(lab.name, "firmware", ledger, acting=frozenset({"power"}))
    with Machines(lab, ledger) as machines, machines.server.forward_socket(OPERATOR_SOCKET) as socket:
        Permits(lab, run, BootService(socket), machines.server).grant(lab.nodes.values())
    ledger.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Command line of the boot service; systemd runs it on the provisioning server."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from provision.boot_service.dhcp import journal_command
from provision.boot_service.serve import listen, serve
from provision.boot_service.store import Store
from provision.ledger import LedgerUnusable


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Returns 0; 1 when the ledger or a socket cannot be had."""
    options = _parser().parse_args(arguments)
    try:
        store = Store(options.ledger)
        operators, nodes = listen(options.operator_socket, 0o600), listen(options.nodes_socket, 0o666)
    except (LedgerUnusable, OSError) as error:
        print(f"the boot service cannot start: {error}", file=sys.stderr)
        return 1
    unit = options.dhcp_journal
    asyncio.run(serve(store, operators, nodes, journal_command(unit) if unit else None))
    store.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m provision.boot_service", description=__doc__)
    parser.add_argument("--ledger", required=True, help="SQLite file (made if missing) or an SQLAlchemy URL")
    parser.add_argument(
        "--operator-socket", required=True, type=Path, metavar="PATH", help="made with mode 0600"
    )
    parser.add_argument(
        "--nodes-socket", required=True, type=Path, metavar="PATH", help="nginx passes nodes on to it"
    )
    parser.add_argument("--dhcp-journal", nargs="?", const="dnsmasq", metavar="UNIT",
                        help="follow this unit's journal for DHCP and TFTP (default: dnsmasq)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())

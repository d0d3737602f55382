"""The tests of the boot service once more, over a ledger in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.postgresql_server import PostgresqlServer
from tests.unit import test_boot_service
from tests.unit.boot_bench import Bench, rack

# Its hand-out is forbidden by a trigger in the language of SQLite.
LEFT_OUT = {"test_the_hand_out_is_kept_or_not_made"}

globals().update(
    {
        name: test
        for name, test in vars(test_boot_service).items()
        if name.startswith("test_") and name not in LEFT_OUT and "bench" in test.__code__.co_varnames
    }
)


class PostgresqlBench(Bench):
    """A bench whose store is a database of a server."""

    def __init__(self, server: PostgresqlServer, url: str) -> None:
        self._server = server
        # Whoever opens the store of a bench once more does so by its path.
        super().__init__(url)  # type: ignore[arg-type]

    def bytes_on_disk(self) -> bytes:
        """What the server's tables hold; of its write-ahead log nothing is promised."""
        self._server.checkpoint()
        with self.store.engine.connect() as connection:
            number = connection.execute(
                text("SELECT oid FROM pg_database WHERE datname = current_database()")
            )
            tables = self._server.folder / "data/base" / str(number.scalar_one())
        return b"".join(map(_content, tables.iterdir()))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # one of those that the server makes anew now and then
        return b""


@pytest.fixture(scope="session")
def database(postgresql: PostgresqlServer) -> str:
    return postgresql.database()


@pytest.fixture
def bench(postgresql: PostgresqlServer, database: str) -> Iterator[Bench]:
    bench = PostgresqlBench(postgresql, database)
    with bench.store.writing() as connection:
        for table in ("events", "permits", "rack"):
            connection.execute(text(f"DELETE FROM {table}"))
        for sequence in ("events_seq_seq", "permits_id_seq"):
            connection.execute(text(f"ALTER SEQUENCE {sequence} RESTART"))
    bench.store._marks.change_all()
    bench.store.put_rack(rack(), bench.clock.now)
    yield bench
    bench.close()


def test_what_a_permit_carried_is_in_a_table_until_it_is_erased(bench: Bench, tmp_path: Path) -> None:
    """Else the tests that look for it on the disk could not fail here."""
    bench.grant()
    assert b"CANARY" in bench.bytes_on_disk()

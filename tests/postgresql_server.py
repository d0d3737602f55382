"""A PostgreSQL server of the tests' own: Debian's program, an unprivileged user, a unix socket in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

USER = "rackproof"
# What is acknowledged is on the disk: fsync and synchronous_commit stay as they are, on.
SETTINGS = ("listen_addresses=", "max_connections=60", "shared_buffers=16MB", "unix_socket_permissions=0700")


class PostgresqlServer:
    """A running server whose databases nobody else uses."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self.folder = programs, folder
        self._numbers = count(1)
        # The server refuses to run as root; the package makes a user for it.
        root = os.geteuid() == 0
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []
        if root:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
        self._run(
            "initdb", "--auth=trust", f"--username={USER}", "--no-sync", "--encoding=UTF8", "--locale=C"
        )
        settings = (*SETTINGS, f"unix_socket_directories={folder}")
        options = " ".join(f"-c {setting}" for setting in settings)
        self._run("pg_ctl", "start", "--wait", f"--log={folder}/log", f"--options={options}")

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"ledger{next(self._numbers)}"
        self._tell(f"CREATE DATABASE {name}")
        return self.url(name)

    def checkpoint(self) -> None:
        """Have everything written into the files of the tables, and files of dropped tables removed."""
        self._tell("CHECKPOINT")

    def url(self, name: str, password: str = "") -> str:
        """The URL of a database, whether there is one or not."""
        return f"postgresql://{USER}{':' if password else ''}{password}@/{name}?host={self.folder}"

    def stop(self) -> None:
        """End the server."""
        self._run("pg_ctl", "stop", "--wait", "--mode=immediate")

    def _tell(self, what: str) -> None:
        where = f"host={self.folder} user={USER} dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(what.encode())

    def _run(self, program: str, *arguments: str) -> None:
        data = f"--pgdata={self.folder}/data"
        subprocess.run(
            [*self._as, str(self._programs / program), data, *arguments],
            cwd=self.folder,
            check=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A server for all tests of the session; skips without Debian's package."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs:
        pytest.skip(
            "needs /usr/lib/postgresql/*/bin/postgres of Debian's postgresql; ./bootstrap installs it"
        )
    # Not below pytest's own folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="rackproof-postgresql-", dir="/tmp"))
    try:
        server = PostgresqlServer(programs[-1].parent, folder)
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store is kept: by turns an SQLite file and a PostgreSQL database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.database()

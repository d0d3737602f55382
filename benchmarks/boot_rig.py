"""The real boot service on a real store, behind the real nginx configuration, for simulated nodes."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace, TracebackType

from benchmarks.boot_nodes import LAB, Leave, SimulatedNode, Way
from provision.boot_service.client import BootService
from provision.errors import GaveUp
from provision.render import render
from provision.wait import NotYet, Patience

ROOT = Path(__file__).parent.parent
# Debian's own /etc/nginx/nginx.conf, as far as it matters for speed, around a configuration of ours.
MAIN = """{user}
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
worker_rlimit_nofile {files};
events {{ worker_connections {connections}; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log {folder}/access.log;
    gzip on;
    client_body_temp_path {folder}/temporary-body;
    proxy_temp_path {folder}/temporary-proxy;
    fastcgi_temp_path {folder}/temporary-fastcgi;
    uwsgi_temp_path {folder}/temporary-uwsgi;
    scgi_temp_path {folder}/temporary-scgi;
    {more}
    include {conf};
}}
"""
# wrk asks from one address alone: in which node's name, it says in a header.
MANY_AS_ONE = "set_real_ip_from 127.0.0.1; real_ip_header X-Simulated-Node;"
DEBIANS_CONNECTIONS = 768
MEMORY = Path("/dev/shm")  # noqa: S108 (a private folder is made in it)
READY_SECONDS = 30.0


class Nginx:
    """An nginx of its own on loopback ports, with the main configuration of Debian's package."""

    def __init__(
        self, folder: Path, conf: str, *, more: str = "", connections: int = DEBIANS_CONNECTIONS
    ) -> None:
        folder.mkdir()
        (folder / "site.conf").write_text(conf)
        user = "user root;" if os.geteuid() == 0 else ""
        main = MAIN.format(user=user, folder=folder, files=2 * connections, connections=connections,
                           conf=folder / "site.conf", more=more)  # fmt: skip
        (folder / "nginx.conf").write_text(main)
        command: list[str | Path] = ["nginx", "-p", folder, "-c", folder / "nginx.conf"]
        command += ["-e", folder / "nginx-error.log"]
        subprocess.run([*command, "-t", "-q"], check=True)
        self._process = subprocess.Popen([*command, "-g", "daemon off;"])
        wait_for(folder / "nginx.pid", self._process)

    def end(self) -> None:
        """Stop it and wait for its workers."""
        self._process.terminate()
        self._process.wait(READY_SECONDS)


class BootRig:
    """A boot service that knows so many nodes, with or without nginx before it; `way` leads to it.

    `as_one`: all nodes are one client that names the node in a header. `secure`: by HTTPS where tokens are.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int,
        *,
        nginx: bool = True,
        as_one: bool = False,
        secure: bool = True,
        workers: int = 1,
        connections: int = DEBIANS_CONNECTIONS,
    ) -> None:
        self.folder = folder
        self.nodes = [SimulatedNode(number) for number in range(nodes)]
        self._round = 0
        self.port = self.secure_port = 0
        with ExitStack() as ends:
            self._ends = ends
            # As /run on a server: in memory, unlike the ledger.
            run = tempfile.TemporaryDirectory(prefix="boot-rig-", dir=MEMORY if MEMORY.is_dir() else None)
            self._run = Path(self._ends.enter_context(run))
            self.operator = BootService(self._run / "operator.sock")
            _write_leases(folder / "leases", self.nodes)
            self.process = self._begin_service(workers)
            self.operator.put_rack(LAB, [node.rack_node() for node in self.nodes])
            if nginx:
                self._begin_nginx(as_one, connections)
            # Nothing has failed: it ends with this rig.
            self._ends = ends.pop_all()
        self.way = self._way(nginx, secure)

    def __enter__(self) -> BootRig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def grant_all(self) -> list[Leave]:
        """Give every node a new permit, in the place of the one before."""
        self._round += 1
        leaves = [Leave(node, self._round) for node in self.nodes]
        expires = time.time() + 3600
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda leave: self.operator.grant(**leave.grant(expires)), leaves))
        return leaves

    def cpu_seconds(self) -> float:
        """The CPU time that the boot service's first process has had so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _way(self, nginx: bool, secure: bool) -> Way:
        if not nginx:
            return Way(nodes_socket=self._run / "nodes.sock")
        certificate = self.folder / "server.crt" if secure else None
        return Way(port=self.port, secure_port=self.secure_port, certificate=certificate)

    def _begin_service(self, workers: int) -> subprocess.Popen[bytes]:
        folder, run = self.folder, self._run
        command: list[str | Path] = [
            sys.executable, "-m", "provision.boot_service", "--ledger", folder / "boot.db",
            "--operator-socket", run / "operator.sock", "--nodes-socket", run / "nodes.sock",
            "--nginx-socket", run / "nginx.sock", "--published", run / "published",
            "--leases", folder / "leases", "--workers", str(workers),
        ]  # fmt: skip
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(folder / "notify"))
            manager.settimeout(READY_SECONDS)
            notify = {"NOTIFY_SOCKET": str(folder / "notify")}
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | notify)
            self._ends.callback(_end, process)
            assert manager.recv(100) == b"READY=1"
        return process

    def _begin_nginx(self, as_one: bool, connections: int) -> None:
        folder, run = self.folder, self._run
        (folder / "media").mkdir()
        self.port, self.secure_port = free_ports(2)
        conf = render(
            "nginx.conf.j2", lab=SimpleNamespace(name=LAB), address="127.0.0.1", http_root=folder / "media",
            tftp_root=folder / "tftp",
            nodes_socket=run / "nodes.sock", people_socket=run / "people.sock",
            nginx_socket=run / "nginx.sock", published=run / "published",
            certificate=folder / "server.crt", key=folder / "server.key",
            fingerprint=_certificate(folder),
        )  # fmt: skip
        for there, here in (
            ("127.0.0.1:80;", f"127.0.0.1:{self.port};"),
            ("127.0.0.1:443 ", f"127.0.0.1:{self.secure_port} "),
            ("/var/log/nginx/", f"{folder}/nginx/"),
        ):
            conf = conf.replace(there, here)
        more = MANY_AS_ONE if as_one else ""
        nginx = Nginx(folder / "nginx", conf, more=more, connections=connections)
        self._ends.callback(nginx.end)


def missing(*programs: str) -> list[str]:
    """Which of these programs are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [program for program in programs if shutil.which(program, path=path) is None]


def free_ports(count: int) -> Sequence[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _write_leases(path: Path, nodes: Sequence[SimulatedNode]) -> None:
    lines = [f"0 {node.mac} {node.address} {node.name} *\n" for node in nodes]
    path.write_text("".join(lines))


def _certificate(folder: Path) -> str:
    """Make a key and a certificate as the server step does. Returns its SHA-256."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2",
         "-keyout", folder / "server.key", "-out", folder / "server.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    return sha256(ssl.PEM_cert_to_DER_cert((folder / "server.crt").read_text())).hexdigest()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(READY_SECONDS)
    finally:
        process.kill()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process that has just been started has made a file. Raises GaveUp."""

    def begun() -> bool | NotYet:
        if process.poll() is not None:
            raise GaveUp(f"{process.args!r} ended with {process.returncode}")
        return path.exists() or NotYet("it has not begun")

    Patience(READY_SECONDS).until(f"{path.name}", begun)

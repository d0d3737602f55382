"""nginx as the server step sets it up, in front of sockets that play the boot service."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest

from provision import server_plan
from provision.certificate import CERTIFICATE, KEY, Certificate
from provision.inventory import load
from provision.wait import NotYet, Patience
from tests.certificates import certificate_of

LAB_FILE = Path(__file__).parents[2] / "labs" / "virtual.yaml"
MAC = "52:54:00:a1:01:21"
TOKEN = "secret-Token_0123456789"

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="there is no nginx here")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@dataclass
class Front:
    """A running nginx: its ports, its folder, and what it passed on, as (socket, method and path, headers)."""

    http: int
    https: int
    folder: Path
    trust: ssl.SSLContext
    passed: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    datagrams: socket.socket | None = None

    def ask(self, path: str, *, tls: bool = False, method: str = "GET", source: str = "127.0.0.1",
            body: str | None = None) -> tuple[int, str]:  # fmt: skip
        """Status and body of one request from an address of this machine."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, 10, (source, 0))
        if tls:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.https, timeout=10, source_address=(source, 0), context=self.trust
            )
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Location") or answer.read().decode()
        finally:
            connection.close()

    def backend(self, name: str, path: Path) -> _Server:
        """A server behind a unix socket that says its own name."""
        passed = self.passed

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {key.lower(): value for key, value in self.headers.items()}
                passed.append((name, f"{self.command} {self.path}", headers))
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            do_POST = do_GET  # noqa: N815 (http.server's)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's)
                """Keep the test's output clean."""

        server = _Server(str(path), Handler)
        path.chmod(0o666)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def configuration(front: Front) -> str:
    """The rendered configuration, with every path and port of the server turned into one of the test."""
    lab = load(LAB_FILE, {})
    certificate = Certificate((front.folder / "server.crt").read_text())
    [config] = server_plan._nginx(lab, certificate).files
    text = config.content.decode()
    for there, here in {
        "listen 10.10.1.1:80": f"listen 127.0.0.1:{front.http}",
        "listen 10.10.1.1:443": f"listen 127.0.0.1:{front.https}",
        CERTIFICATE: str(front.folder / "server.crt"),
        KEY: str(front.folder / "server.key"),
        "/run/rackproof/": f"{front.folder}/",
        f"{server_plan.HTTP_ROOT}/": f"{front.folder}/media/",
        "/var/log/nginx/": f"{front.folder}/",
    }.items():
        assert there in text, there
        text = text.replace(there, here)
    temporary = "".join(f"{kind}_temp_path {front.folder}/{kind};\n" for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))  # fmt: skip
    main = f"daemon off; pid {front.folder}/pid; error_log {front.folder}/error.log;\nevents {{}}\n"
    return f"{main}http {{\n{temporary}{text}}}\n"


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="nginx-") as name:
        # The workers of an nginx that root starts are not root, and pytest's own folders are for one user.
        Path(name).chmod(0o755)
        yield from _front(Path(name))


def _front(folder: Path) -> Iterator[Front]:
    certificate = certificate_of(folder)
    front = Front(free_port(), free_port(), folder, ssl.create_default_context(cadata=certificate.pem))
    published = folder / "published" / "127.0.0.1"
    published.mkdir(parents=True)
    (published / f"{MAC}.ipxe").write_text("#!ipxe published\n")
    (published / f"{MAC}.grub").write_text("# published for GRUB\n")
    (folder / "media").mkdir()
    (folder / "media" / "file").write_text("a big file")
    front.datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    front.datagrams.bind(str(folder / "nginx.sock"))
    front.datagrams.settimeout(5)
    (folder / "nginx.sock").chmod(0o666)
    servers = [front.backend(name, folder / f"{name}.sock") for name in ("nodes", "people")]
    (folder / "error.log").touch()
    (folder / "nginx.conf").write_text(configuration(front))
    nginx = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
    try:
        Patience(10, first=0.02, most=0.1).until("nginx answers", lambda: _answers(front))
        yield front
    finally:
        nginx.terminate()
        nginx.wait(10)
        for server in servers:
            server.shutdown()
            server.server_close()
        front.datagrams.close()


def _answers(front: Front) -> bool | NotYet:
    try:
        return front.ask("/media/file") == (200, "a big file")
    except OSError as error:
        return NotYet(f"{error}; {(front.folder / 'error.log').read_text()[-500:]}")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("path", "script"),
    [
        (f"/boot/{MAC}", "#!ipxe published\n"),
        (f"/boot/{MAC}.ipxe", "#!ipxe published\n"),
        (f"/grub/{MAC}", "# published for GRUB\n"),
        (f"/grub/{MAC}/grub.cfg", "# published for GRUB\n"),
    ],
)
def test_a_node_gets_its_published_script_and_the_service_hears_of_it(
    front: Front, path: str, script: str, tls: bool
) -> None:
    assert front.ask(path, tls=tls) == (200, script)
    assert front.datagrams is not None
    line = front.datagrams.recv(4096).decode()
    said = json.loads(line[line.index("{") :])
    assert said == {"who": "127.0.0.1", "path": f"/{path.split('/')[1]}/{MAC}", "status": 200}
    assert re.match(r"<\d+>\w{3} [ \d]\d [\d:]{8} nginx: \{", line), line


def test_another_address_is_not_given_it(front: Front) -> None:
    assert front.ask(f"/boot/{MAC}", source="127.0.0.2") == (200, "nodes")
    name, asked, headers = front.passed[-1]
    assert (name, asked, headers["x-real-ip"]) == ("nodes", f"GET /boot/{MAC}", "127.0.0.2")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        "GET /boot/525400a10199", "GET /boot/made-up", f"POST /answer/{TOKEN}", "POST /answer",
        "POST /api2/json/auto-install/answer", f"POST /api2/json/auto-install/installations/{TOKEN}/post-hook",
        f"GET /first-boot/{TOKEN}", f"POST /installed/{TOKEN}", f"POST /report/{TOKEN}",
        f"GET /seed/{TOKEN}/user-data", f"POST /seed/{TOKEN}/reporting", "POST /api/answer.php",
        "POST /api/register-node.php", "POST /api/node-status.php", f"GET /?mac={MAC}&format=grub",
    ],
)  # fmt: skip
def test_what_nodes_ask_goes_to_the_nodes_socket(front: Front, asked: str, tls: bool) -> None:
    method, path = asked.split()
    assert front.ask(path, method=method, tls=tls) == (200, "nodes")
    name, got, headers = front.passed[-1]
    assert (name, got, headers["x-scheme"]) == ("nodes", asked, "https" if tls else "http")
    assert headers["x-real-ip"] == "127.0.0.1"


@pytest.mark.parametrize(
    "path", ["/", "/login", "/nodes/node1", "/api/v1/nodes", "/api/v1/events", "/metrics"]
)
def test_peoples_pages_are_there_by_https_alone(front: Front, path: str) -> None:
    assert front.ask(path, tls=True) == (200, "people")
    expected = (302, "https://10.10.1.1/") if path == "/" else 404
    answer = front.ask(path)
    assert expected in (answer, answer[0])


def test_no_log_holds_a_token(front: Front) -> None:
    for path in (f"/answer/{TOKEN}", f"/seed/{TOKEN}/user-data", f"/report/{TOKEN}",
                 f"/api2/json/auto-install/installations/{TOKEN}/post-hook", f"/first-boot/{TOKEN}?x={TOKEN}"):  # fmt: skip
        front.ask(path, method="POST", tls=True)
        front.ask(path)
    front.ask("/report/" + TOKEN, method="POST", body="x" * (1 << 20 | 1))
    logs = "".join(path.read_text() for path in front.folder.glob("*.log"))
    assert "/answer/..." in logs
    assert TOKEN not in logs


def test_what_is_too_large_is_cut_before_the_service(front: Front) -> None:
    before = len(front.passed)
    assert front.ask(f"/report/{TOKEN}", method="POST", body="x" * (1 << 20 | 1))[0] == 413
    assert front.ask("/boot/" + "x" * 9000)[0] == 414
    assert len(front.passed) == before


def test_nobody_reads_beyond_the_media(front: Front) -> None:
    for path in ("/media/../server.key", "/media/%2e%2e/server.key", "/media/", f"/boot/..%2f{MAC}"):
        assert front.ask(path)[0] in (400, 403, 404) or front.passed[-1][0] == "nodes"
        assert "PRIVATE" not in front.ask(path)[1]
    assert front.ask("/media/file", method="POST")[0] == 403


def test_one_address_that_floods_leaves_the_others_alone(front: Front) -> None:
    shutil.copytree(front.folder / "published" / "127.0.0.1", front.folder / "published" / "127.0.0.9")
    request = f"GET /boot/{MAC} HTTP/1.1\r\nHost: flood\r\n"
    with socket.create_connection(("127.0.0.1", front.http), 10, ("127.0.0.9", 0)) as flood:
        flood.sendall(f"{request}\r\n".encode() * 900 + f"{request}Connection: close\r\n\r\n".encode())
        said = b"".join(iter(lambda: flood.recv(1 << 16), b"")).decode()
    statuses = re.findall(r"(?m)^HTTP/1.1 (\d+)", said)
    assert set(statuses[:150]) == {"200"}
    assert "429" in statuses
    assert front.ask(f"/report/{TOKEN}", method="POST") == (200, "nodes")

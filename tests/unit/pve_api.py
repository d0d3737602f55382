"""A small, strict Proxmox VE on loopback TLS: its cluster API with its pains, on a clock of its own.

Nothing here passes by real time: whoever waits moves the clock, and what is due happens at the next request
or command. Answers follow the facts in docs/cluster.md.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from provision.cluster import AUTHORIZED_KEYS, SURVEY
from provision.pve import FINGERPRINT_COMMAND
from provision.remote import ABSENT, Output, Remote, Stdin
from provision.wait import Patience

CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
LINKS = re.compile(r"link[0-7]")
LOCK = "can't lock file '/var/lock/pvecm.lock' - got timeout"
# method, path, required parameters, pattern of optional ones
ROUTES: tuple[tuple[str, str, set[str], re.Pattern[str] | None], ...] = (
    ("POST", r"/access/ticket", {"username", "password"}, None),
    ("GET", r"/version", set(), None),
    ("GET", r"/cluster/status", set(), None),
    ("GET", r"/cluster/config/nodes", set(), None),
    ("GET", r"/cluster/config/join", set(), None),
    ("POST", r"/cluster/config", {"clustername"}, LINKS),
    ("POST", r"/cluster/config/join", {"hostname", "fingerprint", "password"}, LINKS),
    ("DELETE", r"/cluster/config/nodes/(?P<name>[^/]+)", set(), None),
    ("GET", r"/nodes/(?P<name>[^/]+)/tasks/(?P<upid>[^/]+)/status", set(), None),
    ("GET", r"/nodes/(?P<name>[^/]+)/tasks/(?P<upid>[^/]+)/log", set(), re.compile("start|limit")),
)


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def patience(self, seconds: float) -> Patience:
        return Patience(seconds, first=0.5, most=2.0, now=self.now, sleep=self.sleep)


class ApiError(Exception):
    def __init__(self, status: int, message: str, errors: Mapping[str, str] | None = None) -> None:
        self.status, self.message, self.errors = status, message, errors
        super().__init__(message)


@dataclass
class Call:
    """One request as it came, after its login was accepted or refused."""

    node: str
    method: str
    path: str
    params: dict[str, str]
    status: int = 0


@dataclass
class FakeTask:
    upid: str
    log: list[str] = field(default_factory=list)
    exitstatus: str | None = None


@dataclass
class FakeCluster:
    name: str
    nodelist: dict[str, dict[str, str]] = field(default_factory=dict)
    online: set[str] = field(default_factory=set)
    version: int = 1
    stale_fingerprints: dict[str, str] = field(default_factory=dict)

    @property
    def quorate(self) -> bool:
        return len(self.online) * 2 > len(self.nodelist)

    def add(self, name: str, links: Mapping[str, str]) -> None:
        used = {int(entry["nodeid"]) for entry in self.nodelist.values()}
        nodeid = next(number for number in range(1, 99) if number not in used)
        rings = {f"ring{link[4:]}_addr": address for link, address in links.items()}
        self.nodelist[name] = {
            "name": name,
            "node": name,
            "nodeid": str(nodeid),
            "quorum_votes": "1",
            **rings,
        }


class FakeNode:
    """A node: what it is over SSH, and its API."""

    def __init__(self, rack: FakeRack, name: str, addresses: list[str]) -> None:
        self.rack, self.name, self.addresses = rack, name, addresses
        self.hostname, self.resolved, self.version = name, addresses[0], "pve-manager/9.1.4/5ac30304265fbd8e"
        self.password, self.clock_offset = f"secret of {name}", 0.0
        self.guests: list[str] = []
        self.cluster: FakeCluster | None = None
        self.files: set[str] = set()
        self.corosync = False
        self.dead_links: set[int] = set()
        self.keys = f"ssh-ed25519 AAAA-lab root@mgmt\nssh-rsa AAAA-{name} root@{name}\n"
        self.commands: list[str] = []
        self.tasks: dict[str, FakeTask] = {}
        self.tickets: set[str] = set()
        self.csrf = f"csrf of {name}"
        self.certificate_on_disk = True
        # Faults that a test plants
        self.locked_until = 0.0
        self.never_online = False
        self.create_fails: str | None = None
        self.join_fails: str | None = None
        self.join_ends = "OK"
        self.lose_answer_to: str | None = None
        self.answers_with: tuple[int, str] | None = None
        self.down = False
        self.new_certificate()
        self.restart_api()

    # The machine

    def new_certificate(self) -> None:
        issued = CA.issue_cert(f"{self.name}.lab.example.net", key_type=trustme.KeyType.ECDSA)
        leaf = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        digest = hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest().upper()
        self.fingerprint = ":".join(digest[at : at + 2] for at in range(0, 64, 2))
        self.written = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(self.written)

    def restart_api(self) -> None:
        """Serve the certificate that is on the disk, and close all connections."""
        self.context, self.generation = self.written, object()

    def become_member(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.files = {"/etc/corosync/authkey", "/etc/corosync/corosync.conf", "/etc/pve/corosync.conf"}
        self.corosync = True

    def reinstall(self) -> None:
        """Fresh disk, same name; the cluster still lists it."""
        old, self.cluster = self.cluster, None
        self.files, self.corosync = set(), False
        self.tickets.clear()
        if old is not None:
            old.online.discard(self.name)
            old.stale_fingerprints[self.name] = self.fingerprint
        self.new_certificate()
        self.restart_api()

    def survey(self) -> str:
        cluster = self.cluster if "/etc/corosync/corosync.conf" in self.files else None
        said = {
            "clock": f"{time.time() + self.clock_offset:.9f}",
            "hostname": self.hostname,
            "resolved": self.resolved,
            "addresses": " ".join(["127.0.0.1", *self.addresses]),
            "version": self.version,
            "guests": " ".join(self.guests),
            "files": " ".join(sorted(self.files)),
            "corosync": "active" if self.corosync else "inactive",
            "cluster": cluster.name if cluster else "",
            "members": " ".join(cluster.nodelist) if cluster else "",
        }
        return "".join(f"{key}={value}\n" for key, value in said.items())

    def cfgtool(self) -> str:
        assert self.cluster is not None
        lines = [f"Local node ID {self.cluster.nodelist[self.name]['nodeid']}, transport knet"]
        for name in sorted(self.cluster.online - {self.name}):
            peer = self.rack.nodes[name]
            lines.append(
                f"nodeid: {self.cluster.nodelist[name]['nodeid']} reachable   onwire (min/max/cur): 0, 1, 1"
            )
            for number, (mine, theirs) in enumerate(zip(self.addresses, peer.addresses, strict=True)):
                dead = number in self.dead_links | peer.dead_links
                state = "enabled disconnected" if dead else "enabled connected"
                lines.append(f"   LINK: {number} udp ({mine}->{theirs}) {state} mtu: 1397")
            lines.append("")
        return "\n".join(lines) + "\n"

    # The API

    def answer(self, method: str, path: str, params: dict[str, str], headers: Mapping[str, str]) -> Any:
        """The `data` of the answer; raises ApiError."""
        if self.answers_with:
            raise ApiError(*self.answers_with)
        if (method, path) != ("POST", "/access/ticket"):
            self._authorize(method, headers)
        for verb, pattern, required, optional in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and verb == method:
                self._verify(params, required, optional)
                words = re.sub(r"\(.*?\)", "x", pattern).strip("/").replace("/", "_")
                return getattr(self, f"_{method.lower()}_{words}")(params, **match.groupdict())
        raise ApiError(501, f"Method '{method} {path}' not implemented")

    def _authorize(self, method: str, headers: Mapping[str, str]) -> None:
        ticket = headers.get("Cookie", "").removeprefix("PVEAuthCookie=")
        if not ticket:
            raise ApiError(401, "No ticket")
        if ticket not in self.tickets:
            raise ApiError(401, "permission denied - invalid PVE ticket")
        if method != "GET" and headers.get("CSRFPreventionToken") != self.csrf:
            raise ApiError(401, "Permission denied - invalid csrf token")

    def _verify(self, params: dict[str, str], required: set[str], optional: re.Pattern[str] | None) -> None:
        errors = dict.fromkeys(required - params.keys(), "property is missing and it is not optional")
        for name in params.keys() - required:
            if not optional or not optional.fullmatch(name):
                errors[name] = (
                    "property is not defined in schema and the schema does not allow additional properties"
                )
        if errors:
            raise ApiError(400, "Parameter verification failed.", errors)

    def _post_access_ticket(self, params: dict[str, str]) -> Any:
        if params["username"] != "root@pam" or params["password"] != self.password:
            raise ApiError(401, "authentication failure")
        ticket = (
            f"PVE:root@pam:{len(self.tickets):08X}::{hashlib.sha256(self.fingerprint.encode()).hexdigest()}="
        )
        self.tickets.add(ticket)
        return {"ticket": ticket, "CSRFPreventionToken": self.csrf, "username": "root@pam"}

    def _get_version(self, _: dict[str, str]) -> Any:
        return {"version": "9.1.4", "release": "9.1", "repoid": "5ac30304265fbd8e"}

    def _get_cluster_status(self, _: dict[str, str]) -> Any:
        if self.cluster is None:
            return [self._entry(self.name, 0, online=True)]
        nodes = [
            self._entry(name, int(entry["nodeid"]), online=name in self.cluster.online)
            for name, entry in self.cluster.nodelist.items()
        ]
        cluster = {"type": "cluster", "id": "cluster", "name": self.cluster.name, "nodes": len(nodes),
                   "version": self.cluster.version, "quorate": int(self.cluster.quorate)}  # fmt: skip
        return [*nodes, cluster]

    def _entry(self, name: str, nodeid: int, *, online: bool) -> dict[str, Any]:
        address, local = self.rack.nodes[name].addresses[0], int(name == self.name)
        return {"type": "node", "id": f"node/{name}", "name": name, "nodeid": nodeid, "online": int(online),
                "ip": address, "local": local, "level": ""}  # fmt: skip

    def _get_cluster_config_nodes(self, _: dict[str, str]) -> Any:
        return [dict(entry) for entry in self.cluster.nodelist.values()] if self.cluster else []

    def _get_cluster_config_join(self, _: dict[str, str]) -> Any:
        if self.cluster is None:
            raise ApiError(424, "node is not in a cluster, no join info available!")
        nodelist = [
            {
                **entry,
                "pve_addr": self.rack.nodes[name].addresses[0],
                "pve_fp": self.rack.pve_fp(self.cluster, name),
            }
            for name, entry in sorted(self.cluster.nodelist.items(), reverse=True)
        ]
        totem = {"cluster_name": self.cluster.name, "config_version": str(self.cluster.version)}
        return {"preferred_node": self.name, "config_digest": "0" * 40, "nodelist": nodelist, "totem": totem}

    def _post_cluster_config(self, params: dict[str, str]) -> Any:
        task = self._task("clustercreate", params["clustername"])
        links = {name: value for name, value in params.items() if LINKS.fullmatch(name)}
        if self.rack.clock.now() < self.locked_until:
            return self._end_later(10.0, task, LOCK)
        if self.create_fails:
            return self._end_later(2.0, task, self.create_fails)
        self.rack.later(1.0, lambda: self._created(params["clustername"], links))
        return self._end_later(2.0, task, "OK")

    def _created(self, name: str, links: dict[str, str]) -> None:
        cluster = FakeCluster(name)
        cluster.add(self.name, links)
        self.become_member(cluster)
        # corosync needs a moment before it is quorate
        self.rack.later(1.5, lambda: cluster.online.add(self.name))

    def _post_cluster_config_join(self, params: dict[str, str]) -> Any:
        tasks = [task for node in self.rack.nodes.values() for task in node.tasks.values()]
        self.rack.overlaps += [f"{self.name} while {task.upid}" for task in tasks if not task.exitstatus]
        task = self._task("clusterjoin", "")
        peer = next((node for node in self.rack.nodes.values() if params["hostname"] in node.addresses), None)
        links = {name: value for name, value in params.items() if LINKS.fullmatch(name)}
        error = self.join_fails or self._join_error(peer, params, links)
        if error:
            return self._end_later(10.0 if error == LOCK else 1.5, task, error)
        assert peer is not None and peer.cluster is not None
        self._join(peer.cluster, links, task)
        return task.upid

    def _join_error(self, peer: FakeNode | None, params: dict[str, str], links: dict[str, str]) -> str | None:
        if self.rack.clock.now() < self.locked_until:
            return LOCK
        if self.files or self.guests:
            return "Check if node may join a cluster failed!"
        if peer is None or params["fingerprint"] != peer.fingerprint:
            return "fingerprint 'x' not verified, abort!"
        if params["password"] != peer.password:
            return "401 authentication failure"
        if peer.cluster is None or not peer.cluster.quorate:
            return "cluster not ready - no quorum?"
        if self.name in peer.cluster.nodelist:
            return f"can't add existing node '{self.name}'"
        expected = {
            key.replace("ring", "link")[:5] for key in peer.cluster.nodelist[peer.name] if "ring" in key
        }
        if missing := expected - links.keys():
            number = min(missing).removeprefix("link")
            return f"corosync: link {number} exists in cluster config but wasn't specified for new node"
        return None

    def _join(self, cluster: FakeCluster, links: dict[str, str], task: FakeTask) -> None:
        later = self.rack.later
        later(1.0, lambda: self._accepted(cluster, links))
        later(1.5, lambda: self._api(down=True))
        if self.never_online:
            return
        later(3.0, lambda: cluster.online.add(self.name))
        later(3.5, lambda: self._api(down=False, answers_with=(596, "certificate verify failed")))
        later(5.0, self._new_identity)
        later(6.0, lambda: self._api(down=True))
        later(7.0, lambda: self._api(down=False))
        self._end_later(9.0, task, self.join_ends)

    def _accepted(self, cluster: FakeCluster, links: dict[str, str]) -> None:
        cluster.add(self.name, links)
        cluster.version += 1
        self.become_member(cluster)
        self.certificate_on_disk = False

    def _api(self, *, down: bool, answers_with: tuple[int, str] | None = None) -> None:
        self.down, self.answers_with = down, answers_with
        if down:
            self.restart_api()

    def _new_identity(self) -> None:
        assert self.cluster is not None
        self.tickets.clear()
        self.csrf += "'"
        self.certificate_on_disk = True
        self.cluster.stale_fingerprints.pop(self.name, None)
        self.new_certificate()

    def _delete_cluster_config_nodes_x(self, _: dict[str, str], name: str) -> None:
        if self.cluster is None or not self.cluster.quorate:
            raise ApiError(500, "cluster not ready - no quorum?")
        if name == self.name:
            raise ApiError(500, "Cannot delete myself from cluster!")
        if name not in self.cluster.nodelist:
            raise ApiError(500, f"Node/IP: {name} is not a known host of the cluster.")
        del self.cluster.nodelist[name]
        self.cluster.version += 1

    def _task(self, kind: str, about: str) -> FakeTask:
        upid = f"UPID:{self.name}:{1000 + len(self.tasks):08X}:0001F00D:69209F00:{kind}:{about}:root@pam:"
        self.tasks[upid] = FakeTask(upid, [f"{kind} begins"])
        return self.tasks[upid]

    def _end_later(self, seconds: float, task: FakeTask, exitstatus: str) -> str:
        def end() -> None:
            task.exitstatus = exitstatus
            good = exitstatus == "OK" or exitstatus.startswith("WARNINGS")
            task.log.append(f"TASK {exitstatus}" if good else f"TASK ERROR: {exitstatus}")

        self.rack.later(seconds, end)
        return task.upid

    def _find(self, name: str, upid: str) -> FakeTask:
        if name != self.name or unquote(upid) not in self.tasks:
            raise ApiError(400, "Parameter verification failed.", {"upid": "no such task"})
        return self.tasks[unquote(upid)]

    def _get_nodes_x_tasks_x_status(self, _: dict[str, str], name: str, upid: str) -> Any:
        task = self._find(name, upid)
        node, pid, pstart, start, kind, about, user = task.upid.split(":")[1:8]
        ended = {"exitstatus": task.exitstatus} if task.exitstatus else {}
        return {"upid": task.upid, "node": node, "pid": int(pid, 16), "pstart": int(pstart, 16), "type": kind,
                "starttime": int(start, 16), "id": about, "user": user,
                "status": "stopped" if ended else "running", **ended}  # fmt: skip

    def _get_nodes_x_tasks_x_log(self, params: dict[str, str], name: str, upid: str) -> Any:
        lines = self._find(name, upid).log[: int(params.get("limit", "50"))]
        return [{"n": number, "t": text} for number, text in enumerate(lines, 1)]


class FakeRemote(Remote):
    """SSH to a fake node: the commands that the step runs, and no others."""

    def __init__(self, node: FakeNode) -> None:
        self.node, self.name = node, node.name

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        node = self.node
        with node.rack.lock:
            node.rack.happen()
            node.commands.append(command)
            if command == SURVEY:
                return _output(node.survey())
            if command == FINGERPRINT_COMMAND:
                if not node.certificate_on_disk:
                    return Output(1, b"", b"Could not open file /etc/pve/local/pve-ssl.pem")
                return _output(f"sha256 Fingerprint={node.fingerprint}\n")
            if command == "corosync-cfgtool -n":
                return _output(node.cfgtool())
            if command == f"cat > {AUTHORIZED_KEYS}":
                assert isinstance(stdin, bytes)
                node.keys = stdin.decode()
                return _output("")
            if command.startswith(f"test -e {AUTHORIZED_KEYS} || exit {ABSENT}"):
                return _output(node.keys)
            assert command == "pvecm updatecerts", f"an unexpected command: {command}"
            return _output("")

    def forward_socket(self, remote_socket: str) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def _output(text: str) -> Output:
    return Output(0, text.encode(), b"")


class FakeRack:
    """Nodes, the clock they share, and all requests they were sent."""

    def __init__(self, addresses: Mapping[str, list[str]]) -> None:
        self.clock, self.lock = Clock(), threading.RLock()
        self.calls: list[Call] = []
        self.due: list[tuple[float, int, Callable[[], object]]] = []
        self.nodes = {name: FakeNode(self, name, links) for name, links in addresses.items()}
        self.remotes = {name: FakeRemote(node) for name, node in self.nodes.items()}
        self.ports: dict[str, int] = {}
        self._order = itertools.count()
        self.overlaps: list[str] = []
        self.faults: list[BaseException] = []

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        self.due.append((self.clock.now() + seconds, next(self._order), what))

    def happen(self) -> None:
        """Let everything happen that is due by now."""
        while ready := sorted(entry for entry in self.due if entry[0] <= self.clock.now()):
            for entry in ready:
                self.due.remove(entry)
                entry[2]()

    def pve_fp(self, cluster: FakeCluster, name: str) -> str | None:
        node = self.nodes[name]
        return cluster.stale_fingerprints.get(name) or (
            node.fingerprint if node.certificate_on_disk else None
        )

    def stand(self, cluster: str, *names: str) -> FakeCluster:
        """A finished cluster of these nodes."""
        made = FakeCluster(cluster, version=len(names))
        for name in names:
            links = {f"link{number}": address for number, address in enumerate(self.nodes[name].addresses)}
            made.add(name, links)
            made.online.add(name)
            self.nodes[name].become_member(made)
        return made

    def writes(self) -> list[tuple[str, str, str]]:
        """All requests but logins that would change something."""
        return [
            (call.node, call.method, call.path)
            for call in self.calls
            if call.method != "GET" and call.path != "/access/ticket"
        ]

    @contextmanager
    def serving(self) -> Iterator[FakeRack]:
        servers = [_Server(node) for node in self.nodes.values()]
        threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
        for server, thread in zip(servers, threads, strict=True):
            self.ports[server.node.name] = server.server_address[1]
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(servers, threads, strict=True):
                server.shutdown()
                server.server_close()
                thread.join()
        assert not self.faults, self.faults


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = super().get_request()
        plain.settimeout(5.0)
        wrapped = self.node.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.node.rack.faults.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # One packet for each answer: no waiting for the client's delayed acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        self.node = self.server.node
        with self.node.rack.lock:
            self.node.rack.happen()
            self.generation = self.node.generation
            if self.node.down:
                self._reset()
        self.request.do_handshake()
        super().setup()

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        fields = parse_qs(body or url.query, keep_blank_values=True, strict_parsing=bool(body or url.query))
        params = {name: values[0] for name, values in fields.items()}
        with self.node.rack.lock:
            call, status, said, data = self._answered(url.path.removeprefix("/api2/json"), params)
        if self.node.lose_answer_to == call.path:
            self.node.lose_answer_to = None
            self._reset()
        self._send(status, said, data)

    def _answered(self, path: str, params: dict[str, str]) -> tuple[Call, int, str, dict[str, Any]]:
        node = self.node
        node.rack.happen()
        if node.down or node.generation is not self.generation:
            self._reset()
        call = Call(node.name, self.command, path, params)
        node.rack.calls.append(call)
        try:
            data: dict[str, Any] = {"data": node.answer(self.command, path, params, dict(self.headers))}
            call.status, said = 200, "OK"
        except ApiError as error:
            call.status, said, data = error.status, error.message, {"data": None, "message": error.message}
            data |= {"errors": error.errors} if error.errors else {}
        return call, call.status, said, data

    def _reset(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()
        raise ConnectionResetError

    def _send(self, status: int, said: str, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(status, said.splitlines()[0])
        self.send_header("Content-Type", "application/json;charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

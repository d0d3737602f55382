"""Speaks to the Proxmox VE API of one node: pinned certificate, tickets, tasks judged by how they ended.

proxmoxer builds the URLs; what carries the requests is ours, because proxmoxer's own sessions cannot pin a
certificate, log in outside of the session and switch off the TLS warnings of the whole process.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import responses as phrases
from ssl import CERT_NONE, PROTOCOL_TLS_CLIENT, SSLContext, SSLSocket
from traceback import clear_frames, walk_tb
from typing import Any, TypeVar
from urllib.parse import quote

import requests
from proxmoxer.core import ANYEVENT_HTTP_STATUS_CODES, ProxmoxResource
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from provision import read_only
from provision.errors import LabError, Refused, Unreachable
from provision.inventory import Node, Secret
from provision.remote import Remote
from provision.spans import at_work
from provision.wait import NotYet, Patience

T = TypeVar("T")

PORT = 8006
TIMEOUT = 30.0
USER = "root@pam"
LOGIN = ("POST", "/api2/json/access/ticket")
# Tickets live two hours.
RENEW_AFTER = 3600.0
UNAUTHORIZED = 401
# A custom certificate, when there is one, is what pveproxy serves.
FINGERPRINT_COMMAND = " || ".join(
    f"openssl x509 -noout -fingerprint -sha256 -in /etc/pve/local/{name}.pem 2>/dev/null"
    for name in ("pveproxy-ssl", "pve-ssl")
)
_FINGERPRINT = re.compile(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}", re.IGNORECASE)
_BUSY = re.compile(r"can't lock file .* got timeout|got lock (?:request )?timeout")


class CertificateChanged(Unreachable):
    """The API's certificate is not the pinned one: another machine, or a node that has joined since."""


class AnswerLost(Unreachable):
    """The connection broke after a request may have been sent: it may have been carried out."""


class ApiRefused(Refused):
    """The API answered with an error; `status` is the HTTP status or one of PVE's 595 to 599."""

    def __init__(self, message: str, *, node: str, status: int) -> None:
        self.status = status
        super().__init__(message, node=node)

    @property
    def passing(self) -> bool:
        """Whether a node that is restarting its API, or changing its keys, answers so for some seconds."""
        return self.status == UNAUTHORIZED or self.status >= 500


class TaskFailed(Refused):
    """A task stopped, and not with success; `busy` when another process held a lock and nothing was done."""

    def __init__(self, node: str, what: str, exitstatus: str, log: Sequence[str]) -> None:
        self.busy = any(_BUSY.search(line) for line in (exitstatus, *log))
        super().__init__(f"{what} failed: {exitstatus}", node=node, last_seen="\n".join(log[-5:]) or None)


class Hidden(str):
    """A secret on its way into a request body: whoever logs or shows the request's fields sees stars."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Reply(BaseModel):
    """Part of an answer of the API; numbers may come as text, unknown fields are kept as extras."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Version(Reply):
    """`GET /version`."""

    version: str
    release: str


class Member(Reply):
    """A node in `GET /cluster/status`; `nodeid` is 0 on a node that is in no cluster."""

    name: str
    nodeid: int = 0
    online: bool = False
    local: bool = False
    ip: str | None = None


class _Head(Reply):
    name: str | None = None
    quorate: bool = False
    version: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What one node says of its cluster; `name` is None on a node that is in none."""

    name: str | None
    quorate: bool
    version: int | None
    members: Mapping[str, Member]

    @property
    def online(self) -> frozenset[str]:
        """Names of the nodes that it sees online, itself included."""
        return frozenset(name for name, member in self.members.items() if member.online)


class ConfigNode(Reply):
    """An entry of corosync's nodelist; `pve_fp`, its API's certificate, is told by `join_info` alone."""

    name: str
    nodeid: int
    pve_fp: str | None = None

    @property
    def links(self) -> dict[int, str]:
        """Its address by link number."""
        rings = {key: re.fullmatch(r"ring(\d)_addr", key) for key in self.model_extra or {}}
        return {int(match[1]): str((self.model_extra or {})[key]) for key, match in rings.items() if match}


class JoinInfo(Reply):
    """`GET /cluster/config/join`."""

    config_digest: str
    nodelist: list[ConfigNode]
    totem: dict[str, Any]

    @property
    def nodes(self) -> dict[str, ConfigNode]:
        """The nodelist by name."""
        return {node.name: node for node in self.nodelist}

    @property
    def config_version(self) -> int:
        """How often the corosync configuration was changed: 1 for the creation and 1 for each join."""
        return int(self.totem["config_version"])


class Task(Reply):
    """`GET /nodes/{node}/tasks/{upid}/status`."""

    status: str
    type: str = "task"
    exitstatus: str | None = None

    @property
    def running(self) -> bool:
        """Whether it has not stopped yet."""
        return self.status != "stopped"

    @property
    def worked(self) -> bool:
        """Whether it stopped with success; warnings are success, and having stopped alone is not."""
        return not self.running and (self.exitstatus or "").startswith(("OK", "WARNINGS: "))


class Session:
    """The API of one node, as root@pam; every request, the login too, accepts the pinned certificate alone.

    For one thread at a time. Every method raises Unreachable (CertificateChanged, AnswerLost) when
    the node cannot be spoken to, ApiRefused when it answers with an error.
    `api` is proxmoxer's resource, for calls that have no method here: `session.api.nodes("node1").get()`.
    """

    def __init__(
        self,
        node: str,
        address: str,
        password: Secret,
        fingerprint: str,
        *,
        port: int = PORT,
        timeout: float = TIMEOUT,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node, self.fingerprint = node, fingerprint
        self._transport = _Transport(
            node=node,
            base_url=f"https://{address}:{port}/api2/json",
            password=password,
            fingerprint=fingerprint,
            timeout=timeout,
            now=now,
        )
        self.api: Any = ProxmoxResource(
            base_url=self._transport.base_url, session=self._transport, serializer=_Json(node)
        )

    def __repr__(self) -> str:
        return f"Session({self.node!r}, {self._transport.base_url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    # Reading

    def version(self) -> Version:
        """Version and release of pve-manager."""
        return self.read(Version, self.api.version.get())

    def status(self) -> ClusterStatus:
        """The cluster as this node sees it."""
        entries = self.read(list[dict[str, Any]], self.api.cluster.status.get())
        heads = self.read(list[_Head], [entry for entry in entries if entry.get("type") == "cluster"])
        members = self.read(list[Member], [entry for entry in entries if entry.get("type") == "node"])
        head = heads[0] if heads else _Head()
        by_name = {member.name: member for member in members}
        return ClusterStatus(head.name, head.quorate, head.version, by_name)

    def config_nodes(self) -> dict[str, ConfigNode]:
        """Corosync's nodelist by name; empty on a node that is in no cluster."""
        nodes = self.read(list[ConfigNode], self.api.cluster.config.nodes.get())
        return {node.name: node for node in nodes}

    def join_info(self) -> JoinInfo:
        """What a node needs to join; refused by a node that is in no cluster."""
        return self.read(JoinInfo, self.api.cluster.config.join.get())

    # Changing

    def create_cluster(self, name: str, links: Sequence[str]) -> str:
        """Begin a cluster of this node, with its address on each link; the task's UPID."""
        upid = self.api.cluster.config.post(clustername=name, **_link_fields(links))
        return self.upid(upid)

    def join_cluster(self, peer: str, fingerprint: str, password: Secret, links: Sequence[str]) -> str:
        """Make this node join the cluster of the member at address `peer`; the task's UPID.

        `fingerprint` and `password` (of root) are the peer's, `links` this node's address on each link.
        """
        upid = self.api.cluster.config.join.post(
            hostname=peer, fingerprint=fingerprint, password=Hidden(password.reveal()), **_link_fields(links)
        )
        return self.upid(upid)

    def delete_node(self, name: str) -> None:
        """Take another node out of the nodelist; needs quorum."""
        self.api.cluster.config.nodes(name).delete()

    # Tasks

    def task(self, upid: str) -> Task:
        """How far a task is."""
        return self.read(Task, self._task_api(upid).status.get())

    def task_log(self, upid: str) -> list[str]:
        """The first 500 lines of a task's log."""
        lines = self.read(list[dict[str, Any]], self._task_api(upid).log.get(start=0, limit=500))
        return [str(line["t"]) for line in lines if "t" in line]

    def finish(self, upid: str, what: str, patience: Patience) -> Task:
        """Wait until a task has stopped with success; raises TaskFailed, or GaveUp when it is late.

        An API that is restarting meanwhile is asked again.
        """
        with at_work(self.node):
            task = patience.until(what, lambda: settling(lambda: self._stopped(upid)), node=self.node)
        return self.succeeded(upid, what, task)

    def succeeded(self, upid: str, what: str, task: Task) -> Task:
        """The task, when it stopped with success; raises TaskFailed with the end of its log otherwise."""
        if not task.worked:
            raise TaskFailed(self.node, what, task.exitstatus or task.status, self.task_log(upid))
        return task

    def _stopped(self, upid: str) -> Task | NotYet:
        task = self.task(upid)
        return NotYet(f"task {task.type} is {task.status}") if task.running else task

    def _task_api(self, upid: str) -> ProxmoxResource:
        return self.api.nodes(upid.split(":")[1]).tasks(quote(upid, safe=""))

    def upid(self, answer: object) -> str:
        """The UPID that a call which begins a task has answered with; raises LabError when it is none."""
        if not isinstance(answer, str) or not answer.startswith("UPID:"):
            raise LabError("the Proxmox API began a task, but did not answer with its UPID", node=self.node)
        return answer

    def read(self, shape: type[T], data: object) -> T:
        """An answer in the shape that it should have; raises LabError, naming the place that has not."""
        try:
            return TypeAdapter(shape).validate_python(data)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = f"the Proxmox API answered in an unknown shape: {place} {first['msg']}"
        raise LabError(message.replace(":  ", ": "), node=self.node)


def connect(node: Node, remote: Remote) -> Session:
    """A session with a node's API, its certificate learnt from the node itself over SSH."""
    return Session(node.name, str(node.management), node.root_password, fingerprint_of(remote))


def fingerprint_of(remote: Remote) -> str:
    """SHA-256 fingerprint ("AA:BB:…") of the certificate that a node's API serves, read on the node."""
    output = remote.check(FINGERPRINT_COMMAND)
    found = _FINGERPRINT.search(output)
    if found is None:
        raise LabError(
            f"openssl printed no fingerprint of the API's certificate: {output!r}", node=remote.name
        )
    return found[0].upper()


def settling(probe: Callable[[], T | NotYet], *, renewed: bool = False) -> T | NotYet:
    """Ask `probe` of an API that may be restarting: resets, 401 and 5xx are NotYet.

    A changed certificate is NotYet only where it is expected (`renewed`), and an error elsewhere.
    """
    try:
        return probe()
    except CertificateChanged as error:
        if not renewed:
            raise
        return NotYet(str(error))
    except Unreachable as error:
        return NotYet(str(error))
    except ApiRefused as error:
        if not error.passing:
            raise
        return NotYet(str(error))


def _link_fields(links: Sequence[str]) -> dict[str, str]:
    # No priorities: links of equal priority are used in the order of their numbers.
    return {f"link{number}": address for number, address in enumerate(links)}


@dataclass(frozen=True, slots=True)
class _Ticket:
    value: str = field(repr=False)
    csrf: str = field(repr=False)
    born: float


class _PinnedAdapter(HTTPAdapter):
    """Accepts one certificate, by its SHA-256 fingerprint, whoever signed it."""

    def __init__(self, node: str, fingerprint: str) -> None:
        self._node, self._fingerprint = node, fingerprint
        super().__init__()

    def send(self, request: requests.PreparedRequest, *how: Any, **more: Any) -> requests.Response:
        method, url = str(request.method), str(request.url)
        read_only.require_get(method, url, besides=(LOGIN,), node=self._node)
        return super().send(request, *how, **more)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool: object) -> None:
        # A context of its own: the default one reads all CAs of the system for each connection, for nothing.
        context = SSLContext(PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, CERT_NONE
        pin = {"ssl_context": context, "assert_fingerprint": self._fingerprint}
        super().init_poolmanager(connections, maxsize, block, **pin, **pool)


class _Transport:
    """What proxmoxer sends through: one pinned certificate, and a ticket that is renewed in time."""

    def __init__(
        self,
        *,
        node: str,
        base_url: str,
        password: Secret,
        fingerprint: str,
        timeout: float,
        now: Callable[[], float],
    ) -> None:
        self.node, self.base_url = node, base_url
        self._password, self._fingerprint, self._timeout, self._now = password, fingerprint, timeout, now
        self._ticket: _Ticket | None = None
        self._http = requests.Session()
        # No proxies, .netrc or CA bundles of the user's environment: the pinned fingerprint alone decides.
        self._http.trust_env = False
        self._http.verify = False
        self._http.mount("https://", _PinnedAdapter(node, fingerprint))

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        url: str,
        data: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> requests.Response:
        response = self._send(method, url, data, params, self._valid_ticket())
        if response.status_code == UNAUTHORIZED:
            # Refused before it was carried out: the node's keys were replaced, and its tickets with them.
            response = self._send(method, url, data, params, self._login())
        return self._accepted(method, url, data, response)

    def _valid_ticket(self) -> _Ticket:
        old = self._ticket
        return self._login() if old is None or self._now() - old.born >= RENEW_AFTER else old

    def _login(self) -> _Ticket:
        url, born = f"{self.base_url}/access/ticket", self._now()
        data = {"username": USER, "password": Hidden(self._password.reveal())}
        response = self._accepted("POST", url, data, self._send("POST", url, data, None, None))
        granted = _Json(self.node).loads(response)
        if not isinstance(granted, dict) or not granted.get("CSRFPreventionToken") or granted.get("NeedTFA"):
            message = f"login of {USER} gave no ticket; switch off its second factor until the cluster stands"
            raise ApiRefused(message, node=self.node, status=UNAUTHORIZED)
        self._ticket = _Ticket(granted["ticket"], granted["CSRFPreventionToken"], born)
        return self._ticket

    def _send(
        self,
        method: str,
        url: str,
        data: Mapping[str, Any] | None,
        params: Mapping[str, Any] | None,
        ticket: _Ticket | None,
    ) -> requests.Response:
        headers = {"Cookie": Hidden(f"PVEAuthCookie={ticket.value}")} if ticket else {}
        if ticket and method != "GET":
            headers["CSRFPreventionToken"] = Hidden(ticket.csrf)
        try:
            with at_work(self.node):
                return self._http.request(method, url, data=data, params=params, headers=headers,
                                          timeout=self._timeout, allow_redirects=False)  # fmt: skip
        except requests.RequestException as error:
            trouble = self._trouble(f"{method} {url}", error)
            _let_go(error)
        # Outside of the handler: requests' error holds the request, and with it the password.
        raise trouble

    def _trouble(self, what: str, error: requests.RequestException) -> Unreachable:
        if "Fingerprints did not match" in str(error):
            message = (
                f"{what}: the certificate served is not the one on the node's disk ({self._fingerprint}); "
                "is another machine at this address, or has the node joined a cluster since?"
            )
            return CertificateChanged(message, node=self.node)
        cause = getattr(error.args[0], "reason", error.args[0]) if error.args else error
        if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError) or isinstance(
            cause, NewConnectionError
        ):
            return Unreachable(f"{what}: could not connect: {_brief(cause)}", node=self.node)
        return AnswerLost(f"{what}: no answer: {_brief(cause)}", node=self.node)

    def _accepted(
        self, method: str, url: str, data: Mapping[str, Any] | None, response: requests.Response
    ) -> requests.Response:
        if response.ok and response.status_code < 300:
            return response
        path = url.removeprefix(self.base_url)
        message = _scrubbed(f"{method} {path} was refused: {_words_of(response)}", data)
        raise ApiRefused(message, node=self.node, status=response.status_code)


class _Json:
    """The serializer that proxmoxer asks for."""

    def __init__(self, node: str) -> None:
        self._node = node

    def loads(self, response: requests.Response) -> object:
        """The `data` of an answer."""
        try:
            return response.json()["data"]
        except (ValueError, KeyError, TypeError):
            kind = response.headers.get("Content-Type", "no content type")
        raise LabError(f"{response.url}: the answer is no JSON object with data ({kind})", node=self._node)


def _words_of(response: requests.Response) -> str:
    """Status, reason and the errors of single parameters, on one line."""
    status = response.status_code
    said = response.reason or phrases.get(status) or ANYEVENT_HTTP_STATUS_CODES.get(status, "")
    try:
        body = response.json()
    except ValueError:
        body = None
    errors = body.get("errors") if isinstance(body, dict) else None
    parameters = errors.items() if isinstance(errors, dict) else ()
    return " ".join(f"{status} {said}{''.join(f'; {name}: {text}' for name, text in parameters)}".split())


def _let_go(error: BaseException | None) -> None:
    """Clear the frames that an error and its causes came through: they hold the request's password."""
    while error is not None:
        for frame, _ in walk_tb(error.__traceback__):
            # CPython forgets to close a socket whose peer reset it before the TLS handshake.
            if isinstance(broken := frame.f_locals.get("self"), SSLSocket):
                broken.close()
        clear_frames(error.__traceback__)
        error = error.__context__


def _scrubbed(text: str, data: Mapping[str, Any] | None) -> str:
    for value in (data or {}).values():
        text = text.replace(value, "***") if isinstance(value, Hidden) and value else text
    return text


def _brief(cause: object) -> str:
    """An error of urllib3 without the object addresses in its text."""
    return re.sub(r"<[^>]*>:? ?|\w+Connection\([^)]*\):? ?", "", str(cause)) or type(cause).__name__

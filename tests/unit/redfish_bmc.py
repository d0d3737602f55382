"""A strict Redfish service on loopback, over TLS, in front of one machine that boots: for tests.

It serves a tree of resources, a vendor's recorded one or one written here, lays the machine's state over
it, refuses what a BMC would refuse, and has the faults that tests ask for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

USER, PASSWORD = "administrator", "correct horse"
TREES = Path(os.environ.get("REDFISH_TREES", Path(__file__).parents[2].parent / "shared/redfish-trees"))
CA = trustme.CA()
STRANGER = trustme.CA()
"""A CA that nothing here is signed by."""
CERTIFICATE = CA.issue_cert("127.0.0.1")
FINGERPRINT = (
    hashlib.sha256(ssl.PEM_cert_to_DER_cert(CERTIFICATE.cert_chain_pems[0].bytes().decode()))
    .digest()
    .hex(":")
)

TARGET, ENABLED, MODE = "BootSourceOverrideTarget", "BootSourceOverrideEnabled", "BootSourceOverrideMode"
ROOT, SESSIONS = "/redfish/v1", "/redfish/v1/SessionService/Sessions"


class Answer(Exception):
    """What a request is answered with, unless it is with the resource."""

    def __init__(
        self, status: int, message: str = "", *, message_id: str = "Base.1.8.GeneralError", **headers: str
    ) -> None:
        super().__init__(status, message)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        detail = {"MessageId": message_id, "Message": message}
        self.body: Any = {
            "error": {"code": message_id, "message": message, "@Message.ExtendedInfo": [detail]}
        }


class Cut(Exception):
    """A request whose answer ends in the middle."""


class Dropped(Exception):
    """A request whose answer never comes: the connection just ends."""


@dataclass
class Faults:
    """How this BMC misbehaves; each number is of how many times."""

    lose_reset_answer: int = 0
    lose_reset: int = 0
    lose_get: int = 0
    cut_get: int = 0
    lose_login: int = 0
    busy: list[Answer] = field(default_factory=list)
    """Answers given to the next requests, instead of a look at them."""
    refuse_reset: list[Answer] = field(default_factory=list)
    refuse_patch: list[Answer] = field(default_factory=list)
    ignore_reset: bool = False
    etag: str = ""
    """How If-Match is asked for: header, body, weak (only taken as strong) or rotating (changes once)."""
    task_polls: int | None = None
    task_end: Any = "Completed"
    task_in_body: bool = False
    """The answer of 202 holds the task, and names no monitor."""
    refuse_mode: bool = False
    drop_override: bool = False
    kept_after: int = 0
    """Reads until an accepted override reads back."""
    power_after: int = 0
    """Reads until a new power state reads back."""
    drop_order: bool = False
    ignore_clear: bool = False
    lose_clear_answer: bool = False
    null_power: int = 0
    stale_power: str | None = None
    """The power state told until the first reset is asked for."""
    login: Answer | None = None
    token_uses: int | None = None
    hide_root: bool = False
    slow: float = 0.0
    """Seconds before any answer."""
    late_reset: float = 0.0
    """Seconds from a reset, done at once, to its answer."""


class Bmc:
    """The service and the machine behind it: its state, and a record of what reached it."""

    def __init__(self, tree: dict[str, Any], **faults: Any) -> None:
        self.tree, self.faults = tree, Faults(**faults)
        self.systems = [link["@odata.id"] for link in tree[f"{ROOT}/Systems"]["Members"]]
        self.system = next(path for path in self.systems if "Boot" in tree[path] or len(self.systems) == 1)
        boot = tree[self.system].get("Boot", {})
        self.boot = {key: boot[key] for key in (TARGET, ENABLED, MODE) if key in boot}
        self.power = tree[self.system]["PowerState"]
        self.resets: list[str] = []
        self.cleared: list[str] = []
        self.boots: list[str] = []
        self.patches: list[tuple[str, Any]] = []
        self.logins, self.failed_logins = 0, 0
        self.sessions: dict[str, tuple[str, int]] = {}
        self.login_was_lost = False
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.port = 0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._reads_to_boot: int | None = None
        self._waiting: tuple[int, dict[str, str]] | None = None
        self._old_power: tuple[int, str] | None = None
        self._tags, self._restarts = 0, 0

    # What a request meets

    def handle(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], Any]:
        self.closing.wait(self.faults.slow)
        with self._lock:
            self.requests.append(f"{method} {path}")
            assert headers.get("OData-Version") == "4.0"
            assert headers.get("Connection") == "close"
            try:
                answer = self._answer(method, path.rstrip("/"), headers, body)
            except Answer as refusal:
                answer = refusal.status, refusal.headers, refusal.body
        if method == "POST" and self.resets:
            self.closing.wait(self.faults.late_reset)
        return answer

    def _answer(
        self, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], Any]:
        if self.faults.busy:
            raise self.faults.busy.pop(0)
        if method == "POST" and path == self._sessions_path:
            return self._log_in(body)
        if path != ROOT or self.faults.hide_root:
            self._authorise(headers)
        if method == "DELETE":
            if self.sessions.pop(path, None) is None:
                raise Answer(404, "no such session")
            return 204, {}, None
        if path == "/tasks/1":
            return self._task()
        resource = self._resource(path) if method != "POST" else None
        if method == "GET":
            return self._get(path, resource)
        if method == "PATCH":
            return self._patch(path, resource, headers, body)
        if path.endswith("/Actions/LogService.ClearLog"):
            return self._clear_log(path.removesuffix("/Actions/LogService.ClearLog"))
        return self._reset(path, body)

    # Logs

    def _clear_log(self, service: str) -> tuple[int, dict[str, str], Any]:
        self.cleared.append(service)
        if not self.faults.ignore_clear:
            # As BMCs do it: that it was cleared is the first thing the log then holds.
            said = {"Id": "1", "Created": "2026-01-01T00:00:00Z", "Severity": "OK", "Message": "Log cleared"}
            self.tree[self.tree[service]["Entries"]["@odata.id"].rstrip("/")] = {"Members": [said]}
        if self.faults.lose_clear_answer:
            raise Dropped
        return 204, {}, None

    # Logins

    @property
    def _sessions_path(self) -> str | None:
        link = self.tree[ROOT].get("Links", {}).get("Sessions")
        return link["@odata.id"] if link else None

    def _log_in(self, body: Any) -> tuple[int, dict[str, str], Any]:
        if self.faults.login:
            raise self.faults.login
        if body != {"UserName": USER, "Password": PASSWORD}:
            self.failed_logins += 1
            raise Answer(401, "wrong user or password")
        self.logins += 1
        path = f"{self._sessions_path}/{self.logins}"
        self.sessions[path] = (f"token-{self.logins}", self.faults.token_uses or 1_000_000)
        if self.faults.lose_login:
            self.faults.lose_login -= 1
            self.login_was_lost = True
            raise Dropped
        location = f"https://127.0.0.1:{self.port}{path}" if self.logins % 2 else path
        return (
            201,
            {"X-Auth-Token": f"token-{self.logins}", "Location": location},
            {"@odata.id": path, "Id": "1"},
        )

    def _authorise(self, headers: Mapping[str, str]) -> None:
        if "X-Auth-Token" in headers:
            self._authorise_token(headers["X-Auth-Token"])
        elif "Authorization" in headers:
            given = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
            if given != f"{USER}:{PASSWORD}":
                self.failed_logins += 1
                raise Answer(401, "wrong user or password")
        else:
            raise Answer(401, "who are you?")

    def _authorise_token(self, token: str) -> None:
        for path, (known, uses) in self.sessions.items():
            if known == token and uses > 0:
                self.sessions[path] = (known, uses - 1)
                return
            if known == token:
                del self.sessions[path]
                break
        raise Answer(401, "the session has ended")

    # Reading

    def _resource(self, path: str) -> Any:
        try:
            resource = json.loads(json.dumps(self.tree[path]))
        except KeyError:
            raise Answer(404, f"no {path}") from None
        if path == self.system:
            self._lay_over(resource)
        elif path == self._settings:
            resource["Boot"].update(self.boot)
        return resource

    def _lay_over(self, system: Any) -> None:
        if "Boot" in system and not self._settings:
            system["Boot"].update(self.boot)
        system["PowerState"] = self._told_power()
        if self._restarts and "LastResetTime" in system:
            system["LastResetTime"] = f"2026-01-01T00:00:{self._restarts:02}Z"
        if self._reads_to_boot is not None and "Hpe" in system.get("Oem", {}):
            system["Oem"]["Hpe"]["PostState"] = "InPost"

    def _told_power(self) -> str | None:
        if self.faults.null_power:
            self.faults.null_power -= 1
            return None
        if self._old_power and self._old_power[0] > 0:
            self._old_power = (self._old_power[0] - 1, self._old_power[1])
            return self._old_power[1]
        return self.faults.stale_power or str(self.power)

    @property
    def _settings(self) -> str | None:
        """The settings resource, where it is the place of the boot override."""
        path = self.tree[self.system].get("@Redfish.Settings", {}).get("SettingsObject", {}).get("@odata.id")
        return path if path and TARGET in self.tree[path].get("Boot", {}) else None

    def _get(self, path: str, resource: Any) -> tuple[int, dict[str, str], Any]:
        if self.faults.lose_get:
            self.faults.lose_get -= 1
            raise Dropped
        if self.faults.cut_get:
            self.faults.cut_get -= 1
            raise Cut
        if path == self.system:
            self._time_passes()
        headers = {}
        if tag := self._tag():
            if self.faults.etag == "body":
                resource["@odata.etag"] = tag
            else:
                headers["ETag"] = tag
        return 200, headers, resource

    def _time_passes(self) -> None:
        """The machine goes on each time that it is looked at."""
        if self._waiting:
            reads, boot = self._waiting
            self._waiting = (reads - 1, boot) if reads > 1 else None
            if reads <= 1:
                self.boot |= boot
        if self._reads_to_boot is not None:
            self._reads_to_boot -= 1
            if self._reads_to_boot <= 0:
                self._boot_up()

    def _boot_up(self) -> None:
        self._reads_to_boot = None
        once = self.boot.get(ENABLED) == "Once"
        legacy = self.boot.get(MODE) == "Legacy"
        self.boots.append(("Pxe, Legacy" if legacy else str(self.boot[TARGET])) if once else "Hdd")
        if once:
            self.boot |= {TARGET: "None", ENABLED: "Disabled"}

    # Writing

    def _tag(self) -> str | None:
        if not self.faults.etag:
            return None
        return f'{"W/" if self.faults.etag == "weak" else ""}"{self._tags}"'

    def _check_tag(self, headers: Mapping[str, str]) -> None:
        if not self.faults.etag:
            return
        if self.faults.etag == "rotating" and self._tags < 1:
            self._tags += 1
        if headers.get("If-Match") != f'"{self._tags}"':
            raise Answer(412, "the ETag is another", message_id="Base.1.8.PreconditionFailed")

    def _patch(
        self, path: str, resource: Any, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], Any]:
        if self.faults.refuse_patch:
            raise self.faults.refuse_patch.pop(0)
        ordering = isinstance(body.get("Boot"), dict) and set(body["Boot"]) == {"BootOrder"}
        if path != (self._place_of_order if ordering else self._settings or self.system):
            raise Answer(405, "this resource cannot be changed")
        self._check_tag(headers)
        self.patches.append((path, body))
        boot = body.get("Boot")
        if ordering:
            return self._patch_order(path, boot["BootOrder"])
        if set(body) != {"Boot"} or not set(boot) <= {TARGET, ENABLED, MODE}:
            raise Answer(400, "unknown property", message_id="Base.1.8.PropertyUnknown")
        self._check_boot(resource["Boot"], boot)
        if "Supermicro" in str(self.tree[self.system].get("Manufacturer")) and MODE in self.boot:
            boot = {MODE: "Legacy", **boot}
        if self.faults.kept_after:
            self._waiting = (self.faults.kept_after, boot)
        elif not self.faults.drop_override:
            self.boot |= boot
        if self.faults.task_polls is not None:
            if self.faults.task_in_body:
                return 202, {}, {"@odata.id": "/tasks/1", "TaskState": "New"}
            return 202, {"Location": "/tasks/1", "Retry-After": "1"}, None
        return 204, {}, None

    @property
    def _place_of_order(self) -> str:
        """The settings resource, where it is the place of the boot order (Lenovo's Pending)."""
        path = self.tree[self.system].get("@Redfish.Settings", {}).get("SettingsObject", {}).get("@odata.id")
        return str(path) if path and "BootOrder" in self.tree[path].get("Boot", {}) else self.system

    def _patch_order(self, path: str, order: list[str]) -> tuple[int, dict[str, str], Any]:
        boot = self.tree[path]["Boot"]
        if sorted(order) != sorted(boot["BootOrder"]):
            raise Answer(400, "not all entries", message_id="Base.1.8.PropertyValueError")
        if not self.faults.drop_order:
            boot["BootOrder"] = order
        return 204, {}, None

    def _check_boot(self, known: Mapping[str, Any], boot: Mapping[str, Any]) -> None:
        if MODE in boot and (self.faults.refuse_mode or MODE not in self.boot):
            raise Answer(400, "the mode cannot be changed", message_id="iLO.2.30.UnsupportedOperation")
        if set(boot) & {TARGET, ENABLED} != {TARGET, ENABLED}:
            raise Answer(400, "Target and Enabled belong together", message_id="Base.1.8.PropertyMissing")
        targets = known.get(f"{TARGET}@Redfish.AllowableValues", [boot[TARGET]])
        if boot[TARGET] not in targets or boot[ENABLED] not in ("Once", "Disabled", "Continuous"):
            raise Answer(400, "value not in list", message_id="Base.1.8.PropertyValueNotInList")

    def _task(self) -> tuple[int, dict[str, str], Any]:
        assert self.faults.task_polls is not None
        self.faults.task_polls -= 1
        if self.faults.task_polls > 0:
            return 202, {"Retry-After": "1"}, {"Id": "1", "TaskState": "Running"}
        return (
            200,
            {},
            {"Id": "1", "TaskState": self.faults.task_end, "Messages": [{"Message": "no such boot"}]},
        )

    # Reset

    def _reset(self, path: str, body: Any) -> tuple[int, dict[str, str], Any]:
        action = self.tree[self.system]["Actions"]["#ComputerSystem.Reset"]
        if path != action["target"]:
            raise Answer(404, f"no action {path}")
        if self.faults.lose_reset:
            self.faults.lose_reset -= 1
            raise Dropped
        if self.faults.refuse_reset:
            raise self.faults.refuse_reset.pop(0)
        if set(body) != {"ResetType"} or body["ResetType"] not in self._reset_types(action):
            raise Answer(400, f"no such reset: {body}", message_id="Base.1.8.ActionParameterNotSupported")
        self._do(body["ResetType"])
        if self.faults.lose_reset_answer:
            self.faults.lose_reset_answer -= 1
            raise Dropped
        return 204, {}, None

    def _reset_types(self, action: Any) -> list[str]:
        inline = action.get("ResetType@Redfish.AllowableValues")
        parameters = self.tree[action["@Redfish.ActionInfo"]]["Parameters"] if inline is None else ()
        return list(
            inline or next(one["AllowableValues"] for one in parameters if one["Name"] == "ResetType")
        )

    def _do(self, kind: str) -> None:
        self.faults.stale_power = None
        if self.power != ("Off" if kind in ("On", "ForceOn") else "On"):
            raise Answer(409, f"{kind} while power is {self.power}", message_id="IDRAC.2.8.PSU501")
        self.resets.append(kind)
        if self.faults.ignore_reset:
            return
        self._restarts += 1
        self._old_power = (self.faults.power_after, str(self.power))
        self.power = "Off" if kind == "ForceOff" else "On"
        self._reads_to_boot = None if kind == "ForceOff" else 2


# Trees


class _Recorded(dict[str, Any]):
    """A vendor's recorded tree, each resource read when it is first asked for; changes stay in memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, path: str) -> Any:
        file = self._folder / path.strip("/") / "index.json"
        if not file.is_file():
            raise KeyError(path)
        self[path] = json.loads(file.read_text())
        return self[path]


def recorded(vendor: str) -> dict[str, Any]:
    """A vendor's tree; skips the test when it is not on this machine."""
    if not (TREES / vendor).is_dir():
        pytest.skip(f"no Redfish tree of {vendor} at {TREES}; set REDFISH_TREES")
    return _Recorded(TREES / vendor)


def written(**system: Any) -> dict[str, Any]:
    """A tree of our own, of a plain machine with two NICs; the arguments replace properties of its system."""
    path = f"{ROOT}/Systems/1"
    tree: dict[str, Any] = {
        ROOT: {
            "Systems": _link(f"{ROOT}/Systems"),
            "Managers": _link(f"{ROOT}/Managers"),
            "Links": {"Sessions": _link(SESSIONS)},
        },
        f"{ROOT}/Systems": _collection(path),
        path: {
            "Id": "1",
            "Manufacturer": "Maker",
            "Model": "Plain 1",
            "SerialNumber": "S1",
            "BiosVersion": "1.0",
            "PowerState": "On",
            "Boot": {
                TARGET: "None",
                ENABLED: "Disabled",
                MODE: "UEFI",
                f"{TARGET}@Redfish.AllowableValues": ["None", "Pxe", "Hdd"],
            },
            "EthernetInterfaces": _link(f"{path}/EthernetInterfaces"),
            "Links": {"ManagedBy": [_link(f"{ROOT}/Managers/1")], "Chassis": [_link(f"{ROOT}/Chassis/1")]},
            "Actions": resets("On", "ForceOff", "ForceRestart"),
            **system,
        },
        f"{ROOT}/Managers": _collection(f"{ROOT}/Managers/1"),
        f"{ROOT}/Managers/1": {
            "Id": "1",
            "FirmwareVersion": "7.1",
            "EthernetInterfaces": _link(f"{ROOT}/Managers/1/EthernetInterfaces"),
        },
        f"{ROOT}/Chassis/1": {"Id": "1", "NetworkAdapters": _link(f"{ROOT}/Chassis/1/NetworkAdapters")},
    }
    add_nics(tree, path, "02:00:00:00:01:01", "02-00-00-00-01-02", "", "Not Available")
    add_nics(tree, f"{ROOT}/Managers/1", "02:00:00:00:01:F0")
    return tree


def add_nics(tree: dict[str, Any], owner: str, *macs: str) -> None:
    """Give a system or a manager these interfaces."""
    collection = f"{owner}/EthernetInterfaces"
    tree[collection] = _collection(*(f"{collection}/{i}" for i in range(len(macs))))
    tree |= {f"{collection}/{i}": {"Id": str(i), "MACAddress": mac} for i, mac in enumerate(macs)}


def add_adapter(tree: dict[str, Any], *macs: str) -> None:
    """Give the chassis one network adapter with these ports, on two pages."""
    adapter = f"{ROOT}/Chassis/1/NetworkAdapters/1"
    tree[f"{ROOT}/Chassis/1/NetworkAdapters"] = _collection(adapter)
    tree[adapter] = {"Id": "1", "Ports": _link(f"{adapter}/Ports")}
    tree[f"{adapter}/Ports"] = {**_collection(), "Members@odata.nextLink": f"{adapter}/Ports?skip=0"}
    tree[f"{adapter}/Ports?skip=0"] = _collection(*(f"{adapter}/Ports/{i}" for i in range(len(macs))))
    tree |= {
        f"{adapter}/Ports/{i}": {"Id": str(i), "Ethernet": {"AssociatedMACAddresses": [mac]}}
        for i, mac in enumerate(macs)
    }


def resets(*kinds: str, system: str = f"{ROOT}/Systems/1") -> dict[str, Any]:
    """The actions of a system that knows these reset types."""
    target = f"{system}/Actions/ComputerSystem.Reset"
    return {"#ComputerSystem.Reset": {"target": target, "ResetType@Redfish.AllowableValues": list(kinds)}}


def _link(path: str) -> dict[str, str]:
    return {"@odata.id": path}


def _collection(*members: str) -> dict[str, Any]:
    return {"Members": [_link(member) for member in members]}


# Serving


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, bmc: Bmc, certificate: trustme.LeafCert) -> None:
        self.bmc = bmc
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._tls)
        super().__init__(("127.0.0.1", 0), _Handler)
        bmc.port = self.server_address[1]

    def finish_request(self, request: Any, client_address: Any) -> None:
        # Handshake and conversation in the connection's own thread: one client that will not have our
        # certificate must not keep the others waiting.
        with self._tls.wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what went wrong here; clients that go away, or distrust us, are part of the tests."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.bmc.problems.append(repr(error))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        if raw:
            assert self.headers["Content-Type"] == "application/json"
        try:
            status, headers, body = self.server.bmc.handle(
                self.command, self.path, dict(self.headers), json.loads(raw) if raw else None
            )
        except Dropped:
            self.close_connection = True
            return
        except Cut:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            self.close_connection = True
            return
        content = (
            body.encode() if isinstance(body, str) else b"" if body is None else json.dumps(body).encode()
        )
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(bmc: Bmc, certificate: trustme.LeafCert = CERTIFICATE) -> Iterator[Bmc]:
    """Serve `bmc` on a port of loopback."""
    server = _Server(bmc, certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield bmc
    finally:
        bmc.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
    assert not bmc.problems


def fingerprints(text: str) -> list[str]:
    """The SHA-256 fingerprints in a text."""
    return re.findall(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){31}\b", text)

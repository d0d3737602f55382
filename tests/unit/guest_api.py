"""Guests, storages and volumes for the fake Proxmox VE of pve_api.py, judged by Proxmox's own API schema.

What a played guest does takes time on the rack's own clock: a download, a boot, an agent that answers late.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from fakepve import schema

from provision.errors import Unreachable
from provision.pve import FINGERPRINT_COMMAND
from provision.remote import Output, Remote, Stdin, Target
from tests.unit.pve_api import ApiError, FakeNode, FakeRack, FakeTask

GIB = 1 << 30
IMAGE_SIZE = 3
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuestGuestGuestGuestGuestGuestGuestGuest"
CLEAN = json.dumps({"status": "done", "errors": [], "recoverable_errors": {}})
DRIVES = re.compile(r"efidisk0|(?:scsi|virtio|ide|sata)\d+")


@dataclass
class FakeGuest:
    """A guest: where it is, its configuration, and when it was started."""

    vmid: int
    node: str
    config: dict[str, str] = field(default_factory=dict)
    started: float | None = None
    lock: str | None = None

    @property
    def template(self) -> bool:
        return self.config.get("template") == "1"

    @property
    def row(self) -> dict[str, Any]:
        """As its node lists it."""
        row = {"vmid": self.vmid, "status": "stopped" if self.started is None else "running"}
        row |= {"name": self.config.get("name", f"VM {self.vmid}"), "tags": self.config.get("tags", "")}
        row |= {"template": 1} if self.template else {}
        return row | ({"lock": self.lock} if self.lock else {})


class GuestNode(FakeNode):
    """A node with guests."""

    rack: GuestRack

    def answer(self, method: str, path: str, params: dict[str, str], headers: Mapping[str, str]) -> Any:
        for verb, pattern, name in ROUTES:
            if verb == method and (found := re.fullmatch(pattern, path)):
                self._authorize(method, headers)
                judge(method, path, params)
                return getattr(self, f"_{name}")(params, **found.groupdict())
        return super().answer(method, path, params, headers)

    def _find(self, name: str, upid: str) -> FakeTask:
        return FakeNode._find(self.rack.nodes[name], name, upid)

    def _began(self, node: str, kind: str, about: object, seconds: float, act: Callable[[], object]) -> str:
        """A task of `kind` that acts after some seconds; an ApiError of it is how the task fails."""
        owner = self.rack.nodes[node]
        task = owner._task(kind, str(about))

        def end() -> None:
            try:
                act()
                task.exitstatus = "OK"
            except ApiError as error:
                task.exitstatus = error.message
            task.log.append("TASK OK" if task.exitstatus == "OK" else f"TASK ERROR: {task.exitstatus}")

        self.rack.later(seconds, end)
        return task.upid

    def _guest(self, node: str, vmid: str) -> FakeGuest:
        guest = self.rack.guests.get(int(vmid))
        if guest is None or guest.node != node:
            raise ApiError(500, f"Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")
        return guest

    def _unlocked(self, node: str, vmid: str) -> FakeGuest:
        guest = self._guest(node, vmid)
        if self.rack.clock.now() < self.rack.locked_until:
            raise ApiError(500, f"can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout")
        if guest.lock:
            raise ApiError(500, f"VM is locked ({guest.lock})")
        return guest

    # Cluster and tasks

    def _nextid(self, params: dict[str, str]) -> Any:
        if int(params["vmid"]) in self.rack.guests and int(params["vmid"]) not in self.rack.hidden:
            raise ApiError(
                400, "Parameter verification failed.", {"vmid": f"VM {params['vmid']} already exists"}
            )
        return params["vmid"]

    def _tasks(self, _: dict[str, str], node: str) -> Any:
        tasks = self.rack.nodes[node].tasks.values()
        rows = [task.upid.split(":") for task in tasks if task.exitstatus is None]
        return [{"upid": ":".join(row), "node": node, "pid": 1, "pstart": 1, "starttime": 1, "type": row[5],
                 "id": row[6], "user": row[7]} for row in rows]  # fmt: skip

    def _stop_task(self, _: dict[str, str], node: str, upid: str) -> None:
        self._find(node, upid).exitstatus = "unexpected status"

    # Storages

    def _storage_config(self, _: dict[str, str], storage: str) -> Any:
        return {
            "storage": storage,
            "content": ",".join(self.rack.storages[storage]["content"]),
            "type": "dir",
        }

    def _set_storage(self, params: dict[str, str], storage: str) -> Any:
        self.rack.storages[storage]["content"] = params["content"].split(",")
        return {"storage": storage, "type": "dir"}

    def _storage(self, _: dict[str, str], node: str, storage: str) -> Any:
        if storage not in self.rack.storages:
            raise ApiError(500, f"storage '{storage}' does not exist")
        found = self.rack.storages[storage]
        return {"type": "dir", "content": ",".join(found["content"]), "active": 1, "enabled": 1,
                "shared": int(found["shared"])}  # fmt: skip

    def _content(self, params: dict[str, str], node: str, storage: str) -> Any:
        named = [f"{storage}:import/{name}" for name in self.rack.images]
        found = named if params.get("content") == "import" else self.rack.kept(storage)
        return [{"volid": volume, "format": "raw", "size": 1} for volume in found]

    def _download(self, params: dict[str, str], node: str, storage: str) -> Any:
        name, asked = params["filename"], params["checksum"]
        if "import" not in self.rack.storages[storage]["content"]:
            raise ApiError(500, f"storage '{storage}' is not configured for content-type 'import'")
        if not name.endswith((".qcow2", ".raw", ".vmdk", ".ova")):
            raise ApiError(400, "Parameter verification failed.", {"filename": "wrong extension"})

        def act() -> None:
            got = self.rack.images.get(name) or self.rack.web.get(params["url"])
            if got is None:
                raise ApiError(500, f"download failed: wget: unable to resolve {params['url']}")
            if got != asked:
                raise ApiError(500, f"checksum mismatch: got '{got}' != expect '{asked}'")
            self.rack.images[name] = got

        return self._began(node, "download", name, self.rack.download_takes, act)

    def _delete_content(self, _: dict[str, str], node: str, storage: str, volume: str) -> Any:
        name = unquote(volume).removeprefix(f"{storage}:import/")
        return self._began(node, "imgdel", name, 0.5, lambda: self.rack.images.pop(name))

    # Guests

    def _list(self, _: dict[str, str], node: str) -> Any:
        return [guest.row for guest in self.rack.guests.values() if guest.node == node]

    def _create(self, params: dict[str, str], node: str) -> Any:
        params = dict(params)
        vmid = int(params.pop("vmid"))
        if vmid in self.rack.guests:
            raise ApiError(500, f"unable to create VM {vmid} - VM {vmid} already exists on node '{node}'")
        guest = self.rack.guests[vmid] = FakeGuest(vmid, node, lock="create")

        def act() -> None:
            guest.lock = None
            if error := self.rack.create_fails:
                del self.rack.guests[vmid]
                raise ApiError(500, error)
            self._configure(guest, params)

        return self._began(node, "qmcreate", vmid, 3.0, act)

    def _configure(self, guest: FakeGuest, params: Mapping[str, str]) -> None:
        for key, value in params.items():
            text = self._drive(guest.vmid, key, value) if DRIVES.fullmatch(key) else value
            guest.config[key] = with_mac(text, guest.vmid) if key == "net0" else text
        if "description" in params:
            guest.config["description"] = params["description"] + "\n"

    def _drive(self, vmid: int, key: str, value: str) -> str:
        first, _, rest = value.partition(",")
        storage, _, volume = first.partition(":")
        if storage not in self.rack.storages:
            raise ApiError(500, f"storage '{storage}' does not exist")
        options = [part for part in rest.split(",") if part and not part.startswith("import-from=")]
        if volume == "cloudinit":
            return ",".join([f"{storage}:vm-{vmid}-cloudinit", "media=cdrom", *options])
        if "import-from=" in rest:
            source = re.search(r"import-from=local:import/([^,]+)", rest)
            assert source and source[1] in self.rack.images, rest
            return ",".join([f"{storage}:vm-{vmid}-disk-1", *options, f"size={IMAGE_SIZE}G"])
        return ",".join([f"{storage}:vm-{vmid}-disk-0", *options, "size=528K"])

    def _config(self, _: dict[str, str], node: str, vmid: str) -> Any:
        guest = self._guest(node, vmid)
        lock = {"lock": guest.lock} if guest.lock else {}
        return {**guest.config, **lock, "digest": "0" * 40}

    def _change(self, params: dict[str, str], node: str, vmid: str) -> None:
        self._configure(self._unlocked(node, vmid), params)

    def _resize(self, params: dict[str, str], node: str, vmid: str) -> Any:
        guest = self._unlocked(node, vmid)
        return self._began(node, "resize", vmid, 1.0, lambda: self._resized(guest, params))

    def _resized(self, guest: FakeGuest, params: dict[str, str]) -> None:
        guest.config[params["disk"]] = re.sub(
            r"size=\w+", f"size={params['size']}", guest.config[params["disk"]]
        )

    def _template(self, _: dict[str, str], node: str, vmid: str) -> Any:
        guest = self._unlocked(node, vmid)

        def act() -> None:
            guest.config["template"] = "1"
            for key in ("efidisk0", "scsi0"):
                guest.config[key] = guest.config[key].replace(":vm-", ":base-")

        return self._began(node, "qmtemplate", vmid, 1.0, act)

    def _clone(self, params: dict[str, str], node: str, vmid: str) -> Any:
        source, newid = self._unlocked(node, vmid), int(params["newid"])
        target = params.get("target", node)
        if target != node and not self.rack.storages[source.config["scsi0"].split(":")[0]]["shared"]:
            raise ApiError(500, f"can't clone VM to node '{target}' (VM uses local storage)")
        if newid in self.rack.guests:
            raise ApiError(500, f"unable to create VM {newid}: config file already exists")
        clone = self.rack.guests[newid] = FakeGuest(newid, node, lock="clone")

        def act() -> None:
            config = {key: value for key, value in source.config.items() if key != "template"}
            config |= {"name": params["name"], "description": params["description"]}
            config["scsi0"] = config["scsi0"].replace(f":base-{vmid}-", f":base-{vmid}-disk-1/vm-{newid}-")
            clone.config, clone.lock, clone.node = config, None, target
            clone.config["net0"] = with_mac(config["net0"], newid, fresh=True)

        return self._began(node, "qmclone", vmid, 2.0, act)

    def _start(self, _: dict[str, str], node: str, vmid: str) -> Any:
        guest = self._unlocked(node, vmid)

        def act() -> None:
            guest.started = self.rack.clock.now()

        return self._began(node, "qmstart", vmid, 1.0, act)

    def _stop(self, _: dict[str, str], node: str, vmid: str) -> Any:
        guest = self._unlocked(node, vmid)

        def act() -> None:
            guest.started = None

        return self._began(node, "qmstop", vmid, 0.5, act)

    def _destroy(self, _: dict[str, str], node: str, vmid: str) -> Any:
        guest = self._unlocked(node, vmid)
        if guest.started is not None:
            raise ApiError(500, f"VM {vmid} is running - destroy failed")

        def act() -> None:
            base = f"base-{vmid}-disk-1"
            if any(f":{base}/" in other.config.get("scsi0", "") for other in self.rack.guests.values()):
                raise ApiError(500, f"base volume 'rbd:{base}' is still in use by linked cloned")
            del self.rack.guests[int(vmid)]

        return self._began(node, "qmdestroy", vmid, 1.0, act)

    # The agent

    def _awake(self, node: str, vmid: str) -> FakeGuest:
        guest = self._guest(node, vmid)
        if guest.started is None or self.rack.dies:
            raise ApiError(500, f"VM {vmid} is not running")
        if self.rack.clock.now() < guest.started + self.rack.agent_after:
            raise ApiError(500, "QEMU guest agent is not running")
        return guest

    def _interfaces(self, _: dict[str, str], node: str, vmid: str) -> Any:
        guest = self._awake(node, vmid)
        assert guest.started is not None
        leased = self.rack.clock.now() >= guest.started + self.rack.agent_after + 1
        addresses = [{"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64}]
        addresses += (
            [{"ip-address": self.rack.lease, "ip-address-type": "ipv4", "prefix": 24}] if leased else []
        )
        mac = re.search("virtio=([^,]+)", guest.config["net0"])
        assert mac is not None
        loopback = {"name": "lo", "hardware-address": "00:00:00:00:00:00",
                    "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]}  # fmt: skip
        eth0 = {"name": "eth0", "hardware-address": mac[1].lower(), "ip-addresses": addresses}
        return {"result": [loopback, eth0]}

    def _read_file(self, params: dict[str, str], node: str, vmid: str) -> Any:
        guest = self._awake(node, vmid)
        assert guest.started is not None
        if self.rack.clock.now() < guest.started + self.rack.agent_after + 2:
            raise ApiError(
                500, f"Agent error: failed to open file '{params['file']}': No such file or directory"
            )
        return {"content": f"{HOST_KEY} root@guest\n"}


_NODE, _ONE = r"/nodes/(?P<node>[^/]+)", r"/nodes/(?P<node>[^/]+)/qemu/(?P<vmid>\d+)"
_STORE = r"/nodes/(?P<node>[^/]+)/storage/(?P<storage>[^/]+)"
ROUTES: tuple[tuple[str, str, str], ...] = (
    ("GET", r"/cluster/nextid", "nextid"),
    ("GET", rf"{_NODE}/tasks", "tasks"),
    ("DELETE", rf"{_NODE}/tasks/(?P<upid>[^/]+)", "stop_task"),
    ("GET", r"/storage/(?P<storage>[^/]+)", "storage_config"),
    ("PUT", r"/storage/(?P<storage>[^/]+)", "set_storage"),
    ("GET", rf"{_STORE}/status", "storage"),
    ("GET", rf"{_STORE}/content", "content"),
    ("POST", rf"{_STORE}/download-url", "download"),
    ("DELETE", rf"{_STORE}/content/(?P<volume>[^/]+)", "delete_content"),
    ("GET", rf"{_NODE}/qemu", "list"),
    ("POST", rf"{_NODE}/qemu", "create"),
    ("DELETE", _ONE, "destroy"),
    ("GET", rf"{_ONE}/config", "config"),
    ("PUT", rf"{_ONE}/config", "change"),
    ("PUT", rf"{_ONE}/resize", "resize"),
    ("POST", rf"{_ONE}/template", "template"),
    ("POST", rf"{_ONE}/clone", "clone"),
    ("POST", rf"{_ONE}/status/start", "start"),
    ("POST", rf"{_ONE}/status/stop", "stop"),
    ("GET", rf"{_ONE}/agent/network-get-interfaces", "interfaces"),
    ("GET", rf"{_ONE}/agent/file-read", "read_file"),
)


def judge(method: str, path: str, params: Mapping[str, str]) -> None:
    """Refuse what Proxmox's schema refuses."""
    match = schema.load().match(path)
    _, errors = schema.validate(match.methods[method].get("parameters"), {**match.params, **params})
    if errors:
        raise ApiError(400, "Parameter verification failed.", errors)


def with_mac(net: str, vmid: int, *, fresh: bool = False) -> str:
    """A network card as Proxmox writes it, with a MAC."""
    mac = f"BC:24:11:00:{vmid // 256 % 256:02X}:{vmid % 256:02X}"
    model, _, rest = net.partition(",")
    return net if "=" in model and not fresh else f"{model.partition('=')[0]}={mac},{rest}"


class GuestRemote(Remote):
    """SSH to a node: its certificate's fingerprint and its snippets."""

    def __init__(self, node: GuestNode) -> None:
        self.node, self.name = node, node.name
        self.files: dict[str, str] = {}

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        with self.node.rack.lock:
            if command == FINGERPRINT_COMMAND:
                return _said(f"sha256 Fingerprint={self.node.fingerprint}\n")
            if written := re.search(r"rackproof-write (\S+) [0-9a-f]{64} 644 root:root", command):
                assert isinstance(stdin, bytes)
                same = self.files.get(written[1]) == stdin.decode()
                self.files[written[1]] = stdin.decode()
                return _said("same\n" if same else "changed\n")
            removed = re.fullmatch(r"rm -f (\S+)", command)
            assert removed, f"an unexpected command: {command}"
            self.files.pop(removed[1], None)
            return _said("")

    def forward_socket(self, remote_socket: str) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


class GuestShell(Remote):
    """SSH to a guest, as its cloud-init user."""

    def __init__(self, rack: GuestRack, name: str) -> None:
        self.rack, self.name = rack, name

    def execute(self, command: str, stdin: Stdin, timeout: float) -> Output:
        assert command == "cloud-init status --wait --format json"
        return Output(0 if self.rack.cloud_init == CLEAN else 1, self.rack.cloud_init.encode(), b"")

    def forward_socket(self, remote_socket: str) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self.rack.closed += 1


def _said(text: str) -> Output:
    return Output(0, text.encode(), b"")


class GuestRack(FakeRack):
    """Nodes with guests: what their cluster shares, and the faults that a test plants."""

    nodes: dict[str, GuestNode]  # type: ignore[assignment]
    remotes: dict[str, GuestRemote]  # type: ignore[assignment]

    def __init__(self, addresses: Mapping[str, list[str]]) -> None:
        super().__init__(addresses)
        self.nodes = {name: GuestNode(self, name, links) for name, links in addresses.items()}
        self.remotes = {name: GuestRemote(node) for name, node in self.nodes.items()}
        self.guests: dict[int, FakeGuest] = {}
        self.storages: dict[str, dict[str, Any]] = {
            "local": {"content": ["iso", "vztmpl", "backup"], "shared": False},
            "rbd": {"content": ["images", "rootdir"], "shared": True},
        }
        self.images: dict[str, str] = {}
        self.volumes: list[str] = []
        self.lost: list[str] = []
        self.web: dict[str, str] = {}
        self.lease, self.agent_after, self.download_takes = "10.10.1.150", 8.0, 5.0
        self.cloud_init, self.closed = CLEAN, 0
        self.targets: list[Target] = []
        # Faults that a test plants
        self.create_fails: str | None = None
        self.hidden: set[int] = set()
        self.locked_until = 0.0
        self.dies = False
        self.refuses_logins = 0

    def kept(self, storage: str) -> list[str]:
        """The volumes of a storage: those of all guests, and strays."""
        drives = [
            value.split(",")[0]
            for guest in self.guests.values()
            for key, value in guest.config.items()
            if DRIVES.fullmatch(key)
        ]
        return [
            name
            for name in [*drives, *self.volumes]
            if name.startswith(f"{storage}:") and name not in self.lost
        ]

    def reach(self, target: Target) -> Remote:
        """SSH to a guest: by its address, its key and its user."""
        self.targets.append(target)
        if self.refuses_logins:
            self.refuses_logins -= 1
            raise Unreachable("it accepts no key", node=target.name)
        assert target.host_keys == (HOST_KEY,) and target.address == self.lease
        return GuestShell(self, target.name)

    def sent(self, method: str, ending: str) -> list[dict[str, str]]:
        """The parameters of the accepted requests of a method whose path ends so."""
        return [
            call.params
            for call in self.calls
            if call.method == method and re.search(f"{ending}$", call.path) and call.status == 200
        ]

"""Played Proxmox nodes without the rest of a rack: two bridges, and systemd-nspawn machines on them."""

from __future__ import annotations

import ctypes
import hashlib
import http.client
import json
import os
import pty
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from provision.wait import NotYet, Patience
from virtual_lab import images, recipes
from virtual_lab.places import home

PASSWORD = "played-root-1"
CLONE_NEWNET = 0x40000000
NETWORKS = {"eno1": ("vmbr0", "10.10.1", 1500), "eno3": ("vmbr1", "10.10.2", 9000)}

_INTERFACES = """\
auto lo
iface lo inet loopback
{stanzas}"""
_STANZA = """\
auto {nic}
iface {nic} inet manual
\tmtu {mtu}
auto {bridge}
iface {bridge} inet static
\taddress {prefix}.{number}/24
\tbridge-ports {nic}
\tbridge-stp off
\tbridge-fd 0
\tmtu {mtu}
"""
_SYSTEM = """\
mkdir -p {groups}; mount --rbind /sys/fs/cgroup {groups}; mount -t sysfs sysfs /sys
mount --rbind {groups} /sys/fs/cgroup
[ -e /dev/fuse ] || mount -t devtmpfs devtmpfs /dev
SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes exec systemd-nspawn -q -D {root} -b --register=no --keep-unit -M {name} \
--capability=all --drop-capability=CAP_SYS_TIME,CAP_SYS_MODULE \
--bind=/dev/fuse --resolv-conf=off --console=pipe
"""


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, input=stdin, timeout=120)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # EIO: the other side has closed it
        return ""


def eventually(goal: str, reached: Callable[[], object], seconds: float = 40) -> None:
    Patience(seconds, most=0.2).until(goal, lambda: True if reached() else NotYet("not so"))


@dataclass
class Node:
    """One machine: number 21 is pve1, its addresses end in it."""

    rig: Rig
    number: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"pve{self.number - 20}"

    @property
    def namespace(self) -> str:
        return f"{self.rig.prefix}-{self.name}"

    @property
    def address(self) -> str:
        return f"10.10.1.{self.number}"

    @property
    def links(self) -> dict[str, str]:
        return {"link0": self.address, "link1": f"10.10.2.{self.number}"}

    def on(self, command: str, *, check: bool = True) -> str:
        """What a shell command prints inside the machine, whatever its network does."""
        return run("nsenter", "-t", str(self.leader), "-a", "sh", "-c", f"{{ {command}\n}} 2>&1", check=check)

    def at_a_terminal(self, command: str, answers: dict[str, str]) -> tuple[int, str]:
        """Run a command that asks: its exit code and what it showed; `answers` by how a prompt ends."""
        terminal, theirs = pty.openpty()
        inside = ["nsenter", "-t", str(self.leader), "-a", "sh", "-c", command]
        asked = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *inside], stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown, told = "", ""
        while part := _read(terminal):
            shown += part
            told += part
            for prompt, answer in answers.items():
                if told.endswith(prompt):
                    os.write(terminal, f"{answer}\n".encode())
                    told = ""
        os.close(terminal)
        return asked.wait(20), shown.replace("\r", "")

    @property
    def leader(self) -> int:
        """The process that is the machine's first."""
        assert self.process
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def writable(self) -> bool:
        return self.on("ls -ld /etc/pve/local", check=False).startswith("lrwx")

    def plug(self, state: str) -> None:
        """Both cables: up or down."""
        for nic in NETWORKS:
            run("ip", "-n", self.rig.lab, "link", "set", f"{self.name}-{nic}", state)

    def boot(self) -> None:
        folder = self.rig.folder / self.name
        script = _SYSTEM.format(groups=f"/run/{self.namespace}", root=folder / "root", name=self.namespace)
        command = [
            "nsenter",
            f"--net=/run/netns/{self.namespace}",
            "unshare",
            "-m",
            "--propagation",
            "private",
        ]
        with (folder / "console").open("ab") as console:
            self.process = subprocess.Popen(
                [*command, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )

    def cut_power(self) -> None:
        """End every process of the machine at once."""
        if self.process and self.process.poll() is None:
            os.kill(self.leader, signal.SIGKILL)
            self.process.wait(20)

    def api(self) -> Api:
        return Api(self)

    def logged_in(self) -> Api:
        api = self.api()
        api.login()
        return api


@dataclass
class Answer:
    code: int
    reason: str
    data: Any
    errors: dict[str, str]


@dataclass
class Api:
    """A client that trusts whatever it meets: these tests look at what is served."""

    node: Node
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, method: str, path: str, **params: str) -> Answer:
        return self.node.rig.inside.submit(self._ask, method, path, params).result()

    def _ask(self, method: str, path: str, params: dict[str, str]) -> Answer:
        connection = self._connection()
        headers = {**self.headers, "Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode({name.replace("_", "-"): value for name, value in params.items()})
        connection.request(method, f"/api2/json{path}", body or None, headers)
        response = connection.getresponse()
        content = json.loads(response.read() or b"{}")
        connection.close()
        return Answer(response.status, response.reason, content.get("data"), content.get("errors", {}))

    def _connection(self) -> http.client.HTTPSConnection:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(self.node.address, 8006, context=context, timeout=40)

    def fingerprint(self) -> str:
        def look() -> bytes:
            connection = self._connection()
            connection.connect()
            shown = connection.sock.getpeercert(binary_form=True)
            connection.close()
            return shown or b""

        digest = hashlib.sha256(self.node.rig.inside.submit(look).result()).hexdigest().upper()
        return ":".join(re.findall("..", digest))

    def login(self, password: str = PASSWORD) -> Answer:
        answer = self("POST", "/access/ticket", username="root@pam", password=password)
        if answer.code == 200:
            self.headers = {"Cookie": f"PVEAuthCookie={quote(answer.data['ticket'])}",
                            "CSRFPreventionToken": answer.data["CSRFPreventionToken"]}  # fmt: skip
        return answer

    def ended(self, upid: str) -> tuple[str, str]:
        """How a task ended and its log, through all that a join does to its node's API."""
        path = f"/nodes/{self.node.name}/tasks/{quote(upid, safe='')}"

        def look() -> str | NotYet:
            try:
                answer = self("GET", f"{path}/status")
                if answer.code == 401:
                    self.login()
            except OSError as error:
                return NotYet(str(error))
            if answer.code != 200 or answer.data["status"] == "running":
                return NotYet(f"{answer.code} {answer.reason} {answer.data}")
            return str(answer.data["exitstatus"])

        status = Patience(60, most=0.3).until(f"the end of {upid}", look)
        return status, "\n".join(row["t"] for row in self("GET", f"{path}/log?limit=500").data)


class Rig:
    """Nodes pve1 to pveN, and a thread that lives in the lab's namespace."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.prefix = folder, f"pvedev-{os.getpid()}"
        self.lab = f"{self.prefix}-lab"
        self.nodes = [Node(self, 20 + number) for number in range(1, count + 1)]
        self.inside = ThreadPoolExecutor(1, initializer=self._enter)

    def up(self) -> None:
        image = images.ready(recipes.node(), home() / "images", print)
        layer = images.pve_layer(image)
        run("ip", "netns", "add", self.lab)
        for nic in NETWORKS:
            run("ip", "-n", self.lab, "link", "add", f"br-{nic}", "type", "bridge")
            run("ip", "-n", self.lab, "link", "set", f"br-{nic}", "mtu", "9000", "up")
        run("ip", "-n", self.lab, "addr", "add", "10.10.1.254/24", "dev", "br-eno1")
        for node in self.nodes:
            self._wire(node)
            self._install(node, f"{layer}:{image}")
            node.boot()
        for node in self.nodes:
            eventually(f"the API of {node.name}", partial(self._answers, node))

    def down(self) -> None:
        for node in self.nodes:
            node.cut_power()
            run("umount", str(self.folder / node.name / "root"), check=False)
            run("ip", "netns", "del", node.namespace, check=False)
            for folder in (Path("/run") / node.namespace, self.folder / node.name):
                shutil.rmtree(folder, ignore_errors=True)
        self.inside.shutdown()
        run("ip", "netns", "del", self.lab, check=False)

    def _enter(self) -> None:
        with Path(f"/run/netns/{self.lab}").open() as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET) == 0

    def _answers(self, node: Node) -> bool:
        try:
            return node.api().login().code == 200
        except OSError:
            return False

    def _wire(self, node: Node) -> None:
        run("ip", "netns", "add", node.namespace)
        for nic, (_, _, mtu) in NETWORKS.items():
            port = f"{node.name}-{nic}"
            run("ip", "link", "add", nic, "netns", node.namespace, "mtu", str(mtu), "type", "veth",
                "peer", "name", port, "netns", self.lab, "mtu", "9000")  # fmt: skip
            run("ip", "-n", self.lab, "link", "set", port, "master", f"br-{nic}", "up")

    def _install(self, node: Node, lower: str) -> None:
        folder = self.folder / node.name
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", options, str(folder / "root"))
        self._write_root(node, folder / "root")

    def _write_root(self, node: Node, root: Path) -> None:
        stanzas = "".join(_STANZA.format(nic=nic, bridge=bridge, prefix=prefix, number=node.number, mtu=mtu)
                          for nic, (bridge, prefix, mtu) in NETWORKS.items())  # fmt: skip
        files = {
            "etc/hostname": f"{node.name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n{node.address} {node.name}.lab.test {node.name}\n",
            "etc/resolv.conf": "search lab.test\n",
            "etc/network/interfaces": _INTERFACES.format(stanzas=stanzas),
            "var/lib/pve-cluster/seed/storage.cfg": f"dir: of-{node.name}\n\tpath /var/lib/vz\n",
            "root/.ssh/authorized_keys": f"ssh-ed25519 AAAA only-on-{node.name}\n",
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).unlink(missing_ok=True)
            (root / name).write_text(text)
        shadow = root / "etc/shadow"
        hashed = run("openssl", "passwd", "-6", "-stdin", stdin=PASSWORD)
        others = [line for line in shadow.read_text().splitlines() if not line.startswith("root:")]
        shadow.write_text("\n".join([f"root:{hashed}:20000:0:99999:7:::", *others]) + "\n")
        key = root / "etc/ssh/ssh_host_rsa_key"
        key.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(key))

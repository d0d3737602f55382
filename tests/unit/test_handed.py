"""What a permitted node is handed: one answer in two forms, boot scripts for two loaders, the first-boot script."""

from __future__ import annotations

import datetime
import json
import os
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Interface
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import boot_scripts, inventory
from provision.boot_service.messages import Grant
from provision.certificate import Certificate
from provision.handed import handed
from provision.inventory import Lab
from provision.permit import Permit
from provision.render import render
from tests.certificates import certificate_of
from virtual_lab import http_client, installer, media
from virtual_lab.answer import read
from virtual_lab.dhcp_client import Lease, Message
from virtual_lab.hardware import Dmi, Drive, Hang, Hardware, Outcome, Reboot, RunInstaller
from virtual_lab.http_client import Request, Response
from virtual_lab.installed_root import Laid

ROOT = Path(__file__).parents[2]
PASSWORD = "canary-Sesame-2"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def certificate(folder: Path) -> Certificate:
    return certificate_of(folder)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("RACKPROOF_ROOT_PASSWORD", PASSWORD)
    return inventory.load(ROOT / "labs" / "virtual.yaml")


@pytest.fixture
def permit(lab: Lab) -> Permit:
    return Permit(
        lab.nodes["node2"], "run-1", 0.0, "answer-token", "report-token", "hook-token", "0123456789abcdef"
    )


@pytest.fixture
def texts(lab: Lab, permit: Permit, certificate: Certificate) -> dict[str, Any]:
    return handed(lab, permit, certificate)


def test_it_is_what_a_grant_carries(texts: dict[str, Any]) -> None:
    digests = dict.fromkeys(("answer_token_sha256", "report_token_sha256", "hook_token_sha256"), "5a" * 32)
    grant = Grant(run="run-1", lab="virtual", node="node2", expires=1.0, **digests, **texts)
    assert (grant.system, grant.private_boot) == ("proxmox", False)


def test_answer_is_toml_that_says_what_the_lab_file_says(
    texts: dict[str, Any], certificate: Certificate
) -> None:
    answer = tomllib.loads(texts["answer"])
    assert set(answer) == {"global", "network", "disk-setup", "post-installation-webhook", "first-boot"}
    assert answer["global"]["fqdn"] == "node2.lab.example.net"
    assert answer["global"]["root-password-hashed"].startswith("$y$")
    assert answer["network"] == {
        "source": "from-answer",
        "cidr": "10.10.1.22/24",
        "gateway": "10.10.1.1",
        "dns": "10.10.1.1",
        "filter": {"ID_NET_NAME_MAC": "*525400a10122"},
    }
    assert answer["disk-setup"] == {"filesystem": "ext4", "filter": {"ID_SERIAL_SHORT": "RPVDISK0000002"}}
    assert answer["post-installation-webhook"] == {
        "url": "https://10.10.1.1/installed/report-token",
        "cert-fingerprint": certificate.fingerprint,
    }
    assert answer["first-boot"] == {
        "source": "from-url",
        "ordering": "fully-up",
        "url": "https://10.10.1.1/first-boot/report-token",
        "cert-fingerprint": certificate.fingerprint,
    }


def test_both_forms_say_the_same_and_only_json_has_the_hooks_token(texts: dict[str, Any]) -> None:
    by_toml, by_json = tomllib.loads(texts["answer"]), json.loads(texts["answer_json"])
    assert by_json["post-installation-webhook"].pop("auth-token") == "hook-token"
    assert by_json == by_toml
    for form, kind in ((texts["answer"], "application/toml"), (texts["answer_json"], "application/json")):
        assert read(form.encode(), kind).global_.fqdn == "node2.lab.example.net"


@settings(deadline=None, max_examples=50)
@given(serial=TEXT, comment=TEXT, mail=TEXT)
def test_whatever_a_field_holds_it_stays_that_field(serial: str, comment: str, mail: str) -> None:
    lab = inventory.load(ROOT / "labs" / "virtual.yaml", {})
    secret = inventory.Secret.known(PASSWORD)
    disk = lab.nodes["node1"].disk.model_copy(update={"serial": serial})
    hostile = {"disk": disk, "ssh_keys": (comment,), "mailto": mail, "root_password": secret}
    node = lab.nodes["node1"].model_copy(update=hostile)
    given = Permit(node, "run-1", 0.0, "a", "r", "h", "n")
    texts = handed(lab, given, Certificate(ssl.DER_cert_to_PEM_cert(b"x")))
    for answer in (tomllib.loads(texts["answer"]), json.loads(texts["answer_json"])):
        assert answer["disk-setup"]["filter"] == {"ID_SERIAL_SHORT": serial}
        assert answer["global"]["root-ssh-keys"] == [comment]
        assert answer["global"]["mailto"] == mail
        assert set(answer["global"]) == {"country", "keyboard", "timezone", "fqdn", "mailto",
                                         "root-password-hashed", "root-ssh-keys", "reboot-on-error"}  # fmt: skip


def test_disks_of_zfs_are_those_that_have_the_property(
    lab: Lab, permit: Permit, certificate: Certificate
) -> None:
    disk = permit.node.disk.model_copy(update={"filesystem": "zfs", "raid": "raid1"})
    zfs = replace(permit, node=permit.node.model_copy(update={"disk": disk}))
    setup = tomllib.loads(handed(lab, zfs, certificate)["answer"])["disk-setup"]
    # By filter-match "all" a disk that lacks the property would be taken, too.
    assert ("filter-match" in setup, setup["zfs"]) == (False, {"raid": "raid1"})


def test_a_disk_by_its_device_name_is_listed(lab: Lab, permit: Permit, certificate: Certificate) -> None:
    disk = permit.node.disk.model_copy(update={"serial": None, "device": "sda"})
    listed = replace(permit, node=permit.node.model_copy(update={"disk": disk}))
    setup = tomllib.loads(handed(lab, listed, certificate)["answer"])["disk-setup"]
    assert setup == {"filesystem": "ext4", "disk-list": ["sda"]}


def test_nothing_handed_out_holds_the_password(texts: dict[str, Any]) -> None:
    assert PASSWORD not in json.dumps(texts)


def test_boot_script_starts_the_unattended_installer_from_one_build(texts: dict[str, Any]) -> None:
    lines = texts["boot_script"].splitlines()
    assert lines[0] == "#!ipxe"
    kernel = next(line for line in lines if line.startswith("kernel "))
    assert kernel.split()[1] == "http://10.10.1.1/media/proxmox-9/vmlinuz"
    assert {"proxmox-start-auto-installer", "initrd=initrd.img"} <= set(kernel.split())
    assert "initrd http://10.10.1.1/media/proxmox-9/proxmox.iso proxmox.iso" in lines
    assert lines[-1] == "boot"


def test_grub_starts_the_same_with_the_iso_inside_the_initrd(texts: dict[str, Any]) -> None:
    lines = [line for line in texts["grub_script"].splitlines() if not line.startswith("#")]
    root = "(http,10.10.1.1)/media/proxmox-9"
    assert lines[1].startswith(f"linux '{root}/vmlinuz' ")
    assert "'proxmox-start-auto-installer'" in lines[1].split()
    assert lines[2:] == [f"initrd '{root}/initrd.img' 'newc:proxmox.iso:{root}/proxmox.iso'", "boot"]


def test_rescue_starts_a_shell_and_never_the_installer(lab: Lab) -> None:
    boot = boot_scripts.rescue(lab, lab.nodes["node1"])
    for script in (boot.ipxe(lab), boot.grub(lab)):
        assert "proxmox-debug" in script
        assert "proxmox-tui-mode" in script
        assert "auto" not in script


def test_the_local_disk_boots_by_leaving_ipxe_with_a_failure_and_by_grub_itself(lab: Lab) -> None:
    ipxe, grub = boot_scripts.local(lab.nodes["node1"])
    assert ipxe.splitlines()[-1] == "exit 1"
    assert "chainloader" in grub
    assert grub.splitlines()[-1] == "exit"
    for script in (ipxe, grub):
        assert not {"kernel", "linux", "initrd"} & {line.split()[0] for line in script.splitlines()}


# Over TLS


@dataclass
class Told:
    """What came to a server that plays the boot service."""

    texts: dict[str, Any] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def serving(folder: Path, told: Told) -> Iterator[str]:
    """An HTTPS server with the folder's certificate; its address without a slash at the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.paths.append(f"GET {self.path}")
            self._answer(told.texts["first_boot"], "text/plain")

        def do_POST(self) -> None:
            told.paths.append(f"POST {self.path}")
            told.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            prefers_json = self.headers.get("Accept", "").startswith("application/json")
            if not self.path.startswith("/answer/"):
                self._answer("recorded", "text/plain")
            elif prefers_json:
                self._answer(told.texts["answer_json"], "application/json")
            else:
                self._answer(told.texts["answer"], "application/toml")

        def _answer(self, text: str, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's)
            """Keep the test's output clean."""

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a broken handshake is a test's wish
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def report(url: str, certificate: Certificate, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the report of a first boot, which tries ten times; here it does not pause in between."""
    (folder / "sitecustomize.py").write_text("import time\ntime.sleep = lambda seconds: None\n")
    shell = render(
        "report.sh.j2", report_url=f"{url}/report/token", nonce="no'nce", certificate=certificate.pem
    )
    return subprocess.run(
        ["bash", "-c", f"{shell}\nreport registered 'it is \"done\"' {folder}/server.crt"], text=True,
        capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip


@pytest.mark.parametrize("days", [0, 2], ids=["clock right", "clock two days behind"])
def test_a_node_reports_to_the_server_that_it_knows(tmp_path: Path, days: int) -> None:
    known, told = certificate_of(tmp_path, starts=datetime.timedelta(days=days, hours=-1)), Told()
    with serving(tmp_path, told) as url:
        done = report(url, known, tmp_path)
    assert done.returncode == 0, done.stderr
    [body] = told.bodies
    assert (body["phase"], body["nonce"], body["text"]) == ("registered", "no'nce", 'it is "done"')
    assert body["log"] == known.pem


def test_a_node_tells_nothing_to_a_server_with_another_certificate(tmp_path: Path) -> None:
    other, told = tmp_path / "other", Told()
    other.mkdir()
    expected = certificate_of(tmp_path)
    certificate_of(other)
    with serving(other, told) as url:
        done = report(url, expected, tmp_path)
    assert done.returncode != 0
    assert told.paths == []
    assert "token" not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media") / "built"
    media.build(folder, build_id="one")
    return folder


def installed(built: Path, folder: Path, url: str, release: str, fingerprint: str) -> Outcome:
    """Play the installer of a release, against a server that answers for 10.10.1.1 at `url`."""
    dmi = Dmi("Supermicro", "SYS", "S1", "4916e828-6e75-5c5c-9dd5-ad61d583e613", "3.4", "X11", "B1", "C1")
    drive = Drive(folder / "disk.img", 32 << 30, "RPVDISK0000002", "SAMSUNG", "0x5002538e")
    hardware = Hardware(
        name="node2", nics={"eno1": "52:54:00:a1:01:22", "eno3": "52:54:00:a1:02:22"}, drive=drive, dmi=dmi,
        memory_mib=131072, cores=32, console_log=folder / "console.log", layers=(), target=folder / "root",
        release=release,
    )  # fmt: skip
    options = {250: b"https://10.10.1.1/answer/answer-token", 251: fingerprint.encode()}
    lease = Lease("eno1", IPv4Interface("10.10.1.22/24"), None, Message(op=2, xid=1, mac="", options=options))

    def send(request: Request, seconds: float) -> Response:
        there = request.url.replace("https://10.10.1.1", url)
        assert there != request.url, "everything the installer asks for goes by HTTPS to the server"
        return http_client.send(replace(request, url=there), seconds)

    live = installer.Live(lambda _: lease, send, lambda *_: Laid("5a" * 16, {}), lambda _: None)
    iso = built / media.ISO_NAME
    contents = {"kernel": built / "vmlinuz", "initrd.0": built / "initrd.img", "/proxmox.iso": iso}
    return installer.install(hardware, RunInstaller("proxmox-start-auto-installer", contents), live=live)


@pytest.mark.parametrize("release", ["9.1", "9.2"])
def test_installers_of_both_releases_install_by_one_permit(
    release: str, built: Path, tmp_path: Path, folder: Path, texts: dict[str, Any], certificate: Certificate
) -> None:
    told = Told(texts)
    with serving(folder, told) as url:
        assert installed(built, tmp_path, url, release, certificate.fingerprint) == Reboot()
    assert told.paths == [
        "POST /answer/answer-token",
        "GET /first-boot/report-token",
        "POST /installed/report-token",
    ]
    assert told.bodies[1].get("token") == ("hook-token" if release == "9.2" else None)


def test_an_installer_asks_nothing_of_a_server_with_another_certificate(
    built: Path, tmp_path: Path, folder: Path, texts: dict[str, Any]
) -> None:
    told = Told(texts)
    with serving(folder, told) as url:
        outcome = installed(built, tmp_path, url, "9.2", "5a" * 32)
    assert isinstance(outcome, Hang)
    assert "not the pinned one" in (tmp_path / "console.log").read_text()
    assert told.paths == []

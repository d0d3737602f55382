"""The played node's guests without a node: parameters, strings, cloud-init files, volume names, disks, images."""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import subprocess
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
from fakepve import schema as fakepve_schema

from virtual_lab import guest_image, internet, qcow2
from virtual_lab.pve.pmx import (
    agent,
    api,
    cloudinit,
    download,
    drives,
    gpt,
    guest_clones,
    guest_drives,
    guests,
    router,
    storage,
    volumes,
    worker,
)
from virtual_lab.pve.pmx.auth import caller
from virtual_lab.pve.pmx.errors import Failure
from virtual_lab.pve.pmx.httpd import Asked
from virtual_lab.pve.pmx.schema import verify

assert api

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwVObgRDjZLmP4YTOWrFDC6J1sd6XeWfl+JiCtNwzHd someone@somewhere"
MINE = [one for one in router.ENDPOINTS
        if re.search(r"/qemu|/content|/download-url|/query-url|/nextid", one.path)]  # fmt: skip


# -- the calls, against Proxmox' own schema


@pytest.mark.parametrize("endpoint", MINE, ids=lambda one: f"{one.method} {one.path}")
def test_every_call_and_parameter_is_one_of_proxmox(endpoint: router.Endpoint) -> None:
    match = fakepve_schema.load().match(re.sub(r"\{\w+\}", "x", endpoint.path))
    assert match is not None
    known = match.methods[endpoint.method]["parameters"]["properties"]
    wrong = {name: rule for name, rule in endpoint.rules.items() if not _fits(rule, _known(known, name))}
    assert wrong == {}


def _known(known: dict[str, Any], name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = known.get(name) or known.get(re.sub(r"\d+$", "[n]", name))
    return found


def _fits(rule: Any, real: dict[str, Any] | None) -> bool:
    if real is None:
        return False
    same_choice = "enum" not in rule or not real.get("enum") or set(rule["enum"]) <= set(real["enum"])
    return bool(rule.get("type", "string") == real.get("type", "string") and same_choice)


def test_whatever_proxmox_wants_is_wanted() -> None:
    for endpoint in MINE:
        match = fakepve_schema.load().match(re.sub(r"\{\w+\}", "x", endpoint.path))
        assert match is not None
        for name, real in match.methods[endpoint.method]["parameters"]["properties"].items():
            if not real.get("optional") and "[n]" not in name:
                rule = endpoint.rules[name]
                assert not rule.get("optional") and "default" not in rule, f"{endpoint.path}: {name}"


def test_every_task_of_the_worker_has_its_function() -> None:
    assert {"download", "imgdel", "qmclone", "qmcreate", "qmdestroy", "qmstart", "qmstop", "qmshutdown",
            "qmtemplate", "resize"} <= set(worker.JOBS)  # fmt: skip


def errors_of(method: str, path: str, params: dict[str, str]) -> dict[str, str]:
    endpoint, in_path = router.find(method, path)
    with pytest.raises(Failure) as refused:
        endpoint.run(caller("root@pam"), {**params, **in_path})
    assert refused.value.code == 400
    return refused.value.errors


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("sshkeys", KEY, "invalid format - invalid urlencoded string"),
        ("ipconfig0", "gw=10.0.0.1", "invalid format - format error\ngw: missing property"),
        ("ipconfig0", "ip=10.0.0.1", "invalid format - format error\nip: invalid format - value does not"),
        ("net0", "bridge=vmbr0", "invalid format - format error\nmodel: property is missing"),
        ("net0", "virtio,bridge=vmbr0,tag=5000", "invalid format - format error\ntag: value must have a max"),
        ("agent", "enabled=perhaps", "invalid format - format error\nenabled: type check ('boolean') failed"),
        ("scsi0", "local:0,colour=red", "invalid format - format error\ncolour: property is not defined"),
        ("efidisk0", "local:1,efitype=8m", "invalid format - format error\nefitype: value '8m' does not"),
        ("boot", "order=scsi99", "invalid format - format error\norder: invalid format - invalid boot"),
        ("name", "under_score", "invalid format - value does not look like a valid DNS name"),
        ("vmid", "99", "value must have a minimum value of 100"),
        ("tags", "a b?", "invalid format - invalid characters in tag 'b?'"),
        ("scsi31", "local:1", "property is not defined in schema"),
    ],
)
def test_wrong_settings_of_a_guest(name: str, value: str, complaint: str) -> None:
    errors = errors_of("POST", "/nodes/n/qemu", {"vmid": "100", name: value})
    assert list(errors) == [name]
    assert errors[name].startswith(complaint)


def test_checksum_and_algorithm_go_together() -> None:
    given = {"url": "http://x/y", "content": "import", "filename": "y.qcow2", "checksum": "ab"}
    wrong = errors_of("POST", "/nodes/n/storage/local/download-url", given)
    assert any("requires this property" in text for text in wrong.values())


def test_a_volume_in_a_path_may_have_slashes() -> None:
    _, found = router.find("DELETE", "/nodes/n/storage/local/content/local:import/a.qcow2")
    assert found == {"node": "n", "storage": "local", "volume": "local:import/a.qcow2"}


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"command=ls&command=-l%20%2F", "application/x-www-form-urlencoded"),
     (b'{"command": ["ls", "-l /"]}', "application/json")],
)  # fmt: skip
def test_what_is_said_several_times_is_an_array(body: bytes, kind: str) -> None:
    endpoint, _ = router.find("POST", "/nodes/n/qemu/100/agent/exec")
    given = Asked("POST", "/x", "", body, {"Content-Type": kind}).params()
    assert verify(given | {"node": "n", "vmid": "100"}, endpoint.rules)["command"] == ["ls", "-l /"]


# -- strings


def test_a_drive_is_written_as_it_was_read() -> None:
    text = "rbd:base-9-disk-1/vm-10-disk-0,discard=on,iothread=1,size=2G,ssd=1"
    assert str(drives.drive(text)) == text
    assert drives.drive(text).with_volume("rbd:vm-10-disk-1", 540672).options["size"] == "528K"


@pytest.mark.parametrize(
    ("file", "is_it"),
    [("local:cloudinit", True), ("rbd:vm-100-cloudinit", True), ("local:100/vm-100-cloudinit.qcow2", True),
     ("local:iso/cloudinit.iso", False), ("rbd:vm-100-disk-0", False)],
)  # fmt: skip
def test_cloud_init_drives_are_known(file: str, *, is_it: bool) -> None:
    assert drives.Drive(file).is_cloudinit is is_it


def test_a_nic_gets_a_mac_and_keeps_it() -> None:
    text = drives.with_mac("virtio,bridge=vmbr0,tag=10")
    assert re.fullmatch(r"virtio=BC:24:11(:[0-9A-F]{2}){3},bridge=vmbr0,tag=10", text)
    assert drives.with_mac(text) == text
    assert drives.with_mac(text, new=True) != text


@pytest.mark.parametrize(
    ("size", "text"), [(8 << 30, "8G"), (3 << 29, "1536M"), (540672, "528K"), (1 << 40, "1T"), (5, "5")]
)
def test_sizes_are_written_short_and_read_again(size: int, text: str) -> None:
    assert drives.size_text(size) == text
    assert drives.size_bytes(text) == size


def test_a_guest_without_an_order_boots_from_its_first_disk() -> None:
    conf = {"efidisk0": "s:vm-1-disk-0", "scsi0": "s:vm-1-disk-1", "scsi1": "s:vm-1-cloudinit,media=cdrom"}
    assert drives.boot_order(conf) == ["scsi0"]
    assert drives.boot_order({**conf, "boot": "order=net0;scsi1"}) == ["net0", "scsi1"]


def test_a_configuration_is_written_as_it_was_read() -> None:
    conf = {"name": "t", "memory": "512", "description": "two\nlines: 50 %\n", "agent": "enabled=1"}
    assert guests.parse(guests.render(conf)) == conf
    assert guests.render(conf).startswith("#two\n#lines: 50 %25\nagent: enabled=1\n")
    assert guests.parse("name: a\n[snapshot]\nname: b\n") == {"name": "a"}


# -- volumes


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> storage.Storage:
    """The storages `local`, a directory, and `rbd`; no node is asked for them."""
    options = {"path": str(tmp_path), "content": "images,import,iso,snippets"}
    found = {"local": storage.Storage("local", "dir", options), "rbd": storage.Storage("rbd", "rbd", {})}
    config = tmp_path / "storage.cfg"
    config.write_text(storage.render(found).replace(str(tmp_path), "/var/lib/vz"))
    monkeypatch.setattr(storage, "CONFIG", config)
    return found["local"]


@pytest.mark.usefixtures("local")
def test_volume_ids_are_taken_apart() -> None:
    plain = volumes.parse("local:100/vm-100-disk-0.qcow2")
    assert (plain.kind, plain.vmid, plain.format, plain.is_base) == ("images", 100, "qcow2", False)
    clone = volumes.parse("rbd:base-9000-disk-1/vm-100-disk-0")
    assert (clone.file, clone.vmid, clone.base, clone.base_vmid) == (
        "vm-100-disk-0", 100, "base-9000-disk-1", 9000)  # fmt: skip
    assert volumes.parse("local:9/base-9-disk-0.raw/10/vm-10-disk-0.qcow2").base == "base-9-disk-0.raw"
    assert volumes.parse("local:import/a.qcow2").kind == "import"
    for wrong in ("local:import/a.img", "rbd:image", "local:100/disk.qcow2"):
        with pytest.raises(Failure, match="unable to parse"):
            volumes.parse(wrong)


def test_the_first_free_number_names_a_disk() -> None:
    taken = ["local:5/vm-5-disk-0.raw", "local:5/base-5-disk-1.raw", "local:6/vm-6-disk-2.raw"]
    assert volumes.free_name(5, taken, "raw") == "vm-5-disk-2.raw"
    assert volumes.free_name(6, ["vm-6-disk-10"]) == "vm-6-disk-0"


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize(
    ("drive", "complaint"),
    [
        ("local:5,import-from=local:import/a.qcow2", "'import-from' requires special syntax"),
        ("local:iso/a.iso", "explicit 'media=cdrom' is required for iso images"),
        ("local:snippets/a", "content type needs to be 'images' or 'iso'"),
    ],
)
def test_drives_that_cannot_be_made(drive: str, complaint: str) -> None:
    with pytest.raises(Failure) as refused:
        guest_drives.check_new_drives({"scsi0": drive}, is_root=True)
    assert refused.value.errors["scsi0"].startswith(complaint)


@pytest.mark.usefixtures("local")
def test_paths_are_root_s_own() -> None:
    given = {"scsi0": "rbd:0,import-from=/root/disk.qcow2"}
    guest_drives.check_new_drives(given, is_root=True)
    with pytest.raises(Failure, match="Only root can pass arbitrary filesystem paths"):
        guest_drives.check_new_drives(given, is_root=False)


@pytest.mark.usefixtures("local")
def test_only_shared_volumes_go_to_another_node() -> None:
    assert guest_clones.is_shared({"scsi0": "rbd:base-1-disk-0", "ide2": "none,media=cdrom"}, None)
    assert not guest_clones.is_shared(
        {"scsi0": "rbd:base-1-disk-0", "efidisk0": "local:1/base-1-disk-0.raw"}, None
    )


def test_listing_shows_files_by_their_content(
    local: storage.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.Storage, "enabled", lambda *_: True)
    monkeypatch.setattr(storage.Storage, "check_enabled", lambda *_: None)
    for name in ("import/a.qcow2", "import/a.txt", "snippets/v.yaml"):
        (local.directory("import").parent / name).parent.mkdir(exist_ok=True)
        (local.directory("import").parent / name).write_bytes(b"12345")
    rows = volumes.content(local)
    assert [(row["volid"], row["content"], row["format"], row["size"]) for row in rows] == [
        ("local:import/a.qcow2", "import", "qcow2", 5), ("local:snippets/v.yaml", "snippets", "snippet", 5),
    ]  # fmt: skip


# -- cloud-init


CONF = {
    "name": "t1", "ciuser": "ops", "sshkeys": quote(f"{KEY}\n", safe=""), "ciupgrade": "0",
    "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0", "ipconfig0": "ip=10.0.0.5/24,gw=10.0.0.1",
    "net1": "virtio=BC:24:11:00:00:02,bridge=vmbr1", "ipconfig1": "ip=dhcp,ip6=auto",
    "nameserver": "10.0.0.1", "searchdomain": "lab.example",
}  # fmt: skip


def test_user_data_is_what_a_node_makes() -> None:
    assert cloudinit.user_data(100, CONF) == (
        "#cloud-config\nhostname: t1\nmanage_etc_hosts: true\nfqdn: t1.lab.example\nuser: ops\n"
        f"ssh_authorized_keys:\n  - {KEY}\nchpasswd:\n  expire: False\nusers:\n  - default\n"
    )
    plain = cloudinit.user_data(7, {"ciuser": "root"})
    assert plain == ("#cloud-config\nhostname: VM7\nmanage_etc_hosts: true\nfqdn: VM7\nuser: root\n"
                     "disable_root: False\nchpasswd:\n  expire: False\npackage_upgrade: true\n")  # fmt: skip


def test_network_config_is_what_a_node_makes() -> None:
    assert (
        cloudinit.network_config(CONF)
        == """\
version: 1
config:
    - type: physical
      name: eth0
      mac_address: 'bc:24:11:00:00:01'
      subnets:
      - type: static
        address: '10.0.0.5'
        netmask: '255.255.255.0'
        gateway: '10.0.0.1'
    - type: physical
      name: eth1
      mac_address: 'bc:24:11:00:00:02'
      subnets:
      - type: dhcp4
      - type: ipv6_slaac
    - type: nameserver
      address:
      - '10.0.0.1'
      search:
      - 'lab.example'
"""
    )


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen")
def test_keys_must_be_keys() -> None:
    cloudinit.check_public_keys(quote(f"{KEY}\n{KEY}", safe=""))
    with pytest.raises(Failure, match="SSH public key validation error"):
        cloudinit.check_public_keys(quote("no key", safe=""))


# -- the agent


@pytest.fixture
def guest_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A socket that answers as qemu-ga does, and what it was asked."""
    asked: list[dict[str, Any]] = []
    path = tmp_path / "agent"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            with line, line.makefile("rw") as stream:
                for text in stream:
                    asked.append(json.loads(text))
                    stream.write(json.dumps(_answer(asked[-1])) + "\n")
                    stream.flush()

    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setattr(agent, "agent_socket", lambda _: path)
    monkeypatch.setattr(guests, "RUN", tmp_path)
    return asked


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    given = order.get("arguments", {})
    answers: dict[str, Any] = {
        "guest-sync": given.get("id"), "guest-ping": {}, "guest-file-open": 7, "guest-file-close": {},
        "guest-file-read": {"count": 5, "buf-b64": "aGVsbG8=", "eof": True}, "guest-exec": {"pid": 9},
        "guest-exec-status": {"exited": True, "exitcode": 0, "out-data": "aGk="},
    }  # fmt: skip
    if given.get("path") == "/nope":
        return {"error": {"class": "GenericError", "desc": "failed to open file '/nope'"}}
    return {"return": answers[order["execute"]]}


def test_files_are_read_and_programs_run_by_the_agent(guest_agent: list[dict[str, Any]]) -> None:
    assert agent.available(100)
    assert agent.read_file(100, "/etc/hostname") == {"content": "hello", "bytes-read": 5}
    assert agent.execute(100, ["ls", "-l"]) == {"pid": 9}
    assert agent.execution(100, 9) == {"exited": 1, "exitcode": 0, "out-data": "hi"}
    assert [order["execute"] for order in guest_agent].count("guest-sync") == 6
    with pytest.raises(Failure, match="Agent error: failed to open file '/nope'"):
        agent.read_file(100, "/nope")


def test_an_agent_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "running", lambda _: 0)
    with pytest.raises(Failure, match="No QEMU guest agent configured"):
        agent.check_available(100, {})
    with pytest.raises(Failure, match="VM 100 is not running"):
        agent.check_available(100, {"agent": "1"})
    monkeypatch.setattr(guests, "running", lambda _: 5)
    with pytest.raises(Failure, match="QEMU guest agent is not running"):
        agent.check_available(100, {"agent": "enabled=0"})


# -- disks and images


def test_a_qcow2_holds_what_the_raw_disk_held(tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    content = bytearray(5 << 20)
    content[0:4], content[3 << 20 : (3 << 20) + 4], content[-4:] = b"head", b"body", b"tail"
    raw.write_bytes(content)
    qcow2.write(raw, image)
    assert image.stat().st_size < 1 << 20
    assert _read_qcow2(image) == content


def _read_qcow2(image: Path) -> bytes:
    """A reader of its own: L1, then L2, then the cluster."""
    data = image.read_bytes()
    assert data[:8] == b"QFI\xfb\0\0\0\3"
    (size,), (tables,), (l1,) = (
        struct.unpack_from(kind, data, at) for kind, at in ((">Q", 24), (">I", 36), (">Q", 40))
    )
    cluster, mask, found = 1 << 16, (1 << 56) - 512, bytearray()
    for table in struct.unpack_from(f">{tables}Q", data, l1):
        for entry in struct.unpack_from(">8192Q", data, table & mask):
            at = entry & mask
            found += data[at : at + cluster] if at else bytes(cluster)
    return bytes(found[:size])


@pytest.mark.skipif(not shutil.which("sfdisk"), reason="no sfdisk")
def test_the_root_partition_of_a_disk_is_found(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"")
    with disk.open("r+b") as file:
        file.truncate(64 << 20)
    table = "label: gpt\nsize=8MiB, type=U\ntype=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n"
    subprocess.run(["sfdisk", "--quiet", str(disk)], input=table, text=True, check=True)
    found = gpt.root(disk)
    assert found is not None
    assert (found.number, found.offset, found.size > 50 << 20) == (2, 9 << 20, True)
    (tmp_path / "blank").touch()
    assert gpt.root(tmp_path / "blank") is None


@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="no mkfs.ext4")
def test_how_much_a_file_system_takes_is_read_from_it(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.write_bytes(bytes(16 << 20))
    assert gpt.ext4_size(device) == 0
    subprocess.run(["mkfs.ext4", "-q", "-F", str(device), "8M"], check=True)
    assert gpt.ext4_size(device) == 8 << 20


def test_the_image_is_built_anew_when_what_is_in_it_changes() -> None:
    recipe = guest_image.recipe()
    assert len(recipe.packages) == len(set(recipe.packages))
    assert recipe.digest != replace(recipe, packages=(*recipe.packages, "jq")).digest


# -- what is fetched, and from where


@pytest.fixture
def web(tmp_path: Path) -> str:
    """The played internet, on this machine's loopback."""
    image = tmp_path / "disk.qcow2"
    image.write_bytes(b"an image")
    mirror = tmp_path / "mirror"
    (mirror / "simple" / "jinja2").mkdir(parents=True)
    (mirror / "simple" / "jinja2" / "index.html").write_text("links")
    internet.offer(tmp_path, mirror, ["http://images.example.net/path/noble.img?x=1"], image)
    server = internet.Server(tmp_path, ("127.0.0.1", 0))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def test_the_internet_has_what_the_lab_file_names_and_nothing_else(web: str) -> None:
    assert urllib.request.urlopen(f"{web}/noble.img").read() == b"an image"
    assert internet.address_of("https://images.example.net/path/noble.img") == "http://198.51.100.1/noble.img"
    with pytest.raises(HTTPError, match="404"):
        urllib.request.urlopen(f"{web}/other.img")
    assert download.metadata(f"{web}/noble.img", verify=True) == {
        "filename": "noble.img", "size": 8, "mimetype": "application/octet-stream"}  # fmt: skip


def test_the_internet_has_the_mirror_and_nothing_beside_it(web: str) -> None:
    with urllib.request.urlopen(f"{web}/simple/jinja2/") as page:
        assert (page.read(), page.headers["Content-Type"]) == (b"links", "text/html")
    for path in ("simple/jinja2", "../disk.qcow2", "simple/%2e%2e/../../disk.qcow2", "", "/etc/passwd"):
        with pytest.raises(HTTPError, match="404"):
            urllib.request.urlopen(f"{web}/{path}")


SHA256 = "1d9a1b2c"


def test_a_download_with_a_wrong_checksum_leaves_nothing(web: str, tmp_path: Path) -> None:
    order = {"url": f"{web}/noble.img", "path": str(tmp_path / "in/a"), "checksum": SHA256,
             "checksum-algorithm": "sha256"}  # fmt: skip
    with pytest.raises(Failure, match=rf"checksum mismatch: got '[0-9a-f]{{64}}' != expect '{SHA256}'"):
        download.fetch(order)
    assert list((tmp_path / "in").iterdir()) == []


def test_a_file_that_is_there_is_kept_or_in_the_way(web: str, tmp_path: Path) -> None:
    order = {"url": f"{web}/noble.img", "path": str(tmp_path / "a")}
    download.fetch(order)
    with pytest.raises(Failure, match="refusing to override existing file"):
        download.fetch(order)
    digest = {"checksum-algorithm": "md5", "checksum": "ad9e0d4a2dc3f9b2c9f06ea9a7d6e6c3"}
    with pytest.raises(Failure, match="mismatching file hash, refusing to override existing file"):
        download.fetch({**order, **digest})


def test_what_cannot_be_fetched_is_said(web: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="download failed: 404 Not Found"):
        download.fetch({"url": f"{web}/no.img", "path": str(tmp_path / "a")})

"""A published ISO becomes what nodes boot, or is refused by name; on ISOs that xorriso makes."""

from __future__ import annotations

import gzip
import os
import stat
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import boot_scripts, server_media
from provision.errors import GaveUp, LabError
from provision.images import initrd, preparation
from provision.images.iso import MODE_FILE, Unusable, identify, opened
from provision.inventory import InstallMedia, load
from provision.wait import Deadline
from tests.unit import iso_material as isos
from virtual_lab import firmware, media
from virtual_lab.hardware import Dmi, Drive, Hardware
from virtual_lab.ipxe import Booted, Ipxe
from virtual_lab.live_system import Iso, Stuck, boot_media

pytestmark = isos.needs_xorriso

LAB = Path(__file__).parents[2] / "labs/virtual.yaml"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ISOs that tests only read."""
    folder = tmp_path_factory.mktemp("isos")
    isos.proxmox(folder / "pve.iso")
    isos.ubuntu(folder / "ubuntu.iso")
    return folder


@pytest.fixture(autouse=True)
def no_assistant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxmox's own tool is not on this machine, unless a test puts it there."""
    monkeypatch.setattr(preparation, "ASSISTANT", "not-on-this-machine")


def asked(folder: Path, system: str = "proxmox-9", *, combined: bool = False) -> InstallMedia:
    made = folder / "made"
    iso = "proxmox.iso" if system.startswith("proxmox") else "ubuntu.iso"
    return InstallMedia(vmlinuz=made / "vmlinuz", initrd=made / "initrd.img", iso=made / iso,
                        combined=made / "initrd-iso.img" if combined else None)  # fmt: skip


def prepared(iso: Path, folder: Path, system: str = "proxmox-9", *, combined: bool = False) -> InstallMedia:
    wanted = asked(folder, system, combined=combined)
    preparation.prepare(system, iso, wanted, Deadline(60))
    return wanted


def hardware(folder: Path) -> Hardware:
    dmi = Dmi("Supermicro", "SYS", "S1", "4916e828-6e75-5c5c-9dd5-ad61d583e613", "3.4", "X11", "B1", "C1")
    return Hardware(
        name="node1", nics={"eno1": "ac:1f:6b:6c:5a:76"}, dmi=dmi, memory_mib=131072, cores=32, layers=(),
        drive=Drive(folder / "disk.img", 32 << 30, "S3Z8NX01", "SAMSUNG", "0x5002538e"),
        console_log=folder / "console.log", target=folder / "root",
    )  # fmt: skip


class Served:
    """The server as iPXE sees it: a node's boot script, and the media by the names that the server step gives."""

    def __init__(self, script: Path, system: str, made: InstallMedia) -> None:
        self.script, self.at = script, f"/media/{system}/"
        self.files = server_media.files_of(system, made)

    def fetch(self, uri: str) -> Path:
        path = urlsplit(uri).path
        return self.files[path.removeprefix(self.at)] if path.startswith(self.at) else self.script

    def say(self, text: str) -> None:
        pass

    def wait(self, seconds: float) -> None:
        raise AssertionError("it has nothing to wait for")


def booted(made: InstallMedia, folder: Path) -> Iso:
    """Boot a node from these media by its boot script, as far as its installer's request for an answer."""
    lab = load(LAB)
    node = next(iter(lab.nodes.values()))
    (folder / "script").write_text(boot_scripts.install(lab, node, "run", "token").ipxe(lab))
    ended = Ipxe(Served(folder / "script", node.os, made), {}).autoboot("http://10.10.1.1/boot/mac")
    assert isinstance(ended, Booted)
    return boot_media(hardware(folder), firmware._handed_over(ended))


def test_the_played_firmware_boots_the_installer_from_what_was_prepared(shelf: Path, tmp_path: Path) -> None:
    made = prepared(shelf / "pve.iso", tmp_path)
    iso = booted(made, tmp_path)
    assert (iso.info["RELEASE"], iso.mode["mode"]) == ("9.2", "http")
    assert "url" not in iso.mode["http"], "DHCP tells each node its own"
    media.build(tmp_path / "other", build_id="two")
    with pytest.raises(Stuck, match="not of one build"):
        booted(made.model_copy(update={"initrd": tmp_path / "other/initrd.img"}), tmp_path)


@pytest.mark.parametrize("for_macs", [True, False])
def test_the_prepared_iso_has_one_more_file_and_starts_as_before(for_macs: bool, tmp_path: Path) -> None:
    published = isos.proxmox(tmp_path / "pve.iso", for_macs=for_macs)
    made = prepared(published, tmp_path)
    records = isos.boot_records(published)
    assert {word for line in records for word in line.split()} >= {"BIOS", "UEFI", "GPT", "MBR"}
    assert isos.boot_records(made.iso) == records
    end, old, new = 19 * 2048, published.read_bytes(), made.iso.read_bytes()
    assert new[end : len(old)] == old[end:], "behind its descriptors nothing that was there has moved"
    before, after = contents(published, tmp_path / "a"), contents(made.iso, tmp_path / "b")
    assert after.pop(MODE_FILE) == b'mode = "http"\npartition_label = "proxmox-ais"\n\n[http]\n'
    assert after == before


def contents(iso: Path, folder: Path) -> dict[str, bytes]:
    subprocess.run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", folder], check=True,
                   capture_output=True)  # fmt: skip
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_initrd_for_grub_is_the_other_one_with_the_iso_behind_it(shelf: Path, tmp_path: Path) -> None:
    made = prepared(shelf / "pve.iso", tmp_path, combined=True)
    assert made.combined
    whole, first, iso = (path.read_bytes() for path in (made.combined, made.initrd, made.iso))
    assert whole.startswith(first)
    start = -(-len(first) // 4) * 4
    assert whole[start : start + 6] == b"070701", "the kernel passes over an archive that begins elsewhere"
    mode, size, name = (int(whole[start + 6 + 8 * field :][:8], 16) for field in (1, 6, 11))
    assert (stat.S_ISREG(mode), size, name) == (True, len(iso), len("proxmox.iso") + 1)
    assert whole[start + 110 :][:12] == b"proxmox.iso\0"
    data = start + -(-(110 + name) // 4) * 4
    assert whole[data : data + size] == iso
    assert whole[-(-(data + size) // 4) * 4 :][110:121] == b"TRAILER!!!\0"
    assert len(whole) % 4 == 0


def test_what_cpio_cannot_hold_is_refused_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"x")
    with (tmp_path / "iso").open("wb") as large:
        large.truncate(initrd.LARGEST_IN_CPIO + 1)
    with pytest.raises(
        Unusable, match="it has 4294967296 bytes, and a cpio archive takes at most 4294967295"
    ):
        initrd.append_iso(tmp_path / "initrd", tmp_path / "iso", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ubuntu_gets_its_own_kernel_initrd_and_iso(shelf: Path, tmp_path: Path) -> None:
    made = prepared(shelf / "ubuntu.iso", tmp_path, "ubuntu-24.04")
    assert made.iso.read_bytes() == (shelf / "ubuntu.iso").read_bytes()
    with opened(shelf / "ubuntu.iso") as iso, iso.file("casper/initrd", 1 << 30) as file:
        assert made.initrd.read_bytes() == file.read()
    assert preparation.manifest(made.iso.parent)["release"] == "24.04.3"


def cd_info(**changed: str) -> dict[str, isos.Content]:
    values = {"PRODUCT": "pve", "PRODUCTLONG": "Proxmox VE", "RELEASE": "9.2", "ISORELEASE": "1", **changed}
    return {".cd-info": "".join(f"{name}='{value}'\n" for name, value in values.items()).encode()}


REFUSED: dict[str, tuple[dict[str, isos.Content], str]] = {
    "older": (cd_info(RELEASE="8.4"), "it is Proxmox VE 8.4-1, and the lab file asks for proxmox-9"),
    "backup server": (cd_info(PRODUCT="pbs", PRODUCTLONG="Proxmox Backup Server"),
                      "it is Proxmox Backup Server 9.2-1, and the lab file asks"),
    "incapable": ({"auto-installer-capable": None}, "it cannot install unattended: it has no /auto-inst"),
    "no Proxmox": ({".cd-info": None}, r"it is no ISO of Proxmox: .*says \"Proxmox VE 9.2-1\""),
    "no kernel": ({"boot/linux26": None}, "it has no /boot/linux26"),
    "no initrd": ({"boot/initrd.img": None}, "it has no /boot/initrd.img"),
    "text for a kernel": ({"boot/linux26": b"hello"}, "it has no Linux boot header for x86"),
    "text for an initrd": ({"boot/initrd.img": b"hello"}, "no cpio archive, plain or packed by zstd or gzip"),
    "cut initrd": ({"boot/initrd.img": isos.zstd.compress(b"x" * 10000)[:-5]}, "it is no sound initrd"),
    "other id": ({media.ID_FILE: b"two\n"}, "are not of one build: the ISO's /.pve-cd-id.txt is two, the"),
    "no id": ({media.ID_FILE: None}, "are not of one build: the ISO's /.pve-cd-id.txt is missing"),
    "long label": ({".cd-info": b"x" * (1 << 20)}, "its /.cd-info would be 1048576 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_unfit_iso_is_refused_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    changed, why = REFUSED[what]
    iso = isos.proxmox(tmp_path / "pve.iso", changed)
    (tmp_path / "cache").mkdir()
    with pytest.raises(Unusable, match=why):
        prepared(iso, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("label", "why"),
    [
        (
            'Ubuntu-Server 22.04.5 LTS "Jammy Jellyfish" - Release amd64 (x)',
            "it is Ubuntu 22.04.5, and the lab",
        ),
        (
            'Ubuntu 24.04.3 LTS "Noble Numbat" - Release amd64 (x)',
            'no live server ISO of Ubuntu for amd64: it is "Ubu',
        ),
        (
            'Ubuntu-Server 24.04.3 LTS "Noble Numbat" - Release arm64 (x)',
            "no live server ISO of Ubuntu for amd64",
        ),
        ("", "it has no /.disk/info"),
    ],
)
def test_an_iso_of_another_ubuntu_is_refused(label: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=why):
        prepared(isos.ubuntu(tmp_path / "ubuntu.iso", label=label), tmp_path, "ubuntu-24.04")


def test_one_system_is_not_taken_for_another(shelf: Path) -> None:
    with (
        opened(shelf / "ubuntu.iso") as iso,
        pytest.raises(Unusable, match=r"no ISO of Proxmox.*Ubuntu-Server"),
    ):
        identify(iso, "proxmox-9")
    with opened(shelf / "pve.iso") as iso, pytest.raises(Unusable, match="no live server ISO of Ubuntu"):
        identify(iso, "ubuntu-24.04")


def changed(iso: Path, folder: Path, change: Callable[[bytearray], None]) -> Path:
    content = bytearray(iso.read_bytes())
    change(content)
    (folder / "changed.iso").write_bytes(content)
    return folder / "changed.iso"


def directory_entry(image: bytearray, name: bytes) -> int:
    """Where the record of a file of the ISO lies, by its plain ISO 9660 name (ECMA-119, 9.1)."""
    return image.index(bytes([len(name)]) + name, 16 * 2048) - 32


def both_endian(image: bytearray, at: int, value: int) -> None:
    struct.pack_into("<I", image, at, value)
    struct.pack_into(">I", image, at + 4, value)


def huge(image: bytearray) -> None:
    both_endian(image, directory_entry(image, b"LINUX26.;1") + 10, 0xFFFFF800)


def beyond(image: bytearray) -> None:
    both_endian(image, directory_entry(image, b"LINUX26.;1") + 2, len(image) // 2048 - 1)


def loop(image: bytearray) -> None:
    (root,) = struct.unpack_from("<I", image, 16 * 2048 + 156 + 2)
    both_endian(image, directory_entry(image, b"BOOT") + 2, root)


def cut(image: bytearray) -> None:
    del image[len(image) // 2 :]


HOSTILE = {
    "huge": (huge, "its /boot/linux26 lies beyond its end"),
    "beyond": (beyond, "its /boot/linux26 lies beyond its end"),
    "loop": (loop, "no sound ISO 9660 image: .*loop"),
    "cut": (cut, "cut off: it should have|no sound ISO 9660"),
    "empty": (bytearray.clear, "no sound ISO 9660 image"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_iso_is_refused_and_leaves_nothing(what: str, shelf: Path, tmp_path: Path) -> None:
    change, why = HOSTILE[what]
    iso = changed(shelf / "pve.iso", tmp_path, change)
    (tmp_path / "cache").mkdir()
    with pytest.raises(Unusable, match=why):
        prepared(iso, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_symbolic_link_in_place_of_a_kernel_is_refused(tmp_path: Path) -> None:
    iso = isos.proxmox(tmp_path / "pve.iso", {"boot/linux26": Path("/etc/passwd")})
    with pytest.raises(Unusable, match="its /boot/linux26 is no plain file"):
        prepared(iso, tmp_path)


def test_a_name_that_climbs_out_of_the_iso_makes_no_file(tmp_path: Path) -> None:
    iso = isos.proxmox(tmp_path / "pve.iso", {"boot/name_to_patch": b"outside"})
    climbing = tmp_path / "climbing.iso"
    climbing.write_bytes(iso.read_bytes().replace(b"name_to_patch", b"../../escaped"))
    made = prepared(climbing, tmp_path)
    assert sorted(path.name for path in made.iso.parent.iterdir()) == [
        "initrd.img", "manifest.json", "proxmox.iso", "vmlinuz"
    ]  # fmt: skip
    assert not list(tmp_path.parent.rglob("*escaped*"))


@settings(max_examples=60)
@given(data=st.data())
def test_damage_anywhere_is_one_named_error_or_none(shelf: Path, data: st.DataObject) -> None:
    image = bytearray((shelf / "pve.iso").read_bytes())
    structure = st.integers(16 * 2048, 70 * 2048)
    for at in data.draw(st.lists(structure, min_size=1, max_size=8)):
        image[at] = data.draw(st.integers(0, 255))
    path = shelf / "damaged.iso"
    path.write_bytes(image)
    try:
        with opened(path) as iso:
            identify(iso, "proxmox-9")
            with iso.file("boot/linux26", preparation.MOST_KERNEL) as kernel:
                assert len(kernel.read()) <= path.stat().st_size
    except Unusable as error:
        assert str(path) in str(error)


def archive(*files: tuple[str, bytes]) -> bytes:
    entries = b"".join(media._cpio_entry(name, data) for name, data in files)
    return entries + media._cpio_entry("TRAILER!!!", b"")


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "zstd": isos.zstd.compress,
    "gzip": lambda raw: gzip.compress(raw, 1),
}


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("how", PACKED)
def test_initrds_keep_their_files_and_come_out_without_zstd(how: str, early: bool, tmp_path: Path) -> None:
    microcode = archive(("kernel/x86/microcode/GenuineIntel.bin", b"code" * 99)) if early else b""
    main = archive(("./init", b"#!/bin/sh\n"), (media.ID_FILE, b"one\n"), ("big", b"z" * 300_000))
    source = tmp_path / "source"
    source.write_bytes(microcode + bytes(-len(microcode) % 512) + PACKED[how](main))
    with source.open("rb") as file:
        found = initrd.for_loaders(file, tmp_path / "made", {media.ID_FILE, "init"})
    assert found == {media.ID_FILE: b"one\n", "init": b"#!/bin/sh\n"}
    made = (tmp_path / "made").read_bytes()
    assert initrd.files(tmp_path / "made", {"init"}) == {"init": b"#!/bin/sh\n"}
    if how == "zstd":
        start = -(-len(microcode) // 512) * 512
        assert made[:start] == source.read_bytes()[:start], (
            "the kernel finds microcode in plain archives alone"
        )
        assert zlib.decompress(made[start:], wbits=31) == main
    else:
        assert made == source.read_bytes()


@given(raw=st.binary(max_size=400), packed=st.sampled_from(sorted(PACKED)), head=st.booleans())
def test_no_bytes_at_all_upset_the_reading_of_an_initrd(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, packed: str, head: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "initrd"
    path.write_bytes(PACKED[packed]((b"070701" if head else b"") + raw))
    try:
        assert initrd.files(path, {"init"}).keys() <= {"init"}
    except Unusable as error:
        assert "cannot be used" in str(error)


def test_an_initrd_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initrd, "_MOST_UNPACKED", 1 << 20)
    (tmp_path / "bomb").write_bytes(isos.zstd.compress(archive(("zeros", bytes(4 << 20)))))
    with pytest.raises(Unusable, match="it unpacks to more than 1048576 bytes"):
        initrd.files(tmp_path / "bomb", set())


ASSISTANT = """#!/bin/sh
# What Proxmox's tool says and leaves, by its own description.
[ "$1" != --version ] || { echo "proxmox-auto-install-assistant 9.2.7"; exit 0; }
[ "$2" != --help ] || { echo "Options: --fetch-from $OPTION --output"; exit 0; }
echo "$*" >>"$TOLD"
while [ $# -gt 0 ]; do [ "$1" != --output ] || to=$2; shift; done
[ -n "$MADE" ] || { echo "Could not find the 'xorriso' binary. Please install it." >&2; exit 1; }
cp "$MADE/vmlinuz" "$MADE/initrd.img" "$to"; cp "$MADE/proxmox.iso" "$to/published-auto-from-http.iso"
"""


@pytest.fixture
def assistant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Proxmox's own tool, played; the file in which it notes how it was called."""
    monkeypatch.undo()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / preparation.ASSISTANT
    program.write_text(ASSISTANT)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("OPTION", "--pxe")
    monkeypatch.setenv("MADE", "")
    return tmp_path / "told"


def test_proxmox_own_tool_is_used_where_it_is(
    shelf: Path, tmp_path: Path, assistant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTION", "--tmp")
    (tmp_path / "one").mkdir()
    by_xorriso = prepared(shelf / "pve.iso", tmp_path / "one")
    assert not assistant.exists(), "before 9.1.7 it prepares nothing for network boot"
    monkeypatch.setenv("OPTION", "--pxe")
    monkeypatch.setenv("MADE", str(by_xorriso.iso.parent))
    made = prepared(shelf / "pve.iso", tmp_path)
    assert preparation.manifest(made.iso.parent)["prepared_by"] == "proxmox-auto-install-assistant 9.2.7"
    assert assistant.read_text().startswith(
        f"prepare-iso {shelf / 'pve.iso'} --fetch-from http --pxe --output "
    )
    assert (
        preparation.manifest(made.iso.parent)["files"] == preparation.manifest(by_xorriso.iso.parent)["files"]
    )


def test_what_proxmox_own_tool_says_when_it_fails_is_told(
    shelf: Path, tmp_path: Path, assistant: Path
) -> None:
    with pytest.raises(LabError, match=r"failed \(exit 1\)") as failed:
        prepared(shelf / "pve.iso", tmp_path)
    assert failed.value.last_seen == "Could not find the 'xorriso' binary. Please install it."
    assert not (tmp_path / "made").exists()


def test_a_missing_program_is_named_with_its_package(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"xorriso is not installed.*\n.*apt install xorriso"):
        prepared(shelf / "pve.iso", tmp_path)


def test_a_program_that_takes_too_long_is_ended(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(GaveUp, match="xorriso: not done within 0 s"):
        preparation.prepare("proxmox-9", shelf / "pve.iso", asked(tmp_path), Deadline(0))


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (None, "the mode in its /auto-installer-mode.toml is None"),
        (b'mode = "partition"\n', "the mode in its /auto-installer-mode.toml is partition"),
        (b"mode =", "its /auto-installer-mode.toml is no TOML"),
    ],
)
def test_media_prepared_by_hand_are_judged_alike(mode: bytes | None, why: str, tmp_path: Path) -> None:
    iso = isos.proxmox(tmp_path / "pve.iso", {MODE_FILE: mode})
    played = tmp_path / "pve.played"
    by_hand = InstallMedia(vmlinuz=played / "vmlinuz", initrd=played / "initrd.img", iso=iso)
    with pytest.raises(Unusable, match=why):
        preparation.examine("proxmox-9", by_hand)
    preparation.examine("proxmox-9", by_hand.model_copy(update={"iso": played / media.ISO_NAME}))

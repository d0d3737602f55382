"""Every chain on real firmware, through the virtual server's own dnsmasq, nginx and boot service.

The table in docs/boot-chains.md is what was seen here; RACKPROOF_WRITE_PAGES=1 writes it anew.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from provision.inventory import SYSTEMS
from provision.inventory.boot_chains import CHAINS, why_not
from provision.wait import Patience
from tests.firmware.conftest import ROUTES, FirmwareLab, Route
from tests.lab_fixtures import ROOT
from virtual_lab.real_firmware import FROM_DISK, QEMU, boot
from virtual_lab.telling_kernel import DONE, ISO_CAME, NO_ISO, UP

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which(QEMU) is None, reason="real firmware needs root and qemu-system-x86"
)

SLOW = Patience(300, first=0.2, most=0.5)
"""Emulated on a busy machine; half a minute on a quiet one."""

PAGE = ROOT / "docs/boot-chains.md"
BEGIN, END = "<!-- the table that tests/firmware has seen: begin -->", "<!-- end -->"
ARGUMENTS = {
    "proxmox-9": r"ramdisk_size=16777216 rw quiet splash=silent proxmox-start-auto-installer",
    "ubuntu-24.04": r"ip=dhcp iso-url=http://10\.10\.1\.1/media/ubuntu-24\.04/ubuntu\.iso"
    r" cloud-config-url=/dev/null autoinstall ds=nocloud;s=http://10\.10\.1\.1/seed/[A-Za-z0-9_-]{32}/ ---",
}
BEFORE = {
    ("iPXE", "UEFI"): "vmlinuz initrd=initrd.img",
    ("iPXE", "Legacy"): "initrd=initrd.img",
    ("GRUB", "UEFI"): "BOOT_IMAGE=(http,10.10.1.1)/media/{system}/vmlinuz",
}
"""What each loader puts before the arguments that it was told."""
# A PXE ROM of another make, from which undionly.kpxe is fetched. Its kernel would come through the ROM's own
# 16-bit driver, which an emulator runs so slowly that it is followed to its script alone.
OTHER_ROM = replace(ROUTES[2], board=replace(ROUTES[2].board, other_rom=True))


@dataclass(frozen=True)
class Seen:
    """What a route came to: its console without and with leave to install, and the files it was sent."""

    without: str
    installed: str
    files: tuple[str, ...]


@pytest.fixture(scope="module")
def seen(firmware_lab: FirmwareLab) -> Iterator[dict[str, Seen]]:
    """All routes by node, two boards side by side: first nobody has leave to install, then everybody."""
    with ThreadPoolExecutor(2) as pool:
        without = dict(
            zip(ROUTES, pool.map(lambda route: booted(firmware_lab, route, "local"), ROUTES), strict=True)
        )
        firmware_lab.permit()
        after = dict(
            zip(ROUTES, pool.map(lambda route: booted(firmware_lab, route, "leave"), ROUTES), strict=True)
        )
    yield {
        route.node: Seen(without[route], after[route], tuple(firmware_lab.fetched(route.node)))
        for route in ROUTES
    }


def booted(firmware_lab: FirmwareLab, route: Route, name: str, *words: str) -> str:
    place = firmware_lab.place(f"{route.node}-{name}")
    return boot(route.board, place, words or (DONE, FROM_DISK), SLOW)


def command_line(console: str) -> str:
    return next(line.partition(UP)[2] for line in console.splitlines() if UP in line)


def titled(route: Route) -> str:
    return f"{route.board.firmware}-{route.board.way}"


every_route = pytest.mark.parametrize("route", ROUTES, ids=titled)


@every_route
def test_firmware_reaches_the_kernel_with_the_right_command_line(seen: dict[str, Seen], route: Route) -> None:
    chain = CHAINS[route.board.firmware]
    console = seen[route.node].installed
    before = re.escape(BEFORE[chain.loader, chain.mode].format(system=route.system))
    assert re.fullmatch(f"{before} {ARGUMENTS[route.system]}", command_line(console))
    assert (ISO_CAME if route.system == "proxmox-9" else NO_ISO) in console.splitlines()
    assert ("Secure Boot is enabled" in console) == (route.board.firmware == "secure-boot")


@every_route
def test_who_has_no_leave_falls_through_to_disk(seen: dict[str, Seen], route: Route) -> None:
    console = seen[route.node].without
    assert f"rackproof: {route.node} boots from its disk" in console
    assert FROM_DISK in console
    assert UP not in console


@every_route
def test_firmware_is_sent_the_files_of_its_chain(seen: dict[str, Seen], route: Route) -> None:
    chain, way = CHAINS[route.board.firmware], route.board.way
    # QEMU's own ROM is an iPXE, and goes straight to its script.
    wanted = {f"{way}:{file}" for file in chain.files} if chain.mode == "UEFI" else set()
    sent = set(seen[route.node].files)
    # UEFI that could not boot by PXE goes on by HTTP by itself.
    assert wanted <= sent <= wanted | {f"http:{file}" for file in chain.files if wanted}


def test_bios_with_a_rom_of_another_make_is_sent_ipxe_and_no_loop(
    firmware_lab: FirmwareLab, seen: dict[str, Seen]
) -> None:
    console = booted(firmware_lab, OTHER_ROM, "other-rom", "is installed in run")
    assert f"rackproof: {OTHER_ROM.node} is installed in run" in console
    assert 1 <= firmware_lab.fetched(OTHER_ROM.node).count("tftp:undionly.kpxe") <= 2


@every_route
def test_ipxe_comes_to_its_script_without_a_loop(seen: dict[str, Seen], route: Route) -> None:
    for console in (seen[route.node].without, seen[route.node].installed):
        # A board that has PXE and HTTP asks by either before it turns to its disk.
        assert 1 <= console.count(f"rackproof: {route.node} ") <= 2
        assert console.count("Open Source Network Boot Firmware") <= 2


def test_the_page_has_the_table_that_was_seen(seen: dict[str, Seen]) -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    table = f"{BEGIN}\n{page_table(seen)}{END}"
    wanted = before + table + rest.partition(END)[2]
    if os.environ.get("RACKPROOF_WRITE_PAGES"):
        PAGE.write_text(wanted)
    assert text == wanted or os.environ.get("RACKPROOF_WRITE_PAGES")


def page_table(seen: dict[str, Seen]) -> str:
    """The table of the page: a row for each route, and what each chain can boot."""
    head = "| `firmware:` | fetches by | is sent | then the kernel starts with | without leave |\n|---|---|---|---|---|\n"
    rows = [_row(route, seen[route.node]) for route in ROUTES]
    systems = "".join(f" {system} |" for system in SYSTEMS)
    can = [
        f"| `{name}` |" + "".join(" no |" if why_not(name, system) else " yes |" for system in SYSTEMS)
        for name in CHAINS
    ]
    table = f"| `firmware:` |{systems}\n|---|{'---|' * len(SYSTEMS)}\n" + "\n".join(can)
    return f"{head}{''.join(rows)}\n{table}\n"


def _row(route: Route, was: Seen) -> str:
    chain = CHAINS[route.board.firmware]
    line = re.sub(r"seed/[^/]+/", "seed/TOKEN/", command_line(was.installed))
    files = [file for file in chain.files if f"{route.board.way}:{file}" in was.files]
    sent = ", ".join(f"`{file}`" for file in files) or "its script, for its ROM is an iPXE"
    end = "its disk" if FROM_DISK in was.without else "nothing"
    return f"| `{chain.firmware}` | {route.board.way.upper()} | {sent} | `{line}` | {end} |\n"

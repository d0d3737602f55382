"""The firmware of a virtual server: boot order, one-time override, network boot by DHCP, TFTP and iPXE.

Runs as root inside the server's network namespace. The console is worded as EDK2 and iPXE do it.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from provision.inventory.boot_chains import Target
from virtual_lab import bootloader, dhcp_client, efi, http_client, ipxe, nic, real_chain, tftp_client
from virtual_lab.dhcp_client import Client, Exchange, Lease, NoLease, raw_wire
from virtual_lab.hardware import (
    Boot,
    BootDevice,
    BootDisk,
    Hardware,
    NoBootDevice,
    Override,
    RealFirmware,
    RunInstaller,
)
from virtual_lab.played_time import take

Phase = Callable[[str], None]

# A board's patience is played shorter than life, in one proportion: the order of events stays the same.
PROPORTION = 0.25
EDK2_DHCP_TIMEOUTS = tuple(seconds * PROPORTION for seconds in (4.0, 8.0, 16.0, 32.0))
EDK2_TFTP_TIMEOUT = 4.0 * PROPORTION
IPXE_DHCP_TIMEOUTS = tuple(seconds * PROPORTION for seconds in (1.0, 2.0, 4.0, 8.0, 10.0))
DOWNLOAD_SECONDS = 120.0
IPXE_AGENT = "iPXE/1.21.1+"
_MOST_STARTS = 3

_UEFI_X86_64, _BIOS = 7, 0
# What EDK2's PXE client lists in option 55, and iPXE's own list with its options 175 and 203.
_EDK2_WANTS = (
    *(1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97),
    *range(128, 136),
)
_IPXE_WANTS = (1, 3, 6, 7, 12, 15, 17, 26, 42, 43, 60, 66, 67, 119, *range(128, 136), 175, 203)
_IPXE_ENCAPSULATED = 175
# Feature list of iPXE, encapsulated: PXE extensions, SAN, HTTP, DNS, EFI, build for x86-64.
_IPXE_FEATURES = bytes.fromhex("b105011af410001801012001011501011101012201011301012c0101270101190101100102")


def boot(hardware: Hardware, override: Override, *, phase: Phase = lambda _phase: None) -> Boot:
    """Go through the boot devices, the overridden one first, until one boots."""
    shutil.rmtree(memory(hardware), ignore_errors=True)
    memory(hardware).mkdir(parents=True)
    hardware.console(f"{hardware.dmi.manufacturer} {hardware.dmi.product}  BIOS {hardware.dmi.bios_version}")
    hardware.console(f"{hardware.memory_mib} MB memory, {hardware.cores} cores, {override.mode} boot")
    for device in order(hardware, override):
        found = _from_disk(hardware) if device == "disk" else _from_network(hardware, override, phase)
        if found is not None:
            return found
    why = "no bootable device was found in " + ", ".join(order(hardware, override))
    hardware.console("Reboot and Select proper Boot device\nor Insert Boot Media in selected Boot device")
    return NoBootDevice(why)


def memory(hardware: Hardware) -> Path:
    """The directory that stands for the server's memory: what was downloaded in this boot."""
    return hardware.target.parent / "memory"


def order(hardware: Hardware, override: Override) -> tuple[BootDevice, ...]:
    """The boot devices in the order in which this start tries them."""
    first: dict[str, BootDevice] = {"Pxe": "network", "UefiHttp": "network", "Hdd": "disk"}
    wanted = first.get(override.target) if override.active else None
    rest = tuple(device for device in hardware.boot_order if device != wanted)
    return (wanted, *rest) if wanted else rest


def _from_disk(hardware: Hardware) -> BootDisk | None:
    if not bootloader.is_installed(hardware.drive.image):
        hardware.console(f"{hardware.drive.model} {hardware.drive.serial}: no boot loader")
        return None
    hardware.console(f"Booting from {hardware.drive.model} {hardware.drive.serial}\nGRUB loading.")
    return BootDisk()


def _from_network(hardware: Hardware, override: Override, phase: Phase) -> Boot | None:
    if hardware.real_firmware:
        return _by_real_firmware(hardware, hardware.real_firmware, override, phase)
    own = {hardware.boot_nic: hardware.nics[hardware.boot_nic]}
    with nic.up(own):
        try:
            program, lease = _network_program(hardware, override, phase)
            _check_program(hardware, override, program)
            ended = _run_ipxe(hardware, program, lease, phase)
        except (NoLease, tftp_client.TftpFailed, ipxe.Failed) as failure:
            hardware.console(str(failure))
            return None
    if isinstance(ended, ipxe.LocalDisk):
        return _from_disk(hardware)
    return _handed_over(ended) if isinstance(ended, ipxe.Booted) else None


def _by_real_firmware(
    hardware: Hardware, real: RealFirmware, override: Override, phase: Phase
) -> Boot | None:
    phase("real-firmware")
    target: Target = "UefiHttp" if override.active and override.target == "UefiHttp" else "Pxe"
    ended = real_chain.run(hardware, real, memory(hardware) / "real-firmware", target)
    return _from_disk(hardware) if isinstance(ended, BootDisk) else ended


def _network_program(hardware: Hardware, override: Override, phase: Phase) -> tuple[bytes, Lease]:
    phase("dhcp")
    hardware.console(">>Start PXE over IPv4.")
    lease = _lease(hardware, _edk2(hardware, override), "PXE-E16: No valid offer received.")
    server, path = lease.message.next_server, lease.message.boot_file
    hardware.console(f"  Station IP address is {lease.address.ip}")
    if server is None or not path:
        raise NoLease("PXE-E53: No boot filename received.")
    hardware.console(f"\n  Server IP address is {server}\n  NBP filename is {path}")
    phase("boot-file")
    try:
        program = tftp_client.fetch(
            str(lease.address.ip), str(server), path, EDK2_TFTP_TIMEOUT, hardware.console
        )
    except tftp_client.TftpFailed as failure:
        raise tftp_client.TftpFailed(
            f"PXE-E23: Client received TFTP error from server: {failure}"
        ) from failure
    hardware.console(" Downloading NBP file...\n\n  NBP file downloaded successfully.")
    return program, lease


def _check_program(hardware: Hardware, override: Override, program: bytes) -> None:
    fault = efi.fault_of(program)
    if override.active and override.mode == "Legacy":
        fault = "this board started in BIOS mode, and BIOS boot programs are not played"
    if fault:
        raise tftp_client.TftpFailed(f"PXE-E79: NBP cannot be started: {fault}")


def _lease(hardware: Hardware, client: Client, failure: str) -> Lease:
    own = {hardware.boot_nic: hardware.nics[hardware.boot_nic]}
    try:
        with raw_wire(own) as wire:
            lease = Exchange(client, own, wire, hardware.console).lease()
    except NoLease as none:
        raise NoLease(failure) from none
    nic.configure(lease)
    return lease


def _edk2(hardware: Hardware, override: Override) -> Client:
    legacy = override.active and override.mode == "Legacy"
    architecture, undi = (_BIOS, "002001") if legacy else (_UEFI_X86_64, "003016")
    return Client(
        options=_pxe_options(hardware, architecture, undi),
        wants=_EDK2_WANTS, timeouts=EDK2_DHCP_TIMEOUTS, needs_boot_file=True,
    )  # fmt: skip


def _ipxe(hardware: Hardware) -> Client:
    options = _pxe_options(hardware, _UEFI_X86_64, "003010")
    options |= {dhcp_client.USER_CLASS: b"iPXE", _IPXE_ENCAPSULATED: _IPXE_FEATURES}
    return Client(options=options, wants=_IPXE_WANTS, timeouts=IPXE_DHCP_TIMEOUTS, needs_boot_file=True)


def _pxe_options(hardware: Hardware, architecture: int, undi: str) -> dict[int, bytes]:
    return {
        dhcp_client.MAX_SIZE: (1472).to_bytes(2, "big"),
        dhcp_client.MACHINE_ID: b"\0" + uuid.UUID(hardware.dmi.uuid).bytes_le,
        dhcp_client.UNDI: bytes([1, 3, 16]),
        dhcp_client.ARCHITECTURE: architecture.to_bytes(2, "big"),
        dhcp_client.VENDOR_CLASS: f"PXEClient:Arch:{architecture:05}:UNDI:{undi}".encode(),
    }


def _run_ipxe(hardware: Hardware, program: bytes, lease: Lease, phase: Phase) -> ipxe.Ended:
    """iPXE from its own DHCP to the end of the script. Raises NoLease or Failed when iPXE gives up."""
    for _ in range(_MOST_STARTS):
        hardware.console(
            "iPXE initialising devices... ok\n\niPXE 1.21.1+ -- Open Source Network Boot Firmware"
        )
        hardware.console(f"Configuring ({hardware.boot_nic} {hardware.nics[hardware.boot_nic]})...")
        lease = _lease(
            hardware, _ipxe(hardware), "Configuring... Connection timed out; No more network devices"
        )
        hardware.console(f"net0: {lease.address}" + (f" gw {lease.gateway}" if lease.gateway else ""))
        file = lease.message.boot_file
        if not file:
            raise ipxe.Failed("Nothing to boot: No such file or directory (https://ipxe.org/2d03e18e)")
        if "://" in file:
            phase("boot-script")
            machine = _Machine(hardware, str(lease.address.ip))
            hardware.console(f"Filename: {file}")
            return ipxe.Ipxe(machine, settings(hardware, lease)).autoboot(file)
        # The server did not tell iPXE from the firmware, and hands it the boot program once more.
        hardware.console(f"Filename: {file}")
        again = _Machine(hardware, str(lease.address.ip)).fetch(f"tftp://{lease.message.next_server}/{file}")
        if again.read_bytes() != program:
            raise ipxe.Failed(f"Could not boot: Exec format error: {file} is not what is played")
    raise ipxe.Failed("iPXE was handed itself again and again: the DHCP server does not know its user class")


def settings(hardware: Hardware, lease: Lease) -> dict[str, str]:
    """iPXE's settings after its DHCP (https://ipxe.org/cfg)."""
    network = {
        "mac": hardware.nics[hardware.boot_nic],
        "ip": str(lease.address.ip),
        "netmask": str(lease.address.netmask),
        "gateway": str(lease.gateway or ""),
        "dns": str(next(iter(lease.dns), "")),
        "domain": lease.text(dhcp_client.DOMAIN),
        "hostname": lease.text(dhcp_client.HOST_NAME),
        "next-server": str(lease.message.next_server or ""),
        "dhcp-server": str(lease.server or ""),
        "filename": lease.message.boot_file,
    }
    return network | {f"net0/{name}": value for name, value in network.items()} | _machine_settings(hardware)


def _machine_settings(hardware: Hardware) -> dict[str, str]:
    dmi = hardware.dmi
    return {
        "uuid": dmi.uuid.lower(), "serial": dmi.serial, "board-serial": dmi.board_serial,
        "manufacturer": dmi.manufacturer, "product": dmi.product, "memsize": str(hardware.memory_mib),
        "netX": "net0", "buildarch": "x86_64", "platform": "efi", "version": "1.21.1+", "user-class": "iPXE",
    }  # fmt: skip


@dataclass(slots=True)
class _Machine:
    """What iPXE has of this server."""

    hardware: Hardware
    address: str
    _files: list[Path] = field(default_factory=list)

    def fetch(self, uri: str) -> Path:
        """Download a file into memory; raises ipxe.Failed with iPXE's own words."""
        path = memory(self.hardware) / f"ipxe-{len(self._files)}"
        self._files.append(path)
        try:
            if uri.startswith("tftp://"):
                server, _, name = uri.removeprefix("tftp://").partition("/")
                path.write_bytes(tftp_client.fetch(self.address, server, name, EDK2_TFTP_TIMEOUT, _unheard))
            else:
                http_client.download(uri, path, DOWNLOAD_SECONDS, agent=IPXE_AGENT)
        except http_client.HttpFailed as failure:
            raise ipxe.Failed(f"{uri}... {_IPXE_WORDS.get(failure.status, str(failure))}") from failure
        except tftp_client.TftpFailed as failure:
            raise ipxe.Failed(f"{uri}... {failure}") from failure
        return path

    def say(self, text: str) -> None:
        """Write a line on the console."""
        self.hardware.console(text)

    def wait(self, seconds: float) -> None:
        """Let time pass, in the board's proportion."""
        take(seconds * PROPORTION)


_IPXE_WORDS: Mapping[int | None, str] = {
    401: "Permission denied (https://ipxe.org/021c618f)",
    403: "Permission denied (https://ipxe.org/021c618f)",
    404: "No such file or directory (https://ipxe.org/2d0c618e)",
    500: "Input/output error (https://ipxe.org/1d0c6139)",
    503: "Input/output error (https://ipxe.org/1d0c6139)",
}


def _unheard(_text: str) -> None:
    """iPXE tells nothing of a file's size."""


def _handed_over(booted: ipxe.Booted) -> RunInstaller:
    """What the kernel finds: initrds with a path behind their address are files, the others are unpacked."""
    media: dict[str, bytes | Path] = {"kernel": booted.kernel.content}
    for number, image in enumerate(image for image in booted.initrds if not image.args):
        media[f"initrd.{number}"] = image.content
    media |= {
        f"/{image.args.split()[0].lstrip('/')}": image.content for image in booted.initrds if image.args
    }
    return RunInstaller(kernel_args=booted.kernel.args, media=media)

"""The Proxmox VE automatic installer, played strictly: what it asks for, refuses, writes and reports.

Sources: pve-installer 9.2 (unconfigured.sh, proxmox-fetch-answer, proxmox-auto-installer, proxmox-post-hook).
Runs as root in the server's network namespace, and in a mount namespace of the machine's own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from virtual_lab import answer as answers
from virtual_lab import bootloader, disk, first_boot, installed_root, nic, udev
from virtual_lab.answer import Answer, FirstBoot, FqdnFromDhcp, InvalidAnswer, Webhook
from virtual_lab.dhcp_client import DOMAIN, HOST_NAME, Client, Exchange, Lease, NoLease, raw_wire
from virtual_lab.hardware import Hang, Hardware, Outcome, PowerOff, Reboot, RunInstaller
from virtual_lab.http_client import HttpFailed, Request, Response, origin, send
from virtual_lab.installed_root import Installation, Laid
from virtual_lab.installer_reports import report, system_info
from virtual_lab.live_system import ABORTED, Iso, Stuck, boot_media
from virtual_lab.played_time import LONGEST, take

Phase = Callable[[str], None]
Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

HTTP_SECONDS = 60.0
ERROR_PAUSE = 30.0
URL_OPTION, FINGERPRINT_OPTION = 250, 251
DHCLIENT = Client(
    options={},
    wants=(1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42, URL_OPTION, FINGERPRINT_OPTION),
    timeouts=(3.0, 7.0),  # 10 s in all, and one run
)


class InstallFailed(Exception):
    """The installation itself, or its webhook, failed: here `reboot-on-error` counts."""


def _lay_down(hardware: Hardware, plan: Installation) -> Laid:
    os.umask(0o022)  # the live system's; whoever raised the rack may have another
    image = hardware.drive.image
    disk.blank(image, hardware.drive.size)
    extent = disk.partition(image)
    if disk.is_slow(image):
        # As the SCSI layer tells it: a command was given up, and is sent once more.
        hardware.console("sd 0:0:0:0: [sda] tag#3 timing out command, waited 30s")
        take(LONGEST)
    disk.make_filesystem(image, extent)
    with disk.mounted_root(hardware, extent) as root:
        machine_id = installed_root.write(root, plan)
        keys = installed_root.new_host_keys(root)
    bootloader.install(image)
    return Laid(machine_id, keys)


def lease_by_dhcp(hardware: Hardware) -> Lease:
    """Lease an address, as a live system does, and give it to the NIC that it came by. Raises NoLease."""
    with raw_wire(hardware.nics) as wire:
        lease = Exchange(DHCLIENT, hardware.nics, wire, hardware.console).lease()
    nic.configure(lease)
    return lease


@dataclass(frozen=True, slots=True)
class Live:
    """What the installer's live system does to the world around it."""

    lease: Callable[[Hardware], Lease] = lease_by_dhcp
    send: Callable[[Request, float], Response] = send
    lay_down: Callable[[Hardware, Installation], Laid] = _lay_down
    take: Callable[[float], None] = take


def install(
    hardware: Hardware, run: RunInstaller, *, phase: Phase = lambda _phase: None, live: Live | None = None
) -> Outcome:
    """Play the installer from its kernel's start to its end."""
    try:
        iso = boot_media(hardware, run)
        with nic.up(hardware.nics) if live is None else nic.up({}):
            return _Session(hardware, run.kernel_args, iso, phase, live or Live()).play()
    except Stuck as stuck:
        hardware.console(str(stuck))
        return Hang(str(stuck).splitlines()[0])


@dataclass(slots=True)
class _Session:
    """One run of the automatic installer."""

    hardware: Hardware
    kernel_args: str
    iso: Iso
    phase: Phase
    live: Live

    def play(self) -> Outcome:
        """From DHCP to the restart. Raises Stuck."""
        lease = self._lease()
        self.phase("answer")
        answer = self._answer(*self._source(lease))
        plan = decide(self.hardware, answer, lease, self.kernel_args)
        plan = replace(plan, first_boot=self._first_boot_script(answer.first_boot))
        try:
            self._install(plan)
        except InstallFailed as failure:
            return self._failed(answer, failure)
        self.hardware.console("Installation done, rebooting...")
        return PowerOff() if answer.global_.reboot_mode == "power-off" else Reboot()

    def _lease(self) -> Lease | None:
        self.phase("installer")
        try:
            lease = self.live.lease(self.hardware)
        except NoLease as failure:
            self.hardware.console(f"dhclient: {failure}")
            return None
        self.hardware.console(f"bound to {lease.address.ip} on {lease.nic}")
        return lease

    def _source(self, lease: Lease | None) -> tuple[str, str | None]:
        """Where the answer is fetched from, and the certificate's fingerprint."""
        mode = self.iso.mode
        if mode.get("mode") != "http":
            raise Stuck(f"Fetching the answer by mode {mode.get('mode')!r} is not played\n{ABORTED}")
        http = mode.get("http", {})
        pinned = http.get("cert_fingerprint")
        if url := http.get("url"):
            return url, pinned
        url = lease.text(URL_OPTION) if lease else ""
        if not url or " " in url:
            raise Stuck(
                f"Could not find an URL for the answer in the ISO, by DHCP option 250 or by DNS\n{ABORTED}"
            )
        assert lease is not None
        return url, pinned or lease.text(FINGERPRINT_OPTION) or None

    def _answer(self, url: str, fingerprint: str | None) -> Answer:
        self.hardware.console(f"Fetching answer file from {origin(url)}")
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if self._speaks_json:
            headers["Accept"] = "application/json, application/toml;q=0.5"
        if token := self.iso.mode.get("http", {}).get("token"):
            headers["Authorization"] = f"Bearer {token}"
        body = json.dumps(system_info(self.hardware, self.iso)).encode()
        try:
            response = self.live.send(Request("POST", url, headers, body, fingerprint), HTTP_SECONDS)
        except HttpFailed as failure:
            raise Stuck(f"Fetching answer file failed: {failure}\n{ABORTED}") from failure
        if response.status not in (200, 201):
            text = response.body.decode("utf-8", "replace").strip()
            raise Stuck(f"Fetching answer file failed: status {response.status}: {text}\n{ABORTED}")
        kind = response.headers.get("content-type", "") if self._speaks_json else ""
        try:
            return answers.read(response.body, kind)
        except InvalidAnswer as fault:
            raise Stuck(f"Answer file is invalid: {fault}\n{ABORTED}") from fault

    @property
    def _speaks_json(self) -> bool:
        return self.hardware.release != "9.1"

    def _first_boot_script(self, wanted: FirstBoot | None) -> bytes | None:
        if wanted is None:
            return None
        if wanted.source == "from-iso" or wanted.url is None:
            raise Stuck(f"The ISO holds no first-boot script\n{ABORTED}")
        request = Request("GET", wanted.url, {}, fingerprint=wanted.cert_fingerprint)
        try:
            response = self.live.send(request, HTTP_SECONDS)
        except HttpFailed as failure:
            raise Stuck(f"Fetching the first-boot script failed: {failure}\n{ABORTED}") from failure
        if response.status not in (200, 201):
            raise Stuck(f"Fetching the first-boot script failed: status {response.status}\n{ABORTED}")
        return response.body[: first_boot.LARGEST]

    def _install(self, plan: Installation) -> None:
        self.phase("installing")
        setup = plan.answer.disk_setup
        self.hardware.console(f"create partitions on /dev/{self.hardware.drive.device}")
        if setup.filesystem != "ext4":
            self.hardware.console(f"(played: {setup.label} was asked for; the disk is given ext4)")
        try:
            laid = self.live.lay_down(self.hardware, plan)
        except subprocess.CalledProcessError as failure:
            said = failure.stderr.decode() if isinstance(failure.stderr, bytes) else failure.stderr
            raise InstallFailed(f"{' '.join(failure.cmd)}: {said}") from failure
        except OSError as failure:
            raise InstallFailed(str(failure)) from failure
        self.hardware.console("configuring the system, making it bootable: done")
        self.phase("installed")
        if plan.answer.post_installation_webhook:
            self._call(plan.answer.post_installation_webhook, plan, laid)

    def _call(self, hook: Webhook, plan: Installation, laid: Laid) -> None:
        body = json.dumps(report(self.hardware, self.iso, plan, laid)).encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        try:
            response = self.live.send(
                Request("POST", hook.url, headers, body, hook.cert_fingerprint), HTTP_SECONDS
            )
        except HttpFailed as failure:
            raise InstallFailed(f"post-installation webhook: {failure}") from failure
        if response.status not in (200, 201):
            raise InstallFailed(f"post-installation webhook: status {response.status}")

    def _failed(self, answer: Answer, failure: InstallFailed) -> Outcome:
        self.hardware.console(f"Installation failed: {failure}")
        if not answer.global_.reboot_on_error:
            self.hardware.console(ABORTED)
            return Hang(str(failure))
        self.live.take(ERROR_PAUSE)
        self.hardware.console("Installation done, rebooting...")  # the real one says so of a failure, too
        return Reboot()


def decide(hardware: Hardware, answer: Answer, lease: Lease | None, kernel_args: str) -> Installation:
    """Choose NIC, disks, names and addresses. Raises Stuck when the filters choose nothing."""
    host, _, domain = _fqdn(answer, lease).partition(".")
    names, links = _nic_names(hardware, answer)
    management, address, gateway, dns = _network(hardware, answer, lease)
    return Installation(
        answer=answer, host=host, domain=domain, disks=_choose_disks(hardware, answer), management=management,
        names=names, links=links, address=address, gateway=gateway, dns=dns, kernel_args=kernel_args,
    )  # fmt: skip


def _network(
    hardware: Hardware, answer: Answer, lease: Lease | None
) -> tuple[str, Interface, Address, Address]:
    """Name of the management NIC, its address, the gateway, the name server."""
    wanted = answer.network
    if wanted.source == "from-dhcp":
        if lease is None or lease.gateway is None or not lease.dns:
            raise Stuck(f"no network configuration came by DHCP\n{ABORTED}")
        return lease.nic, lease.address, lease.gateway, lease.dns[0]
    chosen = udev.first_match(udev.nics(hardware), wanted.filter)
    if chosen is None:
        raise Stuck(f"Could not find management interface matching filter {dict(wanted.filter)}\n{ABORTED}")
    assert wanted.cidr and wanted.gateway and wanted.dns, "an answer without them is refused when it is read"
    return chosen.name, wanted.cidr, wanted.gateway, wanted.dns


def _fqdn(answer: Answer, lease: Lease | None) -> str:
    wanted = answer.global_.fqdn
    if not isinstance(wanted, FqdnFromDhcp):
        return wanted
    host = lease.text(HOST_NAME) if lease else ""
    domain = (lease.text(DOMAIN) if lease else "") or wanted.domain
    fqdn = f"{host}.{domain or ''}"
    if not host or answers.fqdn_fault(fqdn):
        raise Stuck(f"DHCP gave no usable host name and domain ({fqdn!r})\n{ABORTED}")
    return fqdn


def _choose_disks(hardware: Hardware, answer: Answer) -> tuple[udev.Device, ...]:
    setup, present = answer.disk_setup, udev.disks(hardware)
    if setup.disk_list:
        chosen = udev.listed(present, setup.disk_list)
    elif setup.raid:
        chosen = udev.all_matches(present, setup.filter, setup.filter_match or "any")
    else:
        first = udev.first_match(present, setup.filter)
        chosen = (first,) if first else ()
    try:
        answers.check_disk_count(setup, len(chosen))
    except ValueError as fault:
        raise Stuck(f"Could not find disks for the installation: {fault}\n{ABORTED}") from fault
    others = {f"/dev/{drive.device}" for drive in hardware.osd_drives}
    for name in others & {each.properties["DEVNAME"] for each in chosen}:
        raise Stuck(f"the answer would install to {name}, which the lab file gives to Ceph\n{ABORTED}")
    return chosen


def _nic_names(hardware: Hardware, answer: Answer) -> tuple[dict[str, str], dict[str, str]]:
    """The NICs' names on the installed system by their names now, and the pinned ones by MAC."""
    pinning, present = answer.network.interface_name_pinning, dict(sorted(hardware.nics.items()))
    if pinning is None:
        return {name: name for name in present}, {}
    # Pinning is on as soon as the table is there, `enabled = false` or not: the release's own fault.
    names, counter = {}, 0
    for name, mac in present.items():
        mapped = pinning.name_of(mac)
        names[name] = mapped or f"nic{counter}"
        counter += not mapped
    for mac in {mac.lower() for mac in pinning.mapping} - set(present.values()):
        hardware.console(f"warning: interface name pinning: no NIC has the MAC {mac}")
    return names, {mac: names[name] for name, mac in present.items()}

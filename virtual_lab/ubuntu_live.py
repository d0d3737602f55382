"""Ubuntu's live system until its installer starts: casper finds its ISO by HTTP, cloud-init its seed.

Sources: casper (scripts/casper, 23.10 on: `iso-url=`, conf/uuid.conf), cloud-init 25.1 (DataSourceNoCloud,
util.read_seeded, url_helper.readurl). What stops the real one stops this one: it ends at a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from virtual_lab import media, ubuntu_media
from virtual_lab.hardware import Hardware, RunInstaller
from virtual_lab.http_client import HttpFailed, Request, Response, download, origin, send
from virtual_lab.live_system import Stuck, content
from virtual_lab.played_time import take

LEAST_MEMORY_MIB = 4 * 1024
WGET, CLOUD_INIT = "Wget", "Cloud-Init/25.1.4-0ubuntu0~24.04.1"
ISO_SECONDS, SEED_SECONDS, SEED_ATTEMPTS, SEED_PAUSE = 900.0, 5.0, 11, 1.0
NO_MEDIUM = "(initramfs) Unable to find a medium containing a live file system"
INTERACTIVE = "interactive installer: waits for somebody to choose a language"

Send = Callable[[Request, float], Response]
Download = Callable[[str, Path], None]
Take = Callable[[float], None]


def _download(url: str, to: Path) -> None:
    download(url, to, ISO_SECONDS, agent=WGET)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the live system asks of the world."""

    send: Send = send
    download: Download = _download
    take: Take = take


def is_ubuntu(run: RunInstaller) -> bool:
    """Whether what the firmware loaded is Ubuntu's kernel and initrd."""
    try:
        return ubuntu_media.UUID_FILE in _initrd(run)
    except media.Unreadable:
        return False


def start_kernel(hardware: Hardware, run: RunInstaller) -> dict[str, bytes]:
    """Start kernel and initrd as one build; returns the initrd's files. Raises Stuck."""
    try:
        release = media.kernel_release(content(run, "kernel"))
        hardware.console(f"Linux version {release}\nCommand line: {run.kernel_args}")
        initrd = _initrd(run)
    except media.Unreadable as error:
        raise Stuck(f"Kernel panic - not syncing: VFS: Unable to mount root fs: {error}") from error
    if not any(name.startswith(f"lib/modules/{release}/") for name in initrd):
        raise Stuck(f"(initramfs) no network: the initrd has no modules for kernel {release}")
    if not any(word.startswith("ip=") and word != "ip=off" for word in run.kernel_args.split()):
        raise Stuck(f"{NO_MEDIUM}: no ip= brings the network up")
    return initrd


def find_iso(
    hardware: Hardware, kernel_args: str, memory: Path, initrd: Mapping[str, bytes], world: Surroundings
) -> None:
    """Fetch the ISO into memory and mount its squashfs, as casper does. Raises Stuck."""
    words = kernel_args.split()
    url = next((word.partition("=")[2] for word in words if word.startswith("iso-url=")), "")
    if not url:
        raise Stuck(f"{NO_MEDIUM}: no iso-url=")
    if hardware.memory_mib < LEAST_MEMORY_MIB:
        raise Stuck(f"{NO_MEDIUM}: wget: short write: ISO and system need {LEAST_MEMORY_MIB} MiB")
    _check_iso(_fetch_iso(hardware, url, memory, world), initrd)


def _fetch_iso(hardware: Hardware, url: str, memory: Path, world: Surroundings) -> Path:
    hardware.console(f"Downloading {url.rpartition('/')[2]} from {origin(url)}")
    try:
        world.download(url, iso := memory / "casper.iso")
    except HttpFailed as failure:
        raise Stuck(f"{NO_MEDIUM}: wget: {failure}") from failure
    return iso


def _check_iso(iso: Path, initrd: Mapping[str, bytes]) -> None:
    try:
        files = ubuntu_media.iso_files(iso, ubuntu_media.UUID_ON_ISO, ubuntu_media.SQUASHFS)
    except media.Unreadable as error:
        raise Stuck(f"{NO_MEDIUM}: {error}") from error
    if ubuntu_media.SQUASHFS not in files:
        raise Stuck(f"{NO_MEDIUM}: the ISO has no {ubuntu_media.SQUASHFS}")
    if files.get(ubuntu_media.UUID_ON_ISO) != initrd[ubuntu_media.UUID_FILE]:
        raise Stuck(f"{NO_MEDIUM}: the ISO is not of the initrd's build (casper-uuid)")


def cloud_config(hardware: Hardware, kernel_args: str, world: Surroundings) -> dict[str, Any]:
    """The cloud-config of the seed that `ds=nocloud;s=URL` names. Raises Stuck when there is none."""
    url = _seed_url(kernel_args)
    if url is None:
        raise Stuck(f"cloud-init: no datasource found on the kernel's command line\n{INTERACTIVE}")
    hardware.console(f"cloud-init: seed from {origin(url)}")
    seed = _Seed(hardware, url, world)
    seed.read("network-config", needed=False)
    meta = _yaml(seed.read("meta-data"), "meta-data")
    if not isinstance(meta, dict) or not meta.get("instance-id"):
        raise Stuck(f"cloud-init: meta-data has no instance-id\n{INTERACTIVE}")
    user_data = seed.read("user-data")
    seed.read("vendor-data", needed=False)
    if not user_data.startswith("#cloud-config\n"):
        raise Stuck(f"cloud-init: Unhandled non-multipart (text/x-not-multipart) userdata\n{INTERACTIVE}")
    config = _yaml(user_data, "user-data")
    if not isinstance(config, dict) or "autoinstall" not in config:
        raise Stuck(f"subiquity: no autoinstall found in cloud-config\n{INTERACTIVE}")
    return config


@dataclass(frozen=True, slots=True)
class _Seed:
    """The files below an address; cloud-init appends their names to it as they are."""

    hardware: Hardware
    url: str
    world: Surroundings

    def read(self, name: str, *, needed: bool = True) -> str:
        """A file; asked for eleven times, a second apart, whatever the answer is. Raises Stuck."""
        request = Request("GET", f"{self.url}{name}", {"User-Agent": CLOUD_INIT, "Accept": "*/*"})
        for attempt in range(SEED_ATTEMPTS):
            if attempt:
                self.world.take(SEED_PAUSE)
            try:
                answer = self.world.send(request, SEED_SECONDS)
            except HttpFailed as failure:
                self.hardware.console(f"cloud-init: {name}: attempt {attempt + 1}: {failure}")
                continue
            if answer.status == 200:
                return answer.body.decode("utf-8", "replace")
            self.hardware.console(f"cloud-init: {name}: attempt {attempt + 1}: status {answer.status}")
        if needed:
            raise Stuck(f"cloud-init: seed from {origin(self.url)} has no {name}\n{INTERACTIVE}")
        return ""


def _seed_url(kernel_args: str) -> str | None:
    """The `s` or `seedfrom` of `ds=nocloud;key=value;…`, as cloud-init parses it."""
    for word in kernel_args.split():
        source, *pairs = word.split(";")
        if source in ("ds=nocloud", "ds=nocloud-net"):
            values = dict(pair.partition("=")[::2] for pair in pairs)
            return values.get("s") or values.get("seedfrom")
    return None


def _yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Stuck(f"cloud-init: Failed loading yaml blob of {what}: {error}\n{INTERACTIVE}") from error


def _initrd(run: RunInstaller) -> dict[str, bytes]:
    return media.initrd_files(content(run, "initrd.0"))

"""`pveceph install`: what it asks, what it configures, and how Ceph's programs come to a node."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from . import apt, ceph, ceph_cluster, ceph_daemons
from .errors import Failure
from .formation import say, warn
from .run import run

HELD = Path("/usr/lib/rackproof/held")
"""What the image has of Ceph and a fresh node has not, below its own path; `list` names them."""

PACKAGES = ("ceph", "ceph-common", "ceph-fuse", "ceph-mds", "ceph-volume", "gdisk", "nvme-cli")
_NEW = ("ceph", "ceph-base", "ceph-mds", "ceph-mgr", "ceph-mgr-modules-core", "ceph-mon", "ceph-osd",
        "ceph-volume", "nvme-cli")  # fmt: skip
_MGR_UTIL = Path("/usr/share/ceph/mgr/mgr_util.py")

_HINTS = {
    "enterprise": "\nWARN: Enterprise repository selected, but no active subscription!\n\n",
    "no-subscription": "\nHINT: The no-subscription repository is not the best choice for production setups."
                       "\nProxmox recommends using the enterprise repository with a valid subscription.\n",
    "manual": "\nHINT: The manual repository option expects that the Ceph repository is already correctly "
              "configured. For example, when used in combination with Proxmox Offline Mirror.\n",
    "test": "\nWARN: The test repository should only be used for test setups or after consulting the "
            "official Proxmox support!\n\n",
}  # fmt: skip


def install(release: str | None, repository: str) -> None:
    """Install Ceph from a repository (enterprise, no-subscription, test, manual); Failure when apt fails."""
    name = release or ceph_cluster.DEFAULT_RELEASE
    title = f"{ceph_cluster.number_of(name)} {name.capitalize()}"
    print(_HINTS[repository], end="", file=sys.stderr, flush=True)
    if release is None and sys.stdout.isatty():
        _confirm(f"This will install Ceph {title} - continue (y/N)? ")
    if repository != "manual":
        (apt.SOURCES / "ceph.sources").write_text(apt.source(f"ceph-{name}", repository))
    say("update available package list")
    for complaint in _update_complaints():
        warn(complaint)
    say("start installation")
    ceph.INSTALLING.touch()
    try:
        _apt(repository)
    finally:
        ceph.INSTALLING.unlink()
    say(f"\ninstalled Ceph {title} successfully!")
    ceph_daemons.report(versions=True)
    say("\nreloading API to load new Ceph RADOS library...")
    run(["systemctl", "try-reload-or-restart", "pvedaemon.service", "pveproxy.service"])


def _confirm(question: str) -> None:
    print(question, end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("Aborting installation as requested")


def _update_complaints() -> Iterator[str]:
    """What `apt-get update` says of repositories that want a subscription; the installation goes on."""
    for file in apt.repositories()["files"]:
        for row in file["repositories"]:
            if row["Enabled"] and any("enterprise.proxmox.com" in uri for uri in row["URIs"]):
                yield f"E: Failed to fetch {row['URIs'][0]}/dists/trixie/InRelease  401  Unauthorized [IP: 198.51.100.1 443]"  # noqa: E501
                yield f"E: The repository '{row['URIs'][0]} trixie InRelease' is not signed."


def _apt(repository: str) -> None:
    """apt-get install without -y: it asks, and takes a closed stdin for a no."""
    say("Reading package lists...\nBuilding dependency tree...\nReading state information...")
    if repository == "enterprise":
        say("E: Unable to correct problems, you have held broken packages.")
        raise Failure("apt failed during ceph installation (25600)")
    missing = [path for path in _held() if not os.path.lexists(path)]
    if not missing:
        for package in PACKAGES:
            say(f"{package} is already the newest version.")
        say("0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.")
        return
    say("The following NEW packages will be installed:\n  " + " ".join(_NEW))
    say(f"0 upgraded, {len(_NEW)} newly installed, 0 to remove and 0 not upgraded.")
    say("Need to get 62.4 MB of archives.")
    say("After this operation, 281 MB of additional disk space will be used.")
    print("Do you want to continue? [Y/n] ", end="", flush=True)
    answer = sys.stdin.readline() if sys.stdin else ""
    if not answer or answer.strip().lower() not in ("", "y", "yes"):
        say("Abort.")
        raise Failure("apt failed during ceph installation (256)")
    for path in missing:
        path.symlink_to(HELD / path.relative_to("/"))
    _set_up()


def _held() -> list[Path]:
    names = (HELD / "list").read_text().split()
    return [Path("/") / name.lstrip("/") for name in names]


def _set_up() -> None:
    """What the packages' own scripts do, and Proxmox' in addition: ceph may read /etc/pve."""
    members = grp.getgrnam("www-data").gr_mem
    if "ceph" not in members:
        run(["usermod", "-a", "-G", "www-data", "ceph"])
    ceph.LOCAL.mkdir(exist_ok=True)
    shutil.chown(ceph.LOCAL, "ceph", "ceph")
    owner = pwd.getpwnam("ceph")
    for name in ("mon", "mgr", "mds", "osd", "tmp", "crash", "crash/posted", "bootstrap-osd",
                 "bootstrap-mds"):  # fmt: skip
        place = ceph.STATE / name
        place.mkdir(parents=True, exist_ok=True)
        os.chown(place, owner.pw_uid, owner.pw_gid)
    _mend_manager()


def _mend_manager() -> None:
    """Let the manager's modules load, as Proxmox' packages do; Debian's fail in every subinterpreter but one.

    bcrypt cannot be imported there (PyO3 issue 576), and is wanted for passwords of the dashboard only.
    """
    text = _MGR_UTIL.read_text()
    later = re.sub(r"(?m)^import bcrypt\n", "", text)
    later = re.sub(r"(?m)^( +)(?=salt = bcrypt\.gensalt)", r"\1import bcrypt\n\1", later)
    _MGR_UTIL.write_text(later)

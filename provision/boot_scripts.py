"""What a node's firmware runs, for iPXE and for GRUB: an installer, the local disk, or a shell."""

from __future__ import annotations

from dataclasses import dataclass

from provision.inventory import Lab, Node
from provision.render import render
from provision.server_plan import medium, service_url

PROXMOX = ("ramdisk_size=16777216", "rw")
UNATTENDED = ("quiet", "splash=silent", "proxmox-start-auto-installer")
SHELL = ("proxmox-debug", "proxmox-tui-mode")
"""The installer's medium without its automatic installer: it opens a shell before it does anything."""


@dataclass(frozen=True, slots=True)
class Boot:
    """A kernel to start: `what` the console says of it, its medium's system and ISO, its command line."""

    what: str
    system: str
    iso: str
    arguments: tuple[str, ...]
    iso_in_initrd: bool

    def ipxe(self, lab: Lab) -> str:
        """As iPXE is told."""
        return render("boot.ipxe.j2", boot=self, url=f"{service_url(lab)}/media/{self.system}")

    def grub(self, lab: Lab) -> str:
        """As GRUB is told."""
        return render("boot.grub.j2", boot=self, root=f"(http,{lab.server.address})/media/{self.system}")


def install(lab: Lab, node: Node, run: str, answer_token: str) -> Boot:
    """Start the installer of the node's operating system, unattended."""
    what = f"{node.name} is installed in run {run}"
    if node.is_proxmox:
        return _boot(node, what, (*PROXMOX, *UNATTENDED))
    # By HTTP, because the live system trusts no certificate of ours. Who listens on the management network
    # could read the seed: a hashed password, keys, and tokens that are taken from this node's address alone.
    # It is handed out once, and only to the address that holds the lease of one of the node's MACs.
    seed = f"{service_url(lab)}/seed/{answer_token}/"
    return _boot(node, what, (*_live(lab, node), "autoinstall", f"ds=nocloud;s={seed}", "---"))


def rescue(lab: Lab, node: Node) -> Boot:
    """Start the installer's medium, and not its unattended installer: a shell on the node's console."""
    arguments = (*PROXMOX, *SHELL) if node.is_proxmox else _live(lab, node)
    return _boot(node, f"{node.name} boots the rescue system", arguments)


def local(node: Node) -> tuple[str, str]:
    """The iPXE and the GRUB script that boot the local disk."""
    return render("local.ipxe.j2", node=node), render("local.grub.j2", node=node)


def _boot(node: Node, what: str, arguments: tuple[str, ...]) -> Boot:
    return Boot(what, node.os, medium(node.os).iso, arguments, iso_in_initrd=node.is_proxmox)


def _live(lab: Lab, node: Node) -> tuple[str, ...]:
    # Not url=, as before 23.10: cloud-init takes that for its own, and reads the ISO as its configuration.
    iso = f"{service_url(lab)}/media/{node.os}/{medium(node.os).iso}"
    return ("ip=dhcp", f"iso-url={iso}", "cloud-config-url=/dev/null")

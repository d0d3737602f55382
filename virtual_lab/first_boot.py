"""The installed system's first-boot script, flag and units, as the package proxmox-first-boot has them."""

from __future__ import annotations

from pathlib import Path

FOLDER = "var/lib/proxmox-first-boot"
SCRIPT = f"{FOLDER}/proxmox-first-boot"
FLAG = f"{FOLDER}/pending-first-boot-setup"
LARGEST = 1 << 20
"""A longer script is cut here, and nothing says so."""

_UNITS = "usr/lib/systemd/system"
_UNIT = """\
[Unit]
Description=Custom script to run at first boot ({ordering})
{order}
ConditionPathExists=/{flag}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/{script} {ordering}
ExecStartPost=/usr/bin/rm -v /{flag}

[Install]
Alias=proxmox-first-boot.service
WantedBy={wanted_by}
"""
# Unit name, order and WantedBy of each ordering.
_ORDERINGS = {
    "before-network": ("network-pre", "Before=network.target\nWants=network-pre.target", "network.target"),
    "network-online": ("network-online", "After=network-online.target\nWants=network-online.target",
                       "network-online.target"),
    "fully-up": ("multi-user", "After=pveproxy.service", "multi-user.target"),
}  # fmt: skip


def write_units(root: Path) -> None:
    """The three units; none of them starts by itself."""
    (root / _UNITS).mkdir(parents=True, exist_ok=True)
    for ordering, (name, order, wanted_by) in _ORDERINGS.items():
        text = _UNIT.format(ordering=ordering, order=order, wanted_by=wanted_by, flag=FLAG, script=SCRIPT)
        (root / _UNITS / _unit(name)).write_text(text)


def enable(root: Path, script: bytes, ordering: str) -> None:
    """Have `script` run at the first boot, and again at every boot until it succeeds."""
    (root / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    (root / FOLDER).chmod(0o700)
    (root / SCRIPT).write_bytes(script[:LARGEST])
    (root / SCRIPT).chmod(0o700)
    (root / FLAG).touch()
    name, _, wanted_by = _ORDERINGS[ordering]
    units = root / "etc/systemd/system"
    for link in (units / "proxmox-first-boot.service", units / f"{wanted_by}.wants" / _unit(name)):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/{_UNITS}/{_unit(name)}")


def _unit(name: str) -> str:
    return f"proxmox-first-boot-{name}.service"

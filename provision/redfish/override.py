"""The boot override of a system: where a BMC takes it, what to send, and whether it was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sushy import exceptions

from provision.errors import Refused
from provision.redfish.body import Json, link, part, words
from provision.redfish.change import patch
from provision.redfish.connection import Connection, Timing

TARGET = "BootSourceOverrideTarget"
ENABLED = "BootSourceOverrideEnabled"
MODE = "BootSourceOverrideMode"
Target = Literal["Pxe", "UefiHttp", "Hdd", "Cd", "BiosSetup"]
Enabled = Literal["Once", "Continuous"]
Mode = Literal["UEFI", "Legacy"]
NAMES: dict[Target, str] = {
    "Pxe": "network", "UefiHttp": "HTTP", "Hdd": "disk", "Cd": "CD", "BiosSetup": "BIOS setup",
}  # fmt: skip
CDS = ("Cd", "UefiUsbCd", "UsbCd", "UefiCd", "CD/DVD")
"""What BMCs call a boot from CD, in our order: a server's CDs are virtual, which is by USB (Supermicro)."""


@dataclass(frozen=True, slots=True)
class BootOverride:
    """The boot override in Redfish's words, each None where the BMC does not say."""

    target: str | None
    enabled: str | None
    mode: str | None

    @classmethod
    def of(cls, resource: Json) -> BootOverride:
        """The override in the Boot object of a system or of its settings resource."""
        target, enabled, mode = (part(resource, "Boot", key) for key in (TARGET, ENABLED, MODE))
        return cls(*(word if isinstance(word, str) else None for word in (target, enabled, mode)))

    @property
    def pending(self) -> bool:
        """Whether the next boot will follow it."""
        return self.enabled in ("Once", "Continuous") and self.target not in (None, "None")

    @property
    def once_from_network(self) -> bool:
        """Whether the next boot, and only that, is a network boot that is not known to be a legacy one."""
        return self.is_once("Pxe")

    def is_once(self, target: Target, mode: Mode = "UEFI") -> bool:
        """Whether the next boot, and only that, is from there and not known to be of another mode."""
        return self.fits(target, "Once", mode)

    def fits(self, target: Target, enabled: Enabled, mode: Mode) -> bool:
        """Whether the next boot, or each from now on, is from there and not known to be of another mode."""
        targets = CDS if target == "Cd" else (target,)
        return self.target in targets and self.enabled == enabled and self.mode in (None, mode)

    @property
    def used_up(self) -> bool:
        """Whether the BMC says that there is none; a null says nothing."""
        return self.enabled == "Disabled" or self.target == "None"

    def __str__(self) -> str:
        return f"target {self.target}, enabled {self.enabled}, mode {self.mode}"


def read(conn: Connection, system: Mapping[str, Json]) -> BootOverride:
    """The override that the next boot will follow: one that waits in the settings before the one in force."""
    settings = _settings(conn, system)
    waiting = BootOverride.of(settings[1]) if settings else None
    return waiting if waiting and waiting.pending else BootOverride.of(system)


def send(
    conn: Connection, path: str, timing: Timing, target: Target, mode: Mode, *, enabled: Enabled
) -> None:
    """Ask for one boot from there in this mode, or for each (Continuous).

    That the BMC accepts it does not mean that it keeps it.
    """
    system = conn.read(path)
    place, boot = _place(conn, path, system)
    wanted: dict[str, str] = {TARGET: _word(boot, target), ENABLED: _lasting(boot, enabled)}
    whole = place != path or "supermicro" in str(system.get("Manufacturer")).lower()
    also = _mode(boot, mode, whole=whole)
    try:
        patch(conn, place, {"Boot": {**wanted, **also}}, timing)
    except exceptions.BadRequestError:
        if not also:
            raise
        patch(conn, place, {"Boot": wanted}, timing)


def send_none(conn: Connection, path: str, timing: Timing) -> None:
    """Ask for a boot in the machine's own order."""
    place, _ = _place(conn, path, conn.read(path))
    patch(conn, place, {"Boot": {TARGET: "None", ENABLED: "Disabled"}}, timing)


def _word(boot: Mapping[str, Json], target: Target) -> str:
    """The BMC's own word for a target. Raises Refused when it has none."""
    if not boot:
        raise Refused("the BMC takes no boot override")
    offered = words(boot.get(f"{TARGET}@Redfish.AllowableValues"))
    ours = CDS if target == "Cd" else (target,)
    fitting = [word for word in ours if word in offered] if offered else [target]
    if not fitting:
        raise Refused(f"the BMC offers no {NAMES[target]} boot, only {', '.join(offered)}")
    return fitting[0]


def _lasting(boot: Mapping[str, Json], enabled: Enabled) -> Enabled:
    offered = words(boot.get(f"{ENABLED}@Redfish.AllowableValues"))
    if offered and enabled not in offered:
        raise Refused(f"the BMC takes no override that is {enabled}, only {', '.join(offered)}")
    return enabled


def _settings(conn: Connection, system: Mapping[str, Json]) -> tuple[str, dict[str, Json]] | None:
    """The settings resource, when it is where this BMC takes boot overrides (AMI's /SD), else None."""
    path = link(system, "@Redfish.Settings", "SettingsObject")
    body = conn.read_or_none(path)
    return (path, body) if path and body and TARGET in _boot(body) else None


def _place(conn: Connection, path: str, system: Mapping[str, Json]) -> tuple[str, dict[str, Json]]:
    """The path of the resource to be patched, and all that is known of booting."""
    settings = _settings(conn, system)
    boot = {**_boot(system), **(_boot(settings[1]) if settings else {})}
    return (settings[0] if settings else path), boot


def _boot(resource: Mapping[str, Json]) -> dict[str, Json]:
    boot = resource.get("Boot")
    return boot if isinstance(boot, dict) else {}


def _mode(boot: Mapping[str, Json], mode: Mode, *, whole: bool) -> dict[str, str]:
    """The mode to send along: where it is known, and there only if it must change or `whole` is asked for.

    Supermicro's X10 and HPE's iLO refuse it, and Dell's iDRAC starts a job for one that does not change.
    Supermicro's X11 and later fall back to Legacy without it, and AMI's settings resource wants all.
    """
    known = words(boot.get(f"{MODE}@Redfish.AllowableValues"))
    if MODE not in boot or (known and mode not in known):
        return {}
    return {MODE: mode} if whole or boot[MODE] != mode else {}

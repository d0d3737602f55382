"""The sensors of a machine: temperatures, fans, voltages and power, each with its own thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from provision.redfish.body import Json, link, number, objects, part
from provision.redfish.chassis import chassis_of
from provision.redfish.connection import Connection
from provision.redfish.identity import said


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a reading must stay between, in the reading's unit; None where the BMC names no limit."""

    lower_fatal: float | None = None
    lower_critical: float | None = None
    lower_caution: float | None = None
    upper_caution: float | None = None
    upper_critical: float | None = None
    upper_fatal: float | None = None


@dataclass(frozen=True, slots=True)
class Sensor:
    """One sensor. `kind` is temperature, fan, voltage, power or what the BMC calls it, in lower case.

    `unit` is °C, RPM, %, V or W, or the BMC's own word. `value` is None when the BMC has the sensor, and no
    reading of it. `health` is Redfish's OK, Warning or Critical.
    """

    kind: str
    name: str
    value: float | None
    unit: str | None
    health: str | None
    thresholds: Thresholds = Thresholds()

    @property
    def beyond(self) -> str | None:
        """The gravest threshold of its own that the reading is at or beyond, such as `upper_critical`."""
        if self.value is None:
            return None
        for level in ("fatal", "critical", "caution"):
            lower = getattr(self.thresholds, f"lower_{level}")
            upper = getattr(self.thresholds, f"upper_{level}")
            if lower is not None and self.value <= lower:
                return f"lower_{level}"
            if upper is not None and self.value >= upper:
                return f"upper_{level}"
        return None


UNITS = {"Cel": "°C", "Percent": "%"}
"""UCUM and Redfish's own words for units, as people write them; the others are written so already."""
TABLES = (
    ("Thermal", "Temperatures", "temperature", "ReadingCelsius", "°C"),
    ("Thermal", "Fans", "fan", "Reading", "RPM"),
    ("Power", "Voltages", "voltage", "ReadingVolts", "V"),
    ("Power", "PowerControl", "power", "PowerConsumedWatts", "W"),
)
"""Where chassis of before 2020.4 keep their sensors: resource, list, kind, reading, unit."""
OLD_NAMES = {
    "lower_fatal": "LowerThresholdFatal",
    "lower_critical": "LowerThresholdCritical",
    "lower_caution": "LowerThresholdNonCritical",
    "upper_caution": "UpperThresholdNonCritical",
    "upper_critical": "UpperThresholdCritical",
    "upper_fatal": "UpperThresholdFatal",
}
NAMES = {name: name.replace("_", " ").title().replace(" ", "") for name in OLD_NAMES}
"""A threshold's name in a Sensor, such as UpperCritical."""


def read(conn: Connection, path: str) -> list[Sensor] | None:
    """The sensors of the chassis that the system at `path` is in; None when the BMC offers none at all.

    A sensor whose part is absent is left out. Thermal and Power are asked before the single sensors: they
    hold all in two answers.
    """
    found, offered = [], False
    for chassis in chassis_of(conn, path):
        tables = {name: conn.read_or_none(link(chassis, name)) for name in ("Thermal", "Power")}
        sensors = link(chassis, "Sensors")
        offered |= any(body is not None for body in tables.values()) or sensors is not None
        listed = list(_of_tables(tables))
        found += listed or [one for body in conn.members(sensors) if (one := _sensor(body))]
    return found if offered else None


def _of_tables(tables: Mapping[str, Json]) -> Iterator[Sensor]:
    for resource, listed, kind, reading, unit in TABLES:
        for body in objects(part(tables[resource], listed)):
            if not _is_absent(body):
                yield _old(body, kind, reading, unit)


def _old(body: Mapping[str, Json], kind: str, reading: str, unit: str) -> Sensor:
    units = said(body.get("ReadingUnits")) or unit
    limits = {name: number(body.get(old)) for name, old in OLD_NAMES.items()}
    name = said(body.get("Name")) or said(body.get("FanName")) or said(body.get("MemberId"))
    return Sensor(kind, name or kind, number(body.get(reading)), UNITS.get(units, units), _health(body),
                  _thresholds(limits))  # fmt: skip


def _sensor(body: Mapping[str, Json]) -> Sensor | None:
    if _is_absent(body):
        return None
    units = said(body.get("ReadingUnits"))
    limits = {name: number(part(body, "Thresholds", new, "Reading")) for name, new in NAMES.items()}
    return Sensor(
        kind=(said(body.get("ReadingType")) or "other").lower(),
        name=said(body.get("Name")) or said(body.get("Id")) or "unnamed",
        value=number(body.get("Reading")),
        unit=UNITS.get(units, units) if units else None,
        health=_health(body),
        thresholds=_thresholds(limits),
    )


def _thresholds(limits: Mapping[str, float | None]) -> Thresholds:
    """The thresholds; none when all that are there are 0, which is how Supermicro's X10 writes none."""
    return Thresholds(**limits) if any(limits.values()) else Thresholds()


def _health(body: Mapping[str, Json]) -> str | None:
    return said(part(body, "Status", "Health"))


def _is_absent(body: Mapping[str, Json]) -> bool:
    return said(part(body, "Status", "State")) == "Absent"


def limits_of(sensor: Sensor) -> dict[str, float]:
    """The thresholds that a sensor has, by name."""
    named = {one.name: getattr(sensor.thresholds, one.name) for one in fields(Thresholds)}
    return {name: value for name, value in named.items() if value is not None}

"""A machine written for the tests, whose BMC offers all that is read: it is there where no recorded trees are."""

from __future__ import annotations

from typing import Any

from tests.unit import redfish_bmc as fake
from tests.unit.redfish_bmc import ROOT

SYSTEM, CHASSIS, MANAGER = f"{ROOT}/Systems/1", f"{ROOT}/Chassis/1", f"{ROOT}/Managers/1"
HEALTHY = {"Status": {"Health": "OK", "State": "Enabled"}}
ABSENT = {"Status": {"State": "Absent"}}


def furnished() -> dict[str, Any]:
    """Its tree: two DIMMs and an empty socket, a CPU, a disk, sensors of both kinds, logs, boot entries."""
    tree = fake.written(
        Memory=_link(f"{SYSTEM}/Memory"), Processors=_link(f"{SYSTEM}/Processors"),
        Storage=_link(f"{SYSTEM}/Storage"), LogServices=_link(f"{SYSTEM}/LogServices"),
        MemorySummary={"TotalSystemMemoryGiB": 64},
    )  # fmt: skip
    tree[SYSTEM]["Boot"] |= {
        "BootOrder": ["Boot0001", "Boot0002"],
        "BootOptions": _link(f"{SYSTEM}/BootOptions"),
        "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd", "Cd", "BiosSetup"],
    }
    tree[ROOT]["UpdateService"] = _link(f"{ROOT}/UpdateService")
    tree[f"{ROOT}/UpdateService"] = {"FirmwareInventory": _link(f"{ROOT}/UpdateService/FirmwareInventory")}
    for collection, members in _collections().items():
        tree[collection] = {"Members": [_link(f"{collection}/{i}") for i in range(len(members))]}
        tree |= {f"{collection}/{i}": {"Id": str(i), **body} for i, body in enumerate(members)}
    tree[CHASSIS] |= {name: _link(f"{CHASSIS}/{name}") for name in ("Thermal", "Power", "Sensors")}
    tree[f"{CHASSIS}/Thermal"], tree[f"{CHASSIS}/Power"] = _thermal(), _power()
    tree[MANAGER]["LogServices"] = _link(f"{SYSTEM}/LogServices")
    return tree


def _collections() -> dict[str, list[dict[str, Any]]]:
    dimm = {"CapacityMiB": 32768, "OperatingSpeedMhz": 3200, "PartNumber": "P1", **HEALTHY}
    cpu = {"Socket": "CPU1", "ProcessorType": "CPU", "Model": "M", "TotalCores": 8, **HEALTHY}
    drive = {"Model": "D", "SerialNumber": "S3Z1", "CapacityBytes": 10**12, "MediaType": "SSD", **HEALTHY}
    entry = {"Created": "2026-01-01T00:00:00Z", "Severity": "Critical", "Message": "A fan stands still"}
    log = f"{SYSTEM}/LogServices/0"
    target = f"{log}/Actions/LogService.ClearLog"
    return {
        f"{SYSTEM}/Memory": [{"Name": "A1", "SerialNumber": "1", **dimm}, {"Name": "A2", **dimm}, ABSENT],
        f"{SYSTEM}/Processors": [cpu],
        f"{SYSTEM}/Storage": [{"Drives": [_link(f"{SYSTEM}/Drives/0")], **HEALTHY}],
        f"{SYSTEM}/Drives": [{**drive, "PredictedMediaLifeLeftPercent": 97, "FailurePredicted": False}],
        f"{SYSTEM}/BootOptions": [
            {"BootOptionReference": "Boot0001", "DisplayName": "Network"},
            {"BootOptionReference": "Boot0002", "DisplayName": "Disk"},
        ],
        f"{SYSTEM}/LogServices": [
            {
                "Name": "Events",
                "Entries": _link(f"{log}/Entries"),
                "Actions": {"#LogService.ClearLog": {"target": target}},
            },
            {"Name": "Vendor", "LogEntryType": "OEM", "Entries": _link(f"{log}/Nowhere")},
        ],
        f"{log}/Entries": [entry, {**entry, "Severity": "OK"}],
        f"{CHASSIS}/Sensors": [
            {"Name": "Inlet", "Reading": 21.5, "ReadingType": "Temperature", "ReadingUnits": "Cel", **HEALTHY,
             "Thresholds": {"UpperCritical": {"Reading": 42}}},
            ABSENT,
        ],
        f"{ROOT}/UpdateService/FirmwareInventory": [{"Name": "NIC", "Version": "22.1"}, {"Name": "Disk"}],
    }  # fmt: skip


def _thermal() -> dict[str, Any]:
    inlet = {"Name": "Inlet", "ReadingCelsius": 21, "UpperThresholdCritical": 42, **HEALTHY}
    empty = {"Name": "CPU2", "ReadingCelsius": 0, "UpperThresholdCritical": 0, **ABSENT}
    fan = {
        "FanName": "Fan 1",
        "Reading": 300,
        "ReadingUnits": "RPM",
        "LowerThresholdCritical": 500,
        **HEALTHY,
    }
    return {"Temperatures": [inlet, empty], "Fans": [fan]}


def _power() -> dict[str, Any]:
    supply = {"Name": "PSU1", "Model": "P", "SerialNumber": "9", "PowerCapacityWatts": 800, **HEALTHY}
    battery = {"Name": "Battery", "ReadingVolts": None, "LowerThresholdNonCritical": 2.5}
    return {
        "PowerSupplies": [supply, ABSENT],
        "Voltages": [battery],
        "PowerControl": [{"PowerConsumedWatts": 210, **HEALTHY}],
    }


def _link(path: str) -> dict[str, str]:
    return {"@odata.id": path}

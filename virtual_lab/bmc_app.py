"""A virtual BMC's Redfish service: sushy-tools' emulator with this rack's driver, and a thin layer around it.

The emulator answers for everything; the layer only adds what its templates cannot carry (serial number, the
one-time override, the console's own NIC) and refuses what a real BMC refuses.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flask
from werkzeug.exceptions import BadRequest, HTTPException, NotFound

from virtual_lab.bmc_state import ACTIONS, SYSTEM, Bmc, NotWorking

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # webob's, about the module cgi
    from sushy_tools import error
    from sushy_tools.emulator import main as emulator
    from sushy_tools.emulator.resources.systems.base import AbstractSystemsDriver

FIRMWARE = "01.74.09"
RETRY_AFTER = 1
_SYSTEM_URL = f"/redfish/v1/Systems/{SYSTEM}"
_MANAGER_URL = f"/redfish/v1/Managers/{SYSTEM}"
_RESET_URL = f"{_SYSTEM_URL}/Actions/ComputerSystem.Reset"


class BoardDriver(AbstractSystemsDriver):  # type: ignore[misc]  # sushy-tools has no types
    """sushy-tools' view of one board."""

    def __init__(self, bmc: Bmc) -> None:
        self._bmc = bmc

    driver = "<board>"
    systems = (SYSTEM,)

    def uuid(self, identity: str) -> str:
        """The only system's identity."""
        if identity != SYSTEM:
            raise error.NotFound(f"The resource {identity} was not found")
        return SYSTEM

    def name(self, identity: str) -> str:
        """The name of the server."""
        self.uuid(identity)
        return self._bmc.console.node

    def get_power_state(self, identity: str) -> str:
        """On, Off or the way between."""
        self.uuid(identity)
        return self._bmc.power

    def set_power_state(self, identity: str, state: str) -> None:
        """A reset action."""
        self.uuid(identity)
        if state not in ACTIONS:
            raise error.BadRequest(
                f"The value {state} for the parameter ResetType is not in the list of acceptable values"
            )
        self._bmc.reset(state)

    def get_boot_device(self, identity: str) -> str:
        """The override's target."""
        self.uuid(identity)
        return self._bmc.override["BootSourceOverrideTarget"]

    def set_boot_device(self, identity: str, boot_source: str) -> None:
        """Override the boot source once."""
        self.uuid(identity)
        self._bmc.set_override({"BootSourceOverrideTarget": boot_source})

    def get_total_memory(self, identity: str) -> int:
        """GiB."""
        self.uuid(identity)
        return self._bmc.console.memory_gib

    def get_total_cpus(self, identity: str) -> int:
        """The number of cores."""
        self.uuid(identity)
        return self._bmc.console.cores

    def get_versions(self, identity: str) -> dict[str, str]:
        """The BIOS version."""
        self.uuid(identity)
        return {"BiosVersion": self._bmc.console.bios_version}

    def get_nics(self, identity: str) -> list[dict[str, str]]:
        """The server's NICs, numbered from 1, as Supermicro does it."""
        self.uuid(identity)
        macs = self._bmc.console.nics.values()
        return [{"id": str(number), "mac": mac.upper()} for number, mac in enumerate(macs, start=1)]


class _Indicators:
    """The locator light, kept in memory: sushy-tools' own keeps it in a file that all BMCs would share."""

    def __init__(self) -> None:
        self._state = "Off"

    def get_indicator_state(self, _identity: str) -> str:
        return self._state

    def set_indicator_state(self, _identity: str, state: str) -> None:
        if state not in ("Lit", "Blinking", "Off"):
            raise error.BadRequest(f"The value {state} for IndicatorLED is not known")
        self._state = state


class _Application(emulator.Application):  # type: ignore[misc]  # sushy-tools has no types
    """The emulator's application with this BMC's drivers where it would look for a hypervisor."""

    systems: BoardDriver | None = None
    indicators: _Indicators | None = None


def application(bmc: Bmc) -> flask.Flask:
    """The emulator's application, made into this BMC's; one in a process."""
    app = emulator.app
    # The emulator keeps its routes in one global application, so that one becomes ours, and is no copy.
    app.__class__ = _Application
    app.systems, app.indicators = BoardDriver(bmc), _Indicators()
    app.config.update(
        SUSHY_EMULATOR_AUTH_FILE=str(bmc.console.users),
        SUSHY_EMULATOR_CHASSIS=[{"Id": SYSTEM, "Name": "Computer System Chassis", "UUID": bmc.console.uuid}],
    )
    app.configure()
    app.logger.setLevel(logging.ERROR)
    layer = _Layer(bmc)
    app.before_request(layer.before)
    app.after_request(layer.after)
    app.register_error_handler(NotWorking, _told)
    app.register_error_handler(HTTPException, _told)
    app.add_url_rule(f"{_MANAGER_URL}/EthernetInterfaces", view_func=layer.manager_nics)
    app.add_url_rule(f"{_MANAGER_URL}/EthernetInterfaces/1", view_func=layer.manager_nic)
    result: flask.Flask = app
    return result


Body = dict[str, Any]


class _Layer:
    """What stands before and after the emulator."""

    def __init__(self, bmc: Bmc) -> None:
        self._bmc = bmc
        self._more: Mapping[str, Callable[[Body], None]] = {
            _SYSTEM_URL: self._add_to_system,
            _MANAGER_URL: self._add_to_manager,
            f"/redfish/v1/Chassis/{bmc.console.uuid}": self._add_to_chassis,
            "/redfish/v1/": self._add_to_root,
            "/redfish/v1": self._add_to_root,
        }

    def before(self) -> flask.Response | None:
        """Refuse, or do what the emulator would do wrongly; None lets the emulator answer."""
        request = flask.request
        if self._bmc.quirk("busy", once=True):
            raise NotWorking("The service is temporarily unavailable", 503)
        if request.method in ("PATCH", "POST") and not isinstance(request.get_json(silent=True), dict):
            raise BadRequest("The request body is not a JSON object")
        path = request.path.rstrip("/")
        if path.removeprefix(f"{_SYSTEM_URL}/").partition("/")[0] in _ABSENT:
            raise NotFound
        if request.method == "PATCH" and path == _SYSTEM_URL and "Boot" in request.json:
            return self._set_boot(request.json)
        return None

    def after(self, response: flask.Response) -> flask.Response:
        """Add to an answer what the emulator's templates lack."""
        request = flask.request
        path = request.path.rstrip("/") if request.path != "/redfish/v1/" else request.path
        if request.method == "POST" and path == _RESET_URL and self._bmc.quirk("lost-answer", once=True):
            return _lost()
        if request.method == "GET" and response.status_code == 200 and path in self._more:
            body = response.get_json(force=True)
            self._more[path](body)
            response.set_data(flask.json.dumps(body))
        return response

    def manager_nics(self) -> Body:
        """The console's own NICs."""
        own = f"{_MANAGER_URL}/EthernetInterfaces"
        return {
            "@odata.type": "#EthernetInterfaceCollection.EthernetInterfaceCollection", "@odata.id": own,
            "Name": "Ethernet Network Interface Collection", "Members@odata.count": 1,
            "Members": [{"@odata.id": f"{own}/1"}],
        }  # fmt: skip

    def manager_nic(self) -> Body:
        """The console's NIC."""
        console = self._bmc.console
        return {
            "@odata.type": "#EthernetInterface.v1_4_0.EthernetInterface",
            "@odata.id": f"{_MANAGER_URL}/EthernetInterfaces/1", "Id": "1",
            "Name": "Manager Ethernet Interface",
            "MACAddress": console.mac, "PermanentMACAddress": console.mac,
            "IPv4Addresses": [{"Address": console.address, "AddressOrigin": "DHCP"}],
            "Status": {"State": "Enabled", "Health": "OK"},
        }  # fmt: skip

    def _set_boot(self, body: Body) -> flask.Response:
        if set(body) != {"Boot"} or not isinstance(body["Boot"], dict) or not body["Boot"]:
            raise BadRequest("The request body holds other properties than those of Boot")
        self._bmc.set_override(body["Boot"])
        return flask.Response(status=204)

    def _add_to_system(self, body: Body) -> None:
        console, override = self._bmc.console, self._bmc.override
        body |= {
            "SerialNumber": self._bmc.serial, "UUID": console.uuid, "Model": console.product,
            "SKU": console.product, "Manufacturer": console.manufacturer, "SystemType": "Physical",
            "Name": "System", "HostName": "",
        }  # fmt: skip
        body["Boot"] = override | {
            f"BootSourceOverride{name}@Redfish.AllowableValues": values
            for name, values in {"Target": list(console.targets), **_ALLOWED}.items()
            if f"BootSourceOverride{name}" in override
        }
        for name in _ABSENT:
            body.pop(name, None)
        body["Actions"]["#ComputerSystem.Reset"]["ResetType@Redfish.AllowableValues"] = list(ACTIONS)

    def _add_to_manager(self, body: Body) -> None:
        body |= {"Model": "ASPEED", "FirmwareVersion": FIRMWARE, "Description": "BMC"}
        body.pop("VirtualMedia", None)
        body["EthernetInterfaces"] = {"@odata.id": f"{_MANAGER_URL}/EthernetInterfaces"}

    def _add_to_chassis(self, body: Body) -> None:
        console = self._bmc.console
        body |= {
            "SerialNumber": self._bmc.serial,
            "Manufacturer": console.manufacturer,
            "Model": console.product,
        }
        body |= {"ChassisType": "RackMount", "SKU": console.product, "PartNumber": "", "AssetTag": ""}
        body.pop("Location", None)

    def _add_to_root(self, body: Body) -> None:
        body |= {"UUID": self._bmc.console.uuid, "Vendor": self._bmc.console.manufacturer}


# What the emulator links to and cannot answer without a hypervisor.
_ABSENT = ("Storage", "SimpleStorage", "Memory", "SecureBoot", "VirtualMedia", "Processors", "BIOS")
_ALLOWED = {
    "Enabled": ["Disabled", "Once", "Continuous"],
    "Mode": ["UEFI", "Legacy"],
}


def _told(fault: NotWorking | HTTPException) -> flask.Response:
    """A refusal in Redfish's words."""
    code = fault.code or 500
    text = str(fault) if isinstance(fault, NotWorking) else fault.description or fault.name
    said = {"MessageId": "Base.1.0.GeneralError", "Message": text, "Severity": "Critical"}
    body = {"error": {"code": "Base.1.0.GeneralError", "message": text, "@Message.ExtendedInfo": [said]}}
    response = flask.jsonify(body)
    response.status_code = code
    if code == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _lost() -> flask.Response:
    """Drop the connection: the answer cannot be written any more."""
    flask.request.environ["rackproof.hang_up"]()
    return flask.Response(status=204)

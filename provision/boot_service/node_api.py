"""The application that nodes talk to: everything they may ask, from the boot script to the report.

nginx passes these paths on from the management network and says in X-Real-IP who asks. Everyone there can
reach them, so a path gives nothing away without a token, except the boot script, which has no secret
but the way to one install; one that has a token in it is given to the holder of the node's lease alone.
"""

from __future__ import annotations

from provision.boot_service.boot_scripts import BootScripts
from provision.boot_service.classic_api import ClassicApi
from provision.boot_service.identity import Identity
from provision.boot_service.installer_api import InstallerApi
from provision.boot_service.node_http import NodeApp
from provision.boot_service.refusals import Refusals
from provision.boot_service.service import Service
from provision.boot_service.ubuntu_api import UbuntuApi


class NodeApi:
    """The paths of the nodes socket."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def app(self) -> NodeApp:
        """The application: these paths, and a recorded refusal for everything else."""
        service, identity = self._service, Identity(self._service)
        scripts = BootScripts(service, identity)
        installers = InstallerApi(service, identity)
        ubuntu = UbuntuApi(service, identity, installers)
        classic = ClassicApi(service, identity, scripts, installers)
        routes = [route for api in (installers, scripts, ubuntu, classic) for route in api.routes()]
        return NodeApp(routes, Refusals(service).answer)

"""The scripts by which iPXE and GRUB boot a node, and the event that says which one it was given."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from provision.boot_service.identity import Identity
from provision.boot_service.messages import RackNode
from provision.boot_service.node_http import Route, secret_text
from provision.boot_service.refusals import Refusal, who_asks, without_tokens
from provision.boot_service.service import Service
from provision.boot_service.store import Permit
from provision.ledger import Event


class BootScripts:
    """The paths of the boot scripts."""

    def __init__(self, service: Service, identity: Identity) -> None:
        self._service, self._identity = service, identity

    def routes(self) -> list[Route]:
        """GRUB asks for the last form when it was told a prefix and not a file.

        On firmware that boots by HTTP it asks how large its file is (HEAD) before it asks for it.
        """
        return [
            Route("GET", "/boot/{mac}", self.ipxe),
            Route("GET", "/grub/{mac}", self.grub),
            Route("HEAD", "/grub/{mac}", self.grub),
            Route("GET", "/grub/{mac}/grub.cfg", self.grub),
        ]

    async def ipxe(self, request: Request, mac: str) -> Response:
        """The node's iPXE script: the installer's while its permit is live, else the standing one."""
        return await self.script(request, mac.removesuffix(".ipxe"), grub=False)

    async def grub(self, request: Request, mac: str) -> Response:
        """The same for a node that GRUB boots."""
        return await self.script(request, mac, grub=True)

    async def script(self, request: Request, mac: str, *, grub: bool) -> Response:
        """The node's script in either language, to whoever names one of its MACs.

        A private script goes to the holder of the node's lease alone.
        """
        service, now = self._service, self._service.clock()
        node = service.store.rack.by_mac(mac)
        if node is None:
            shown = without_tokens(mac, 40)
            raise Refusal(404, f"{shown} is the MAC of no node of the rack", mac=shown)
        permit = await service.current_permit(node.name)
        live = permit if permit is not None and permit.state(now) == "live" else None
        if live is not None and live.private_boot:
            await self._must_be_private(request, live)
        script = (live.grub_script if grub else live.boot_script) if live is not None else None
        script = script or (node.grub_script if grub else node.boot_script)
        if script is None:
            raise Refusal(404, f"{node.name} has no script for GRUB", node=node.name)
        if request.method == "HEAD":
            return secret_text(script)
        text = boot_text(live, grub=grub)
        event = boot_event(service, node, permit, text, mac=mac, who=who_asks(request))
        await service.keep(service.handouts, f"boot {node.name} {text}", event)
        return secret_text(script)

    async def _must_be_private(self, request: Request, permit: Permit) -> None:
        try:
            await self._identity.must_hold_lease(request, permit)
        except Refusal as refusal:
            refusal.stranger = True
            raise


def boot_text(live: Permit | None, *, grub: bool) -> str:
    """What a node boots by the script it is given; `live` is its permit, if that is live."""
    if live is None or not (live.grub_script if grub else live.boot_script):
        return "local disk"
    return "rescue" if live.purpose == "rescue" else "installer"


def boot_event(
    service: Service, node: RackNode, permit: Permit | None, text: str, *, mac: str, who: str
) -> Event:
    """The event of a boot script that was handed out, by the service or by nginx."""
    now = service.clock()
    run = permit.open_run(now) if permit else None
    about = {"mac": without_tokens(mac, 40), "who": who}
    return service.store.event(now, "boot-script", text, node=node.name, run=run, **about)

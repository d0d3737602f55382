"""The paths of the classic PHP lab, for its ISOs and scripts, under the rules of all other paths.

There an answer, a registration and a status needed no proof at all, and a GET could do anything. Here a
request needs a token as its bearer; or the rack is a classic one, and then the DHCP lease (for an answer) or
the node's own address (for a report) is the proof. Nothing changes by GET.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from provision.boot_service.boot_scripts import BootScripts
from provision.boot_service.identity import Identity, bearer
from provision.boot_service.installer_api import MOST_REPORT, InstallerApi, read
from provision.boot_service.node_http import Route, body_of
from provision.boot_service.refusals import Refusal, who_asks, without_tokens
from provision.boot_service.reports import classic_report
from provision.boot_service.service import Service
from provision.boot_service.store import Permit


class ClassicApi:
    """The classic paths."""

    def __init__(
        self, service: Service, identity: Identity, scripts: BootScripts, installers: InstallerApi
    ) -> None:
        self._service, self._identity = service, identity
        self._scripts, self._installers = scripts, installers

    def routes(self) -> list[Route]:
        """The boot script at `/` and at the file that the classic server had there, and the three of /api."""
        return [
            Route("GET", "/", self.script),
            Route("GET", "/index.php", self.script),
            Route("POST", "/api/answer.php", self.answer),
            Route("POST", "/api/register-node.php", self.register),
            Route("POST", "/api/node-status.php", self.status),
        ]

    async def script(self, request: Request) -> Response:
        """`?mac=MAC` is the iPXE script, with `format=grub` GRUB's."""
        query = _query(request)
        if "action" in query:
            raise Refusal(403, "nothing is done by GET")
        if not self._service.store.rack.classic:
            raise Refusal(404, "there is no such path here")
        form = query.get("format", ["ipxe"])[-1]
        if "mac" not in query or form not in ("ipxe", "grub"):
            raise Refusal(400, f"no boot script by this query: {without_tokens(form, 20)}")
        return await self._scripts.script(request, query["mac"][-1], grub=form == "grub")

    async def answer(self, request: Request) -> Response:
        """The answer, as for a prepared ISO; in a classic rack the lease stands for the bearer token."""
        if not self._identity.bears_iso_token(request):
            self._must_be_classic()
            if self._service.leases is None:
                raise Refusal(403, "the DHCP leases are not known, and nothing else says who this is")
        return await self._installers.answer_without_token(request)

    async def register(self, request: Request) -> Response:
        """A node says that it is complete."""
        return await self._report(request, registers=True)

    async def status(self, request: Request) -> Response:
        """A node says how it is doing."""
        return await self._report(request, registers=False)

    async def _report(self, request: Request, *, registers: bool) -> Response:
        permit = await self._reporter(request)
        self._installers.bound(permit)
        said = await body_of(request, MOST_REPORT)
        token = bearer(request) or ""
        phase, text, facts = read(lambda body: classic_report(body, token, registers=registers), said, permit)
        named = self._service.store.rack.by_name(str(facts["hostname"]).partition(".")[0])
        if named is not None and named.name != permit.node:
            raise Refusal(403, f"{permit.node} calls itself {named.name}", permit)
        await self._installers.keep_report(request, permit, phase, text, facts)
        return JSONResponse({"success": True, "message": f"Node {permit.node}: {phase}"})

    async def _reporter(self, request: Request) -> Permit:
        token = bearer(request)
        if token is not None:
            return await self._identity.reporter(request, token)
        self._must_be_classic()
        who = who_asks(request)
        node = self._service.store.rack.by_address(who)
        permit = await self._service.current_permit(node.name) if node else None
        if permit is None:
            raise Refusal(403, f"{who} is the address of no node that is being installed")
        self._identity.must_be_reporting(request, permit)
        return permit

    def _must_be_classic(self) -> None:
        if not self._service.store.rack.classic:
            raise Refusal(401, "no bearer token, and the rack is not a classic one", told="")


def _query(request: Request) -> dict[str, list[str]]:
    text = request.scope["query_string"].decode("latin-1")
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=16)
    except ValueError as error:
        raise Refusal(400, "the query has more than 16 fields") from error

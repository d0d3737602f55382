"""What Ubuntu's installer asks and says: the seed of cloud-init's NoCloud, and the webhook of its reports.

With `ds=nocloud;s=URL/` on the kernel's command line cloud-init appends the file names to the URL
(util.read_seeded) and asks by GET, in this order: network-config (from 24.3 on), meta-data, user-data,
vendor-data. What is answered with an error it asks for eleven times, a second apart; then meta-data and
user-data end the boot in an error, the others do not. So network-config is an empty file, not a 404.

`autoinstall: reporting: {hook: {type: webhook, endpoint: URL}}` posts each event of the installer once, as
JSON, and goes on whatever the answer is (curtin, reporter/handlers.py, WebHookHandler).
"""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from provision.boot_service.identity import Identity
from provision.boot_service.installer_api import MOST_BODY, InstallerApi, read
from provision.boot_service.node_http import Route, body_of, secret_text
from provision.boot_service.refusals import who_asks
from provision.boot_service.reports import subiquity_event
from provision.boot_service.service import Service
from provision.boot_service.store import Permit


class UbuntuApi:
    """The paths of Ubuntu's installer."""

    def __init__(self, service: Service, identity: Identity, installers: InstallerApi) -> None:
        self._service, self._identity, self._installers = service, identity, installers

    def routes(self) -> list[Route]:
        """The four files of the seed, and the webhook."""
        return [
            Route("GET", "/seed/{token}/user-data", self.user_data),
            Route("GET", "/seed/{token}/meta-data", self.meta_data),
            Route("GET", "/seed/{token}/vendor-data", self.vendor_data),
            Route("GET", "/seed/{token}/network-config", self.network_config),
            Route("POST", "/seed/{token}/reporting", self.reporting),
        ]

    async def user_data(self, request: Request, token: str) -> Response:
        """The answer of a live permit, once. NoCloud knows GET alone: the one GET that changes something."""
        permit = await self._identity.asker(request, token, "ubuntu")
        now = self._service.clock()
        answer = await self._service.spend(permit, now, as_json=False, who=who_asks(request))
        if answer is None:
            raise await self._identity.lost_race(permit)
        return secret_text(answer)

    async def meta_data(self, request: Request, token: str) -> Response:
        """Who the machine is: an instance of its own for each install. JSON is YAML that needs no quoting."""
        permit = await self._seed(request, token, "meta-data")
        instance = {"instance-id": f"rackproof-{permit.lab}-{permit.id}", "local-hostname": permit.node}
        return secret_text(json.dumps(instance) + "\n")

    async def vendor_data(self, request: Request, token: str) -> Response:
        """Nothing; without it cloud-init would ask again and again."""
        await self._seed(request, token, "vendor-data")
        return secret_text("")

    async def network_config(self, request: Request, token: str) -> Response:
        """Nothing: the network of the installed system stands in the user-data."""
        await self._seed(request, token, "network-config")
        return secret_text("")

    async def _seed(self, request: Request, token: str, name: str) -> Permit:
        permit = await self._identity.seed_reader(request, token)
        event = permit.event(
            self._service.clock(), "seed", f"{name} handed out", file=name, who=who_asks(request)
        )
        await self._service.keep(self._service.handouts, f"seed {permit.id}", event)
        return permit

    async def reporting(self, request: Request, token: str) -> Response:
        """An event of the installer: the end of the install and a failure are kept, the rest is news."""
        service, permit = self._service, await self._identity.reporter(request, token)
        said = await body_of(request, MOST_BODY)
        kind, text, facts = read(lambda body: subiquity_event(body, token), said, permit)
        event = permit.event(service.clock(), kind, text, **facts | {"who": who_asks(request)})
        if kind == "installer":
            await service.keep(service.handouts, f"installer {permit.id}", event)
        else:
            self._installers.bound(permit)
            await service.append(event)
        return PlainTextResponse("recorded\n")

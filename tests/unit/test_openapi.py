"""Whatever fits, or nearly fits, the published OpenAPI documents: no fault, and only answers that they tell of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from provision.boot_service.operator_api import OperatorApi
from provision.boot_service.people_api import PeopleApi
from provision.boot_service.routes import API, Role
from provision.boot_service.service import Service
from tests import dashboard_material as material
from tests.dashboard_material import TOKENS, PlayedActions

NOW = 1_795_000_000.0
EXAMPLES = 15
SOCKETS = {"operator": list(API), "people": [route for route in API if route.role <= Role.OPERATOR]}


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FastAPI]]:
    with material.cheap_hashes():
        # Each has a rack of its own: the harness may replace the accounts, and with them who asks the other.
        racks = {socket: material.busy_rack(tmp_path_factory.mktemp(socket), NOW) for socket in SOCKETS}
        services = {socket: Service(rack.store, clock=lambda: NOW) for socket, rack in racks.items()}
        apis: dict[str, Any] = {"operator": OperatorApi, "people": PeopleApi}
        yield {
            socket: apis[socket](each, PlayedActions(each, {"node1": "on"})).app()
            for socket, each in services.items()
        }
        for rack in racks.values():
            rack.store.close()


@pytest.mark.parametrize(
    ("socket", "method", "path"),
    # The stream goes on for ever; what is put into it is tested by itself.
    [(socket, route.method, route.path) for socket, routes in SOCKETS.items() for route in routes if route.name != "events"],
)  # fmt: skip
def test_no_request_is_a_fault(apps: dict[str, FastAPI], socket: str, method: str, path: str) -> None:
    operation = schemathesis.openapi.from_asgi("/api/v1/openapi.json", apps[socket])[path][method]
    headers = {"Authorization": f"Bearer {TOKENS['otto']}"}

    @given(case=operation.as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def ask(case: Any) -> None:
        # Of the names that are made up none is a node's, so half of them are replaced.
        if len((case.path_parameters or {}).get("node", "x")) % 2 == 0:
            case.path_parameters["node"] = "node1"
        answer = case.call(headers=headers)
        case.validate_response(
            answer,
            checks=[not_a_server_error, status_code_conformance, response_schema_conformance],
            excluded_checks=None,
        )

    logging.getLogger("httpx").setLevel(logging.WARNING)
    ask()


def test_the_document_is_the_same_that_the_routes_say(apps: dict[str, FastAPI]) -> None:
    for socket, routes in SOCKETS.items():
        document = apps[socket].openapi()
        roles = {
            (method.upper(), path): each["x-role"]
            for path, item in document["paths"].items()
            for method, each in item.items()
        }
        assert roles == {(route.method, route.path): route.role.name.lower() for route in routes}

"""A BMC inside this process: the strict service of redfish_bmc without sockets and TLS, for many quick cases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from requests.structures import CaseInsensitiveDict

from provision.redfish import connection
from provision.redfish.trust import Trust
from tests.unit.redfish_bmc import Bmc, Cut, Dropped


@contextmanager
def inside(bmcs: Mapping[str, Bmc]) -> Iterator[None]:
    """Every connection to one of these addresses is answered by its BMC, without leaving the process."""

    class Adapter(Trust):
        def send(self, request: requests.PreparedRequest, *_how: Any, **_more: Any) -> requests.Response:
            return _answer(bmcs[str(urlsplit(request.url).hostname)], request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "Trust", Adapter)
        yield


def _answer(bmc: Bmc, request: requests.PreparedRequest) -> requests.Response:
    sent = json.loads(request.body) if request.body else None
    try:
        status, headers, body = bmc.handle(
            str(request.method), request.path_url, {**request.headers}, sent
        )  # fmt: skip
    except (Cut, Dropped) as error:
        raise requests.ConnectionError("the connection ended") from error
    answer = requests.Response()
    text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
    answer.status_code, answer._content = status, text.encode()
    answer.headers, answer.url, answer.request = CaseInsensitiveDict(headers), str(request.url), request
    return answer

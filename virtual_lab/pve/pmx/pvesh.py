"""The command pvesh: the API from the node's own shell, as root@pam."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from . import api, router
from .apiclient import Client
from .auth import caller
from .cluster import certificate_of, fingerprint_of, node_address, node_name
from .errors import Failure
from .router import Answer

_METHODS = {"get": "GET", "create": "POST", "set": "PUT", "delete": "DELETE", "ls": "GET"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one call and print its result."""
    parser = argparse.ArgumentParser(prog="pvesh")
    parser.add_argument("method", choices=sorted(_METHODS))
    parser.add_argument("path")
    parser.add_argument("--output-format", choices=("text", "json", "json-pretty", "yaml"), default="text")
    options, rest = parser.parse_known_args(arguments)
    try:
        data = _call(_METHODS[options.method], "/" + options.path.strip("/"), _params(rest))
    except Failure as failed:
        print(_complaint(failed), file=sys.stderr)
        return 255 if not failed.errors else 2
    if data is not None:
        print(data if isinstance(data, str) and options.output_format == "text"
              else json.dumps(data, indent=None if options.output_format == "json" else 3))  # fmt: skip
    return 0


def _params(words: Sequence[str]) -> dict[str, str]:
    names, values = words[::2], words[1::2]
    if len(names) != len(values) or not all(name.startswith("-") for name in names):
        raise SystemExit("400 unable to parse arguments")
    return {name.lstrip("-"): value for name, value in zip(names, values, strict=True)}


def _call(method: str, path: str, params: dict[str, str]) -> Any:
    endpoint, in_path = router.find(method, path)
    node = in_path.get("node", "")
    if endpoint.of_a_node and node not in (node_name(), "localhost"):
        client = Client(node_address(node), fingerprint_of(certificate_of(node)))
        client.login(api.access.TICKETS.make("root@pam"))
        return client.call(method, path, params or None)
    found = endpoint.run(caller("root@pam"), {**params, **in_path})
    return found.data if isinstance(found, Answer) else found


def _complaint(failed: Failure) -> str:
    if failed.code == 501:
        return f"No '{failed.message.split(' ')[1].strip(chr(39)).lower()}' handler defined for this path"
    rows = [f"{name}: {text}" for name, text in failed.errors.items()]
    return "\n".join([f"{failed.code} {failed.message}" if rows else failed.message, *rows])

"""Reads a lab file, or a classic nodes.json, into a Lab; finds all of its mistakes at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from provision.errors import InventoryError, Mistake
from provision.inventory import classic, document, images, rules
from provision.inventory.document import Document, Place
from provision.inventory.models import SELECTORS, Lab, Node
from provision.inventory.words import MANAGEMENT, Domain, did_you_mean

DEFAULT_LAB = Path(__file__).parents[2] / "labs" / "virtual.yaml"

DOMAIN: TypeAdapter[str] = TypeAdapter(Domain)

WORDED = {
    "missing": "is missing",
    "model_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}


def default_lab_file(env: Mapping[str, str] = os.environ) -> Path:
    """The lab file when none is named: NODE_CONFIG_FILE of the environment, else labs/virtual.yaml."""
    return Path(env["NODE_CONFIG_FILE"]) if env.get("NODE_CONFIG_FILE") else DEFAULT_LAB


def load(path: Path, env: Mapping[str, str] = os.environ) -> Lab:
    """The lab in this file, YAML or classic nodes.json; raises InventoryError with all its mistakes.

    Of `env` the classic format takes CLUSTER_NAME. Paths in the file start at its own folder.
    """
    found = document.read(Path(path))
    if classic.is_classic(found.data):
        found = classic.translate(found, env)
    return build(found, Path(path).absolute().parent)


def build(found: Document, base: Path) -> Lab:
    """The lab in this document; raises InventoryError with all its mistakes."""
    given, mistakes = _expand(found)
    mistakes = [*found.mistakes, *mistakes, *rules.mistakes(given, found)]
    try:
        lab = Lab.model_validate(given, context={"base": base})
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        mistakes += [_worded(found, given, detail) for detail in details if not _is_told(detail)]
    if mistakes:
        raise InventoryError(sorted(dict.fromkeys(mistakes), key=lambda mistake: mistake.line or 0))
    return lab


# From the lab file's short forms to what the models take


def _expand(found: Document) -> tuple[dict[str, Any], list[Mistake]]:
    given = dict(found.data)
    mistakes = [
        found.mistake((part, name, "name"), "is an unknown key: the name is the key above it")
        for part in ("networks", "nodes")
        for name, body in _mappings(given.get(part))
        if "name" in body
    ]
    defaults = given.pop("defaults", None)
    if not isinstance(defaults, dict):
        if defaults is not None:
            mistakes.append(found.mistake(("defaults",), "must be a mapping of keys"))
        defaults = {}
    given["networks"] = _each(given.get("networks"), _expand_network)
    given["server"] = _expand_server(given.get("server"), given["networks"])
    given["nodes"] = _each(given.get("nodes"), lambda name, body: _expand_node(name, body, given, defaults))
    given = images.with_media(given)
    return {key: value for key, value in given.items() if value is not None}, mistakes


def _mappings(part: object) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        yield from ((name, body) for name, body in part.items() if isinstance(body, dict))


def _each(part: object, expand: Callable[[str, dict[str, Any]], dict[str, Any]]) -> object:
    if not isinstance(part, dict):
        return part
    return {name: expand(name, body) if isinstance(body, dict) else body for name, body in part.items()}


def _expand_network(name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "name": name}


def _expand_server(server: object, networks: object) -> object:
    """The server's address is the gateway of the management network, unless it is given."""
    if server is not None and not isinstance(server, dict):
        return server
    expanded = dict(server or {})
    if isinstance(expanded.get("ssh"), str) and "host" not in expanded:
        expanded["host"] = f"ssh:{expanded.pop('ssh')}"
    management = networks.get(MANAGEMENT) if isinstance(networks, dict) else None
    if isinstance(management, dict) and isinstance(management.get("gateway"), str):
        expanded.setdefault("address", management["gateway"])
    return expanded


def _expand_node(
    name: str, body: dict[str, Any], lab: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    node = merged(defaults, body)
    networks = lab["networks"] if isinstance(lab["networks"], dict) else {}
    if "addresses" not in node:
        # Without networks there is one mistake to tell; the nodes' addresses are none of it.
        short = [key for key in node if key in networks or (not networks and key not in Node.model_fields)]
        node["addresses"] = {key: node.pop(key) for key in short}
    if isinstance(node.get("nics", {}), dict) and isinstance(node["addresses"], dict):
        known = {key: nic for key in node["addresses"] if (nic := _network_nic(key, networks.get(key)))}
        node["nics"] = {**known, **node.get("nics", {})}
    if isinstance(node.get("bmc"), dict):
        node["bmc"] = {"name": f"console-{name}", **node["bmc"]}
    node.setdefault("disk", {})
    return {"domain": _usable_domain(lab.get("domain")), **node, "name": name}


def _usable_domain(domain: object) -> str:
    """The lab's domain; a wrong one is reported once, at the lab, and not at every node again."""
    try:
        return DOMAIN.validate_python(domain)
    except ValidationError:
        return "invalid"


def _network_nic(name: str, network: object) -> object:
    given = network.get("nic") if isinstance(network, dict) else None
    return given or ("eno1" if name == MANAGEMENT else None)


def merged(defaults: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The node's own keys over the defaults, mapping by mapping.

    A node's own way to find its disk replaces that of the defaults.
    """
    return {**defaults, **{key: _over(key, defaults.get(key), value) for key, value in body.items()}}


def _over(key: str, default: object, value: object) -> object:
    if not isinstance(value, dict) or not isinstance(default, dict):
        return value
    if key == "disk" and any(selector in value for selector in SELECTORS):
        default = {name: given for name, given in default.items() if name not in SELECTORS}
    return merged(default, value)


# From pydantic's errors to what a user reads


def _worded(found: Document, given: dict[str, Any], detail: ErrorDetails) -> Mistake:
    path = tuple(str(part) for part in detail["loc"])
    if path[-1:] == ("[key]",) and path not in found.lines:
        path = path[:-1]
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden":
        message = f"is an unknown key{did_you_mean(path[-1], _known(path, given))}"
    elif kind == "value_error":
        message = message.removeprefix("Value error, ")
    elif kind == "literal_error":
        message = f"{_shown(detail['input'])} must be {message.removeprefix('Input should be ')}"
    elif kind in WORDED:
        message = WORDED[kind]
    elif not isinstance(detail["input"], BaseModel | dict | list):
        message = f"{_shown(detail['input'])}: {message[:1].lower()}{message[1:]}"
    return found.mistake(path, message)


def _is_told(detail: ErrorDetails) -> bool:
    """A server lacks an address only where the management network lacks a gateway: that is told already."""
    return detail["loc"] == ("server", "address") and detail["type"] == "missing"


def _shown(value: object) -> str:
    """The value as it may be repeated: a word, and not a whole part of the file."""
    return "this" if isinstance(value, dict | list) else "nothing" if value is None else f'"{value}"'


def _known(path: Place, given: dict[str, Any]) -> list[str]:
    """The keys that may stand where this unknown one does."""
    model: object = Lab
    for part in path[:-1]:
        model = _inside(model, part)
    known = [info.alias or name for name, info in model.model_fields.items()] if _is_model(model) else []
    known += ["defaults"] if model is Lab else []
    networks = given.get("networks")
    return [*known, *networks] if model is Node and isinstance(networks, dict) else known


def _inside(kind: object, part: str) -> object:
    """What stands at one key of a model, or at any key of a dict or a tuple of models."""
    if _is_model(kind):
        return kind.model_fields[part].annotation if part in kind.model_fields else None
    models = [inner for inner in get_args(kind) if _is_model(inner)]
    if get_origin(kind) in (Union, UnionType) and models:
        return _inside(models[0], part)
    return models[0] if models else None


def _is_model(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)

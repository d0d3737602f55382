"""The calls that the API has: their paths, rights and parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .auth import Caller
from .errors import Failure
from .schema import NODE, ParameterError, Rule, verify

PUBLIC, USER, AUDIT, ROOT = "public", "user", "audit", "root"


@dataclass(frozen=True, slots=True)
class Call:
    """One call: who makes it and its checked parameters, those of the path among them."""

    caller: Caller
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with keys beside `data`."""

    data: Any
    beside: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path; `protected` ones are carried out by pvedaemon."""

    method: str
    path: str
    right: str
    protected: bool
    rules: Mapping[str, Rule]
    action: Callable[[Call], Any]
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        # A volume's name may have slashes.
        pattern = self.path.replace("{volume}", "(?P<volume>.+)")
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
        object.__setattr__(self, "pattern", re.compile(f"^{pattern}/?$"))

    @property
    def of_a_node(self) -> bool:
        """Whether the node in the path carries it out."""
        return self.path.startswith("/nodes/{node}")

    def check_right(self, caller: Caller) -> None:
        """Failure 403 when the caller may not."""
        if self.right == ROOT and not caller.is_root:
            raise Failure("Permission check failed (user != root@pam)", code=403)
        if self.right == AUDIT and not caller.all_rights:
            where = "/nodes/{node}" if self.of_a_node else "/"
            raise Failure(f"Permission check failed ({where}, Sys.Audit)", code=403)

    def run(self, caller: Caller, given: Mapping[str, str]) -> Any:
        """Check the parameters and do it; Failure 400 naming the wrong ones."""
        try:
            params = verify(given, self.rules)
        except ParameterError as wrong:
            raise Failure("Parameter verification failed.", code=400, errors=wrong.errors) from None
        return self.action(Call(caller, params))


ENDPOINTS: list[Endpoint] = []


def endpoint(
    method: str,
    path: str,
    *,
    right: str = AUDIT,
    protected: bool = False,
    params: Mapping[str, Rule] = MappingProxyType({}),
) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Offer a function as a call of the API; parameters in the path are nodes' names or plain text."""

    def offer(action: Callable[[Call], Any]) -> Callable[[Call], Any]:
        in_path = {
            name: NODE if name == "node" else {"type": "string"} for name in re.findall(r"\{(\w+)\}", path)
        }
        ENDPOINTS.append(Endpoint(method, path, right, protected, {**in_path, **params}, action))
        return action

    return offer


def find(method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
    """The call and the parameters in its path; Failure 501 when there is none."""
    for one in ENDPOINTS:
        match = one.pattern.match(path) if one.method == method else None
        if match:
            return one, match.groupdict()
    raise Failure(f"Method '{method} {path}' not implemented", code=501)

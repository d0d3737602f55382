"""The bridge on which the provisioning server has its address in the management network."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _link(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", name, re.ASCII):
        raise ValueError(f'"{name}" is no interface name: a letter first, at most 15 in all')
    return name


def _listed(given: object) -> object:
    return [given] if isinstance(given, str) else given


Link = Annotated[str, AfterValidator(_link)]


class ServerBridge(BaseModel):
    """The server's address stands on `name`; `ports` are its NICs. `mtu` None: the management network's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Link
    ports: Annotated[tuple[Link, ...], Field(min_length=1), BeforeValidator(_listed)]
    mtu: Annotated[int, Field(ge=1280, le=65520)] | None = None

    @model_validator(mode="after")
    def _are_distinct(self) -> ServerBridge:
        if len({self.name, *self.ports}) != len(self.ports) + 1:
            raise ValueError("names an interface twice: the bridge and each of its ports differ")
        return self

"""/version and /access: tickets and API tokens."""

from __future__ import annotations

import time
from typing import Any

from .. import auth, versions
from ..cluster import read_conf
from ..errors import Failure
from ..router import PUBLIC, ROOT, USER, Call, endpoint
from ..schema import Rule

TICKETS = auth.Tickets()

_TEXT = {"type": "string", "optional": True}
_FLAG = {"type": "boolean", "optional": True}


@endpoint("GET", "/version", right=USER)
def version(_call: Call) -> dict[str, str]:
    """Which Proxmox VE this is."""
    return {"release": versions.RELEASE, "repoid": versions.REPOSITORY_ID, "version": versions.MANAGER}


@endpoint("GET", "/access/ticket", right=PUBLIC)
def no_ticket(_call: Call) -> None:
    """A dummy, as Proxmox has it."""


_LOGIN: dict[str, Rule] = {
    "username": {"type": "string", "maxLength": 64},
    "password": {"type": "string"},
    **dict.fromkeys(("realm", "otp", "path", "privs", "tfa-challenge"), _TEXT),
    "new-format": _FLAG,
}


@endpoint("POST", "/access/ticket", right=PUBLIC, protected=True, params=_LOGIN)
def make_ticket(call: Call) -> dict[str, Any]:
    """Log in by password, or by a ticket that is still good."""
    user = call.params["username"]
    if "realm" in call.params and "@" not in user:
        user = f"{user}@{call.params['realm']}"
    password = call.params["password"]
    if TICKETS.user_of(password) != user and not auth.password_fits(user, password):
        raise Failure("authentication failure", code=401)
    conf = read_conf()
    name = {"clustername": conf.totem.get("cluster_name", "")} if conf else {}
    return {"username": user, "ticket": TICKETS.make(user), "cap": {},
            "CSRFPreventionToken": auth.csrf_token(user, time.time()), **name}  # fmt: skip


@endpoint("GET", "/access/users/{userid}/token", right=ROOT)
def list_tokens(call: Call) -> list[dict[str, Any]]:
    """The API tokens of a user, without their values."""
    prefix = f"{call.params['userid']}!"
    return [{"tokenid": name.removeprefix(prefix), **settings}
            for name, settings in auth.tokens().items() if name.startswith(prefix)]  # fmt: skip


_NEW_TOKEN: dict[str, Rule] = {
    "userid": {"type": "string", "format": "pve-userid", "maxLength": 64},
    "tokenid": {"type": "string", "pattern": r"[A-Za-z][A-Za-z0-9.\-_]+"},
    "comment": _TEXT,
    "privsep": {"type": "boolean", "default": True},
    "expire": {"type": "integer", "minimum": 0, "default": 0},
}


@endpoint("POST", "/access/users/{userid}/token/{tokenid}", right=ROOT, protected=True, params=_NEW_TOKEN)
def add_token(call: Call) -> dict[str, Any]:
    """Make an API token."""
    user, name, privsep = (call.params[key] for key in ("userid", "tokenid", "privsep"))
    value = auth.add_token(user, name, privsep=privsep, expire=call.params["expire"])
    return {"full-tokenid": f"{user}!{name}", "info": {"privsep": str(int(privsep))}, "value": value}


@endpoint("DELETE", "/access/users/{userid}/token/{tokenid}", right=ROOT, protected=True)
def remove_token(call: Call) -> None:
    """Take an API token away."""
    auth.remove_token(call.params["userid"], call.params["tokenid"])

"""/cluster/options and /nodes/{node}/apt/repositories."""

from __future__ import annotations

from typing import Any

from .. import apt, options
from ..router import USER, Call, endpoint
from ..schema import Rule
from ..storage import split

_TEXT: Rule = {"type": "string", "optional": True}
_KEYBOARDS = ("de", "de-ch", "da", "en-gb", "en-us", "es", "fi", "fr", "fr-be", "fr-ca", "fr-ch", "hu", "is",
              "it", "ja", "lt", "mk", "nl", "no", "pl", "pt", "pt-br", "sv", "sl", "tr")  # fmt: skip
_LANGUAGES = ("ar", "ca", "da", "de", "en", "es", "eu", "fa", "fr", "hr", "he", "it", "ja", "ka", "kr", "nb",
              "nl", "nn", "pl", "pt_BR", "ru", "sl", "sv", "tr", "ukr", "zh_CN", "zh_TW")  # fmt: skip
_LONG_TEXT: Rule = {**_TEXT, "maxLength": 65536}
_NETWORK: Rule = {"type": "string", "format": options.check_transfer, "optional": True}
_OPTIONS: dict[str, Rule] = {
    **dict.fromkeys(("bwlimit", "crs", "email_from", "ha", "location", "mac_prefix", "next-id",
                     "notify", "registered-tags", "tag-style", "u2f", "user-tag-access", "webauthn",
                     "delete"), _TEXT),
    "keyboard": {"type": "string", "enum": _KEYBOARDS, "optional": True},
    "language": {"type": "string", "enum": _LANGUAGES, "optional": True},
    **dict.fromkeys(("consent-text", "description"), _LONG_TEXT),
    "console": {"type": "string", "enum": ("applet", "vv", "html5", "xtermjs"), "optional": True},
    "fencing": {"type": "string", "enum": ("watchdog", "hardware", "both"), "optional": True},
    "http_proxy": {"type": "string", "pattern": "http://.*", "optional": True},
    "max_workers": {"type": "integer", "minimum": 1, "optional": True},
    "migration": _NETWORK,
    "migration_unsecure": {"type": "boolean", "optional": True},
    "replication": _NETWORK,
}  # fmt: skip


@endpoint("GET", "/cluster/options", right=USER)
def cluster_options(_call: Call) -> dict[str, Any]:
    """The cluster's options."""
    return options.shown()


@endpoint("PUT", "/cluster/options", protected=True, params=_OPTIONS)
def set_cluster_options(call: Call) -> None:
    """Change the cluster's options."""
    given = {key: str(int(value) if isinstance(value, bool) else value)
             for key, value in call.params.items() if key != "delete"}  # fmt: skip
    options.change(given, split(call.params.get("delete", "")))


@endpoint("GET", "/nodes/{node}/apt/repositories")
def repositories(_call: Call) -> dict[str, Any]:
    """The configured package repositories."""
    return apt.repositories()


_DIGEST: Rule = {"type": "string", "maxLength": 80, "optional": True}


@endpoint("PUT", "/nodes/{node}/apt/repositories", protected=True,
          params={"handle": {"type": "string"}, "digest": _DIGEST})  # fmt: skip
def add_repository(call: Call) -> None:
    """Configure a repository of Proxmox' own."""
    apt.add(call.params["handle"], call.params.get("digest", ""))


_STANZA: dict[str, Rule] = {
    "path": {"type": "string"},
    "index": {"type": "integer"},
    "enabled": {"type": "boolean", "optional": True},
    "digest": _DIGEST,
}


@endpoint("POST", "/nodes/{node}/apt/repositories", protected=True, params=_STANZA)
def change_repository(call: Call) -> None:
    """Switch a repository on or off."""
    if "enabled" in call.params:
        wanted = call.params
        apt.enable(wanted["path"], wanted["index"], on=wanted["enabled"], known=wanted.get("digest", ""))

"""Prints the facts of a Proxmox cluster that last, from the files that its nodes share. It only reads.

Run on one of its nodes. Nothing secret is told: of /etc/pve/priv the public keys that open root's account are
read, nothing else, and no value is told of a setting that is named like a password, a key or a token.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

PVE = Path("/etc/pve")
NOT_TOLD = re.compile(r"pass|secret|key|token|cred", re.IGNORECASE)
BORN = {"meta", "vmgenid", "digest", "lock", "parent"}
"""What a guest's configuration says of how it was made and what is going on with it."""


def main() -> None:
    """Print JSON: `facts` by subject, and `unread`: why a subject could not be read."""
    facts, unread = {}, {}
    for read in SUBJECTS:
        try:
            facts[read.__name__] = read()
        except (OSError, LookupError, ValueError, TypeError) as error:
            unread[read.__name__] = f"{type(error).__name__}: {error}"
    has_ceph = (PVE / "ceph.conf").exists()
    json.dump({"facts": facts, "unread": unread, "ceph": has_ceph}, sys.stdout)


# Subjects


def cluster() -> dict[str, Any]:
    """Name, nodes with ids, votes and addresses, links, quorum; and the options of the datacenter."""
    sections = corosync(text("corosync.conf"))
    totem = sections.get("totem", {})
    plain = {name: value for name, value in totem.items() if isinstance(value, str)}
    return {
        "config version": plain.pop("config_version", None),
        "totem": plain,
        "links": sorted(row["linknumber"] for row in totem.get("interface", []) if "linknumber" in row),
        "nodes": {row["name"]: {key: value for key, value in row.items() if key != "name"}
                  for row in sections.get("nodelist", {}).get("node", [])},
        "quorum": sections.get("quorum", {}),
        "datacenter": dict(re.findall(r"^(\w+):\s*(.*)$", plain_urls(text("datacenter.cfg")), re.MULTILINE)),
        "jobs": {path: stanzas(text(path)) for path in ("jobs.cfg", "replication.cfg", "ha/resources.cfg",
                                                        "ha/groups.cfg", "ha/rules.cfg", "sdn/zones.cfg",
                                                        "sdn/vnets.cfg", "mapping/pci.cfg")},
    }  # fmt: skip


def keys() -> dict[str, Any]:
    """Public keys as they are written: those that open root's account on every node, and certificates."""
    paths = ["pve-root-ca.pem", *matching("nodes/*/pve*-ssl.pem")]
    return {
        "host": [],
        "authorised": {"root": text("priv/authorized_keys").splitlines()},
        "certificates": {path: text(path) for path in paths},
    }


def access() -> dict[str, Any]:
    """Users, groups, tokens by name, roles, pools, rights (user.cfg), and realms."""
    found: dict[str, Any] = {}
    for row in text("user.cfg").splitlines():
        sort, _, rest = row.partition(":")
        words = rest.split(":")
        if sort == "acl":
            found[f"acl {' '.join(words[1:4])}"] = f"propagate {words[0]}"
        elif sort == "user":
            # name, enabled, expires, names, mail, comment; what follows are keys
            found[f"user {words[0]}"] = ", ".join(filter(None, words[1:7]))
        elif sort:
            found[f"{sort} {words[0]}"] = ", ".join(filter(None, words[1:]))
    realms = {f"realm {name}": options for name, options in stanzas(text("domains.cfg")).items()}
    return found | realms


def storages() -> dict[str, Any]:
    """Storages by kind and name, with their settings; what they hold is a set."""
    found: dict[str, Any] = dict(stanzas(text("storage.cfg")))
    for options in found.values():
        for name in ("content", "nodes"):
            if name in options:
                options[name] = sorted(options[name].split(","))
    return found


def firewall() -> dict[str, Any]:
    """Firewall files by section, each as its lines in their order."""
    found: dict[str, list[str]] = {}
    for name in matching("firewall/*.fw", "nodes/*/host.fw"):
        section = "head"
        for row in map(str.strip, text(name).splitlines()):
            if row.startswith("["):
                section = row.strip("[]")
            elif row and not row.startswith("#"):
                found.setdefault(f"{name} {section}", []).append(row)
    return found


def templates() -> dict[str, Any]:
    """Configuration of every guest that is a template, by its number."""
    found = {}
    for path in matching("nodes/*/qemu-server/*.conf", "nodes/*/lxc/*.conf"):
        # After the first section's head come snapshots.
        content = text(path).partition("\n[")[0]
        config = dict(re.findall(r"^([\w-]+):\s*(.*)$", content, re.MULTILINE))
        if config.get("template") == "1":
            _, node, _, number = path.removesuffix(".conf").split("/")
            found[number] = {"node": node, "notes": notes(content), **settings(config)}
    return found


SUBJECTS = (cluster, keys, access, storages, firewall, templates)


# Parts


def corosync(content: str) -> dict[str, dict[str, Any]]:
    """Sections of corosync.conf(5); a section within one is a list of its settings."""
    found: dict[str, dict[str, Any]] = {}
    outer: dict[str, Any] | None = None
    inner: dict[str, str] | None = None
    for row in map(str.strip, content.splitlines()):
        if row.endswith("{"):
            name = row[:-1].strip()
            if outer is None:
                outer = found.setdefault(name, {})
            else:
                inner = {}
                outer.setdefault(name, []).append(inner)
        elif row == "}":
            outer, inner = (None, None) if inner is None else (outer, None)
        elif ":" in row and not row.startswith("#"):
            key, _, value = row.partition(":")
            place = inner if inner is not None else outer
            if place is not None:
                place[key.strip()] = value.strip()
    return found


def stanzas(content: str) -> dict[str, dict[str, str]]:
    """Sections of Proxmox's own form ("kind: name", then indented settings)."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for row in content.splitlines():
        if not row.strip() or row.startswith("#"):
            continue
        if not row[0].isspace():
            kind, _, name = row.partition(":")
            current = found.setdefault(f"{kind} {name.strip()}", {})
        else:
            key, _, value = row.strip().partition(" ")
            current[key] = "(not told)" if NOT_TOLD.search(key) else value.strip()
    return found


def plain_urls(content: str) -> str:
    """Without the log-in that a URL may have, as that of a proxy."""
    return re.sub(r"://[^/@\s]*@", "://", content)


def settings(config: dict[str, str]) -> dict[str, Any]:
    """A guest's settings that last, public keys as they are written."""
    told: dict[str, Any] = {}
    for key, value in config.items():
        if key == "sshkeys":
            told[key] = unquote(value).splitlines()
        elif key not in BORN:
            told[key] = "(not told)" if NOT_TOLD.search(key) else value
    return told


def notes(content: str) -> str:
    """The lines before a guest's settings."""
    return " / ".join(unquote(row[1:]) for row in content.splitlines() if row.startswith("#"))


def matching(*patterns: str) -> list[str]:
    """Shared files that fit shell patterns, without the folder that they are all in."""
    return [str(path.relative_to(PVE)) for pattern in patterns for path in sorted(PVE.glob(pattern))]


def text(path: str) -> str:
    """A shared file's text, nothing where there is none."""
    try:
        return (PVE / path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


main()

"""An answer that Proxmox's installer takes, and others made of it by a change at a place."""

from __future__ import annotations

import copy
from typing import Any

Table = dict[str, Any]

GOOD: Table = {
    "global": {
        "country": "at", "keyboard": "en-us", "timezone": "UTC", "fqdn": "node1.lab.local",
        "mailto": "ops@example.net", "root-password-hashed": "$6$x$y",
        "root-ssh-keys": ["ssh-ed25519 AAAA x"],
    },
    "network": {
        "source": "from-answer", "cidr": "10.10.1.21/24", "gateway": "10.10.1.1", "dns": "10.10.1.1",
        "filter": {"ID_NET_NAME_MAC": "*ac1f6b6c5a76"},
    },
    "disk-setup": {"filesystem": "ext4", "filter": {"ID_SERIAL_SHORT": "S3Z8*"}},
    "post-installation-webhook": {"url": "http://10.10.1.1/installed/x"},
    "first-boot": {"source": "from-url", "url": "http://10.10.1.1/first-boot/x"},
}  # fmt: skip

GONE = object()
"""In place of a value: the key is taken away."""


def answer(changes: dict[str, Any]) -> Table:
    """The good answer with changes, by dotted place."""
    table = copy.deepcopy(GOOD)
    for place, value in changes.items():
        *path, key = place.split("/")
        inner = table
        for step in path:
            inner = inner.setdefault(step, {})
        if value is GONE:
            inner.pop(key, None)
        else:
            inner[key] = value
    return table

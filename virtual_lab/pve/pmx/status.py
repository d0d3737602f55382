"""The status files of /etc/pve: .members, .version, .vmlist and the like."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from .corosync import Conf
from .memdb import MemDb


class Status:
    """What this member knows of the cluster around it."""

    def __init__(self, node: str, *, clock: Callable[[], float] = time.time) -> None:
        self.node = node
        self.conf: Conf | None = None
        self.quorate = False
        self.online: set[int] = set()
        self.addresses: dict[str, str] = {}
        self.changes = 0
        self._started = int(clock())

    def changed(self) -> None:
        """Count a change of membership, quorum or addresses."""
        self.changes += 1

    def members(self) -> str:
        """The content of .members."""
        head = [f'"nodename": "{self.node}"', f'"version": {self.changes}']
        if self.conf is None or not self.conf.nodes:
            return "{\n" + ",\n".join(head) + "\n}\n"
        cluster = (f'"cluster": {{ "name": {json.dumps(self.conf.totem.get("cluster_name", ""))}, '
                   f'"version": {self.conf.version}, "nodes": {len(self.conf.nodes)}, '
                   f'"quorate": {int(self.quorate)} }}')  # fmt: skip
        rows = ",\n".join(self._row(name, int(entry["nodeid"])) for name, entry in self.conf.nodes.items())
        return "{\n" + ",\n".join([*head, cluster]) + ',\n"nodelist": {\n' + rows + "\n  }\n}\n"

    def _row(self, name: str, node_id: int) -> str:
        address = f', "ip": "{self.addresses[name]}"' if name in self.addresses else ""
        return f'  "{name}": {{ "id": {node_id}, "online": {int(node_id in self.online)}{address}}}'

    def version(self, tree: MemDb) -> str:
        """The content of .version: change counters by what they count."""
        guests = max((version for *_, version in tree.guests()), default=1)
        counters = {"starttime": self._started, "clinfo": self.changes, "vmlist": guests}
        for name in _WATCHED:
            entry = tree.find(name)
            counters[name] = entry.version if entry else 0
        return json.dumps({**counters, "kvstore": {}}, indent=0) + "\n"

    def vmlist(self, tree: MemDb) -> str:
        """The content of .vmlist."""
        found = list(tree.guests())
        ids = {str(vmid): {"node": node, "type": kind, "version": at} for vmid, node, kind, at in found}
        return json.dumps({"version": max((at for *_, at in found), default=1), "ids": ids}) + "\n"


_WATCHED = ("corosync.conf", "corosync.conf.new", "storage.cfg", "user.cfg", "domains.cfg", "datacenter.cfg",
            "priv/shadow.cfg", "priv/tfa.cfg", "priv/token.cfg", "ceph.conf")  # fmt: skip

"""The lab's machines by SSH: who they must prove to be, and one connection to each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from provision import remote
from provision.errors import LabError
from provision.inventory import Lab, Node
from provision.journal import Evidence
from provision.remote import LocalRemote, Remote, Target

if TYPE_CHECKING:
    from provision.ledger import Ledger

PORT = 22


class Machines:
    """Connections to the provisioning server and the nodes, opened when first used, one for each.

    Safe to use from many threads at once. Unless `again`, one that cannot be opened is not tried again:
    whoever asks for that machine is told why.
    """

    def __init__(self, lab: Lab, ledger: Ledger, *, again: bool = True) -> None:
        self._lab, self._ledger, self._again = lab, ledger, again
        self._open: dict[str, Future[Remote]] = {}
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            for opened in self._open.values():
                if opened.exception() is None:
                    stack.callback(opened.result().close)

    @property
    def server(self) -> Remote:
        """The provisioning server."""
        return self._opened("server", _server_target(self._lab))

    def node(self, name: str, *, host_keys: tuple[str, ...] | None = None) -> Remote:
        """A node, by these host keys or those known of its last install; raises Unreachable."""
        keys = host_keys or self._host_keys(name)
        return self._opened(name, node_target(self._lab, self._lab.nodes[name], keys))

    def forget(self, name: str) -> None:
        """Close the connection to a node whose host keys are about to change."""
        with self._lock:
            opened = self._open.pop(name, None)
        if opened is not None and opened.exception() is None:
            opened.result().close()

    @property
    def reached(self) -> frozenset[str]:
        """Those that there is a connection to."""
        with self._lock:
            opened = dict(self._open)
        return frozenset(name for name, one in opened.items() if one.done() and one.exception() is None)

    @property
    def nodes(self) -> Mapping[str, Remote]:
        """All nodes by name, each connected to when it is first asked for."""
        return _Nodes(self, tuple(self._lab.nodes))

    def _opened(self, name: str, target: Target | None) -> Remote:
        with self._lock:
            opened, first = self._open.get(name), name not in self._open
            opened = self._open[name] = opened or Future()
        if first:
            self._reach(name, target, opened)
        try:
            return opened.result()
        except LabError as error:
            # The same error is told to many: it must not grow by what each of them went through.
            raise error.with_traceback(None) from error.__cause__

    def _reach(self, name: str, target: Target | None, opened: Future[Remote]) -> None:
        try:
            opened.set_result(_reached(name, target))
        except BaseException as error:
            if self._again or not isinstance(error, LabError):
                with self._lock:
                    self._open.pop(name, None)
            opened.set_exception(error)

    def _host_keys(self, node: str) -> tuple[str, ...] | None:
        # Without evidence of an install the lab file or the user's own known_hosts decides: a machine that
        # never provisioned this lab can verify it, as far as it knows the nodes.
        evidence = self._ledger.recall(self._lab.name, "install")
        known = host_keys_of(evidence, node) if evidence else None
        written = self._lab.nodes[node].host_key
        return known or ((written,) if written else None)


class _Nodes(Mapping[str, Remote]):
    def __init__(self, machines: Machines, names: tuple[str, ...]) -> None:
        self._machines, self._names = machines, names

    def __getitem__(self, name: str) -> Remote:
        return self._machines.node(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def host_keys_of(install: Evidence, node: str) -> tuple[str, ...] | None:
    """The SSH host keys that are known of a node's install, None when none are."""
    keys = install.nodes.get(node, {}).get("ssh_host_keys", [])
    return tuple(keys) or None


def server(lab: Lab) -> Remote:
    """The provisioning server, over a connection of its own; raises Unreachable."""
    return _reached("server", _server_target(lab))


def _reached(name: str, target: Target | None) -> Remote:
    return LocalRemote(name) if target is None else remote.connect(target)


def _server_target(lab: Lab) -> Target | None:
    return None if lab.server.host == "local" else server_target(lab)


def server_target(lab: Lab) -> Target:
    """The provisioning server as the lab file names it: "ssh:user@host:port"."""
    place = urlsplit("//" + lab.server.host.removeprefix("ssh:"))
    return Target(
        name="server",
        address=place.hostname or "",
        port=place.port or PORT,
        user=place.username or "root",
        host_keys=(lab.server.host_key,) if lab.server.host_key else None,
        identity=lab.server.identity,
    )


def node_target(lab: Lab, node: Node, host_keys: tuple[str, ...] | None) -> Target:
    """A node on its management address, as root."""
    key = lab.server.key or lab.server.identity
    return Target(node.name, str(node.management), PORT, "root", host_keys, key)

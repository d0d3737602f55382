"""One member's copy of the tree: writes in the group's order, one state after every change of membership.

The rules are those of pmxcfs on corosync's CPG: the lowest member opens a synchronisation, all tell what
they have, the highest version wins (then the newest change, then the lowest node id), and its tree goes
to the others.
"""

from __future__ import annotations

import errno
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .memdb import Changes, Entry, MemDb, Op, TreeError, is_lock

LOCK_SECONDS = 120.0
CHUNK = 256 * 1024

Member = tuple[int, int]  # node id, process id
Answer = Callable[[int], None]  # told 0 or an errno


class Disk(Protocol):
    """Where the tree is kept."""

    def save(self, tree: MemDb, changes: Changes) -> None:
        """Keep one operation's changes."""

    def replace(self, tree: MemDb) -> None:
        """Keep a whole tree."""


@dataclass(slots=True)
class _Waiting:
    op: Op
    answer: Answer
    sent: bool = False


@dataclass(frozen=True, slots=True)
class _State:
    version: int
    mtime: int
    digest: str


class Replica:
    """The copy of one member; `send` multicasts to the group, itself included, or is None when alone."""

    def __init__(
        self,
        tree: MemDb,
        disk: Disk,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tree, self.disk = tree, disk
        self.me: Member = (0, 0)
        self.members: tuple[Member, ...] = ()
        self.synced = True
        self.addresses: dict[str, str] = {}
        self.on_change: Callable[[str, bool], None] = lambda path, mine: None
        self.on_members: Callable[[], None] = lambda: None
        self.on_acknowledged: Callable[[], None] = lambda: None
        self.introduce: Callable[[], tuple[str, str]] = lambda: ("", "")
        self._clock, self._monotonic = clock, monotonic
        self._send: Callable[[bytes], None] | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._next = 0
        self._epoch = ""
        self._states: dict[Member, _State] = {}
        self._chunks: list[bytes] = []
        self._locks: dict[str, tuple[int, float]] = {}
        self._wanted_acks: set[Member] = set()

    # -- what the file system asks for

    def submit(self, op: Op, answer: Answer) -> None:
        """Carry out a write everywhere; `answer` is told the outcome once it is done here."""
        op = replace(op, writer=self.me[0], time=int(self._clock()))
        if self._send is None:
            if not self.synced:
                answer(errno.EACCES)
                return
            answer(self._apply(op, mine=True))
            return
        self._next += 1
        self._waiting[self._next] = _Waiting(op, answer)
        self._flush()

    def ask_unlock(self, path: str, answer: Answer) -> None:
        """Free a lock that its holder has not renewed for 120 s; EACCES while it may still be held."""
        entry = self.tree.find(path)
        if entry is None or not is_lock(path):
            answer(errno.ENOENT if entry is None else errno.EACCES)
            return
        version, since = self._locks.get(path, (-1, 0.0))
        if version != entry.version:
            self._locks[path] = (entry.version, self._monotonic())
        elif self._monotonic() - since >= LOCK_SECONDS:
            self.submit(Op("unlock", path, version=entry.version), lambda code: None)
        answer(errno.EACCES)

    def acknowledge(self) -> None:
        """Tell the group that this member has written the corosync.conf it was given."""
        if self._send:
            self._send(b"A")

    def want_acknowledgements(self) -> None:
        """Call `on_acknowledged` once every member of now has said so."""
        self._wanted_acks = set(self.members)

    @property
    def online(self) -> set[int]:
        """Node ids of the group's members."""
        return {node for node, _ in self.members}

    # -- what the group tells

    def joined(self, me: Member, send: Callable[[bytes], None]) -> None:
        """This member is in a group now; nothing is written until the members agree on the tree."""
        self.me, self._send, self.synced = me, send, False

    def left(self) -> None:
        """The group is gone: whatever waits has failed."""
        self._send, self.synced, self.members = None, False, ()
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.answer(errno.EIO)
        self.on_members()

    def membership(self, members: Sequence[Member]) -> None:
        """The group has these members from now on."""
        self.members, self.synced = tuple(sorted(members)), False
        self._count_acks(self._wanted_acks & set(self.members))
        self._open("")
        if self.members and self.members[0] == self.me and self._send:
            start = {"members": self._group(), "epoch": secrets.token_hex(8)}
            self._send(b"S" + json.dumps(start).encode())
        self.on_members()

    def deliver(self, sender: Member, message: bytes) -> None:
        """A message of the group, in the order in which all members see it."""
        kind, body = message[:1], message[1:]
        {b"O": self._on_op, b"S": self._on_start, b"T": self._on_state, b"D": self._on_data,
         b"K": self._on_address, b"A": self._on_ack}[kind](sender, body)  # fmt: skip

    # -- inside

    def _group(self) -> list[list[int]]:
        return [list(member) for member in self.members]

    def _flush(self) -> None:
        if not self.synced or self._send is None:
            return
        for number, one in self._waiting.items():
            if not one.sent:
                one.sent = True
                self._send(b"O%s %d\0" % (self._epoch.encode(), number) + one.op.encode())

    def _on_op(self, sender: Member, body: bytes) -> None:
        head, _, raw = body.partition(b"\0")
        epoch, _, number = head.decode().partition(" ")
        if epoch != self._epoch or not self.synced:
            return
        mine = self._waiting.pop(int(number), None) if sender == self.me else None
        code = self._apply(Op.decode(raw), mine=mine is not None)
        if mine:
            mine.answer(code)

    def _apply(self, op: Op, *, mine: bool) -> int:
        try:
            changes = self.tree.apply(op)
        except TreeError as refused:
            return refused.code
        self.disk.save(self.tree, changes)
        for path in filter(None, (op.path, op.to)):
            self._watch_lock(path)
            self.on_change(path, mine)
        return 0

    def _watch_lock(self, path: str) -> None:
        entry = self.tree.find(path) if is_lock(path) else None
        if entry:
            self._locks[path] = (entry.version, self._monotonic())
        else:
            self._locks.pop(path, None)

    def _open(self, epoch: str) -> None:
        # A write is good only in the epoch it was sent in: one that arrives later is passed over by
        # every member alike, and its sender sends it again.
        self.synced, self._epoch, self._states, self._chunks = False, epoch, {}, []
        for one in self._waiting.values():
            one.sent = False

    def _on_start(self, sender: Member, body: bytes) -> None:
        start = json.loads(body)
        if sender != self.members[0] or start["members"] != self._group() or self._send is None:
            return
        self._open(start["epoch"])
        state = {"epoch": self._epoch, "version": self.tree.version, "mtime": self.tree.mtime,
                 "digest": self.tree.digest()}  # fmt: skip
        self._send(b"T" + json.dumps(state).encode())

    def _on_state(self, sender: Member, body: bytes) -> None:
        state = json.loads(body)
        if state.pop("epoch") != self._epoch or self.synced:
            return
        self._states[sender] = _State(**state)
        if set(self._states) != set(self.members):
            return
        if len({state.digest for state in self._states.values()}) == 1:
            self._agreed()
        elif self._leader() == self.me:
            self._send_tree()

    def _leader(self) -> Member:
        def rank(member: Member) -> tuple[int, int, int]:
            state = self._states[member]
            return state.version, state.mtime, -member[0]

        return max(self.members, key=rank)

    def _send_tree(self) -> None:
        dump = self.tree.dump()
        parts = [dump[at : at + CHUNK] for at in range(0, len(dump), CHUNK)]
        for number, part in enumerate(parts, start=1):
            head = json.dumps({"epoch": self._epoch, "last": number == len(parts)}).encode()
            if self._send:
                self._send(b"D" + head + b"\0" + part)

    def _on_data(self, sender: Member, body: bytes) -> None:
        head, _, part = body.partition(b"\0")
        facts = json.loads(head)
        if facts["epoch"] != self._epoch or self.synced:
            return
        self._chunks.append(part)
        if not facts["last"]:
            return
        if self._states[self.me].digest != self._states[sender].digest:
            self.tree = MemDb.load(b"".join(self._chunks))
            self.disk.replace(self.tree)
            self.on_change("corosync.conf", False)
        self._agreed()

    def _agreed(self) -> None:
        self.synced = True
        now = self._monotonic()
        self._locks = {f"priv/lock/{entry.name}": (entry.version, now) for entry in self._lock_entries()}
        self._chunks = []
        if self._send:
            self._send(b"K" + json.dumps(self.introduce()).encode())
        self._flush()
        self.on_members()

    def _lock_entries(self) -> list[Entry]:
        directory = self.tree.find("priv/lock")
        return list(self.tree.children(directory.inode)) if directory else []

    def _on_address(self, _sender: Member, body: bytes) -> None:
        name, address = json.loads(body)
        if self.addresses.get(name) != address:
            self.addresses[name] = address
            self.on_members()

    def _on_ack(self, sender: Member, _body: bytes) -> None:
        self._count_acks(self._wanted_acks - {sender})

    def _count_acks(self, wanted: set[Member]) -> None:
        had, self._wanted_acks = self._wanted_acks, wanted
        if had and not wanted:
            self.on_acknowledged()

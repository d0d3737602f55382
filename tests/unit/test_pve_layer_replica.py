"""Members of a cluster file system on a bus that orders messages as corosync does, partitions included."""

from __future__ import annotations

import errno
from collections import deque
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from virtual_lab.pve.pmx.memdb import Changes, MemDb, Op
from virtual_lab.pve.pmx.replica import LOCK_SECONDS, Member, Replica


class NoDisk:
    def save(self, tree: MemDb, changes: Changes) -> None: ...

    def replace(self, tree: MemDb) -> None: ...


class Bus:
    """Groups of members; each group sees its messages in one order."""

    def __init__(self, count: int) -> None:
        self.now = 1000.0
        self.replicas = {node: self._replica() for node in range(1, count + 1)}
        self.groups: list[set[int]] = []
        self.flight: deque[tuple[int, Member, bytes]] = deque()

    def _replica(self) -> Replica:
        return Replica(MemDb(), NoDisk(), clock=lambda: self.now, monotonic=lambda: self.now)

    def split(self, *groups: set[int]) -> None:
        self.groups = list(groups)
        for node in sorted(set().union(*groups)):
            replica = self.replicas[node]
            if not replica.members:
                replica.joined((node, node), partial(self._send, node))
        for group in groups:
            for node in group:
                self.replicas[node].membership([(member, member) for member in group])

    def _send(self, node: int, message: bytes) -> None:
        self.flight.append((node, (node, node), message))

    def settle(self, most: int = 10_000) -> None:
        for _ in range(most):
            if not self.flight:
                return
            node, sender, message = self.flight.popleft()
            group = next((group for group in self.groups if node in group), set())
            for member in sorted(group):
                self.replicas[member].deliver(sender, message)
        raise AssertionError("the bus never came to rest")

    def write(self, node: int, name: str) -> list[int]:
        answers: list[int] = []
        self.replicas[node].submit(Op("create", name), answers.append)
        return answers

    def digests(self) -> set[str]:
        return {replica.tree.digest() for replica in self.replicas.values()}


def together(count: int) -> Bus:
    bus = Bus(count)
    bus.split(set(range(1, count + 1)))
    bus.settle()
    return bus


def test_alone_a_write_is_done_at_once() -> None:
    bus = Bus(1)
    assert bus.write(1, "a") == [0]
    assert bus.write(1, "a") == [errno.EEXIST]


def test_every_member_has_what_one_wrote() -> None:
    bus = together(3)
    answers = bus.write(2, "a")
    assert answers == []
    bus.settle()
    assert answers == [0]
    assert all(replica.tree.find("a") for replica in bus.replicas.values())
    assert len(bus.digests()) == 1


def test_of_two_who_make_the_same_lock_one_gets_it() -> None:
    bus = together(3)
    answers = bus.write(1, "lock"), bus.write(3, "lock")
    bus.settle()
    assert sorted(answers) == [[0], [errno.EEXIST]]


def test_a_joiner_gets_the_cluster_s_tree_and_loses_its_own() -> None:
    bus = Bus(2)
    for name in ("a", "b", "c"):
        bus.write(1, name)
    bus.write(2, "mine")
    bus.split({1, 2})
    bus.settle()
    assert bus.replicas[2].tree.find("a")
    assert bus.replicas[2].tree.find("mine") is None
    assert len(bus.digests()) == 1


def test_nothing_is_written_before_the_members_agree() -> None:
    bus = Bus(2)
    bus.split({1, 2})
    answers = bus.write(1, "a")
    assert bus.replicas[1].tree.find("a") is None
    bus.settle()
    assert answers == [0]
    assert len(bus.digests()) == 1


def test_a_write_lost_in_a_split_is_sent_again() -> None:
    bus = together(3)
    answers = bus.write(1, "a")
    bus.flight.clear()
    bus.split({1, 2}, {3})
    bus.settle()
    assert answers == [0]
    bus.split({1, 2, 3})
    bus.settle()
    assert bus.replicas[3].tree.find("a")
    assert len(bus.digests()) == 1


def test_a_write_of_an_old_membership_is_done_once() -> None:
    bus = together(2)
    answers = bus.write(1, "a")
    bus.split({1, 2})  # the write is still in flight, and arrives in the new membership
    bus.settle()
    assert answers == [0]
    assert bus.replicas[1].tree.version == 1


def test_without_the_group_waiting_writes_fail() -> None:
    bus = together(2)
    answers = bus.write(1, "a")
    bus.replicas[1].left()
    assert answers == [errno.EIO]
    assert bus.write(1, "b") == [errno.EACCES]


def test_a_lock_that_nobody_renews_is_freed() -> None:
    bus = together(2)
    for name in ("priv", "priv/lock", "priv/lock/l"):
        bus.replicas[1].submit(Op("mkdir", name), lambda code: None)
    bus.settle()
    answers: list[int] = []
    bus.now += LOCK_SECONDS - 1
    bus.replicas[2].ask_unlock("priv/lock/l", answers.append)
    bus.settle()
    assert bus.replicas[1].tree.find("priv/lock/l")
    bus.now += 2
    bus.replicas[2].ask_unlock("priv/lock/l", answers.append)
    bus.settle()
    assert answers == [errno.EACCES, errno.EACCES]
    assert bus.replicas[1].tree.find("priv/lock/l") is None


def test_the_writer_hears_when_every_member_has_the_new_configuration() -> None:
    bus = together(3)
    heard: list[str] = []
    bus.replicas[1].on_acknowledged = lambda: heard.append("all")
    bus.replicas[1].want_acknowledgements()
    bus.replicas[1].acknowledge()
    bus.replicas[2].acknowledge()
    bus.settle()
    assert heard == []
    bus.replicas[3].acknowledge()
    bus.settle()
    assert heard == ["all"]


def test_a_split_does_not_leave_the_writer_waiting_for_the_lost() -> None:
    bus = together(2)
    heard: list[str] = []
    bus.replicas[1].on_acknowledged = lambda: heard.append("all")
    bus.replicas[1].want_acknowledgements()
    bus.replicas[1].acknowledge()
    bus.settle()
    assert heard == []
    bus.split({1}, {2})
    bus.settle()
    assert heard == ["all"]


_Step = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 3), st.sampled_from("abcdef")),
    st.tuples(
        st.just("split"), st.sampled_from([((1, 2, 3),), ((1, 2), (3,)), ((1, 3), (2,)), ((2, 3), (1,))])
    ),
    st.tuples(st.just("settle")),
    st.tuples(st.just("lose")),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_Step, max_size=25))
def test_whatever_happens_members_end_up_equal(steps: list[tuple[object, ...]]) -> None:
    bus = together(3)
    answers: list[list[int]] = []
    for step in steps:
        if step[0] == "write":
            answers.append(bus.write(int(str(step[1])), str(step[2])))
        elif step[0] == "split":
            bus.split(*(set(group) for group in step[1]))  # type: ignore[attr-defined]
        elif step[0] == "settle":
            bus.settle()
        else:
            bus.flight.clear()
            bus.split(*bus.groups)  # messages are lost only when the membership changes
    bus.split({1, 2, 3})
    bus.settle()
    assert len(bus.digests()) == 1
    assert all(len(answer) == 1 for answer in answers)

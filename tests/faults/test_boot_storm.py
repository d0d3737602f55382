"""A hundred nodes go through a whole install at once: none fails, and everything they said was kept, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks.boot_nodes import Leave
from benchmarks.boot_rig import BootRig, missing
from benchmarks.boot_storm import storm
from provision.boot_service.store import Store

NODES = 100
KEPT = ("answer", "first-boot-script", "installed", "first-boot", "status", "registered")


@pytest.fixture(scope="module", params=["through nginx", "to the socket"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootRig]:
    through_nginx = request.param == "through nginx"
    if through_nginx and missing("nginx", "openssl"):
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("storm")
    with BootRig(folder, NODES, nginx=through_nginx, workers=2) as rig:
        yield rig


def test_none_fails_and_everything_is_kept_once(rig: BootRig) -> None:
    leaves, before = rig.grant_all(), rig.operator.health().last
    timed = asyncio.run(storm(rig.way, leaves, spread=0.5))
    assert [each for each in timed if each.why] == []
    assert len(timed) == 8 * NODES
    assert kept_of_each_node(rig, before) == {leave.node.name: Counter(KEPT) for leave in leaves}
    assert {
        permit.state for permit in rig.operator.permits() if permit.run == f"round-{leaves[0].round}"
    } == {"done"}


def test_who_has_no_leave_is_seen_to_fail(rig: BootRig) -> None:
    """The storm itself can fail: one node's permit is revoked, another's answer was fetched by a thief."""
    leaves = rig.grant_all()
    revoked, robbed = leaves[3], leaves[7]
    rig.operator.revoke_node(revoked.node.name)
    asyncio.run(fetch_answer(rig, robbed))
    timed = asyncio.run(storm(rig.way, leaves[:10], spread=0.1))
    failed = Counter(each.call for each in timed if each.why)
    assert failed["answer"] == failed["boot script"] == 2
    assert failed["report registered"] == failed["webhook"] == 1
    assert {each.why.split()[0] for each in timed if each.call == "answer" and each.why} == {"410"}


async def fetch_answer(rig: BootRig, leave: Leave) -> None:
    [timed] = [each for each in await storm(rig.way, [leave], spread=0) if each.call == "answer"]
    assert not timed.why


def kept_of_each_node(rig: BootRig, after: int) -> dict[str, Counter[str]]:
    store = Store(rig.folder / "boot.db")
    kept: dict[str, Counter[str]] = {}
    for event in store.events(after=after):
        if event.node is not None and event.kind in KEPT:
            kept.setdefault(event.node, Counter())[event.kind] += 1
    store.close()
    return kept

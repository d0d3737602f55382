"""An operator's install from end to end: actions, hands and a BMC over real sockets, and the node that boots."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from provision.boot_service.actions import ActionRefused, Actions
from provision.boot_service.messages import Rack, RackNode, StandingOrder
from provision.boot_service.service import Service
from provision.boot_service.store import Store
from tests.unit import redfish_bmc as fake
from tests.unit.redfish_bmc import Answer
from tests.unit.test_hands import Rack as Hands
from tests.unit.test_hands import Stuck, config, tree

NOW = 1_763_848_800.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    order = StandingOrder(
        patience=600.0,
        boot_script="install as @RUN@",
        answer="report to @REPORT_TOKEN@",
        first_boot="nonce @NONCE@",
    )
    with closing(Store(tmp_path / "store.sqlite")) as store:
        node = RackNode.model_validate({"name": "node1", "macs": ("02:00:00:00:01:01",), "address": "10.10.1.21",
                                        "boot_script": "disk", "standing_order": order})  # fmt: skip
        store.put_rack(Rack(lab="test", nodes=(node,)), NOW)
        yield store


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Hands]:
    with ExitStack() as stack:
        yield Hands(tmp_path, stack)


def actions(store: Store, hands: Hands) -> Actions:
    return Actions(Service(store, clock=lambda: NOW), hands.client)


def test_the_node_boots_from_the_network_and_finds_its_answer_by_dhcp(store: Store, hands: Hands) -> None:
    bmc = hands.bmc("node1", tree("node1", PowerState="Off"))
    hands.start(config())
    done = asyncio.run(actions(store, hands).permit_install("node1", "alice", "node1"))
    asyncio.run(hands.client.state("node1"))
    assert (bmc.resets, bmc.boots) == (["On"], ["Pxe"]) and "as run operator-20251122-220000" in done
    [token] = re.findall(r"/answer/([A-Za-z0-9_-]+)", hands.options_file.read_text())
    permit = store.permit_by_answer_token(token)
    assert permit is not None and permit.boot_script == "install as operator-20251122-220000"
    assert "@" not in str(store.spend(permit, NOW)) and store.spend(permit, NOW) is None


def test_another_machine_behind_the_console_is_not_touched_and_the_leave_is_gone(
    store: Store, hands: Hands
) -> None:
    bmc = hands.bmc("node1", tree("node2"))
    hands.start(config())
    with pytest.raises(ActionRefused, match=r"nothing was written to it.*its permit is revoked") as error:
        asyncio.run(actions(store, hands).permit_install("node1", "alice", "node1"))
    assert error.value.status == 409 and not bmc.resets and not bmc.patches
    assert store.current_permit("node1") is None and "answer/" not in hands.options_file.read_text()


def test_a_bmc_that_refuses_the_network_boot_leaves_neither_leave_nor_reset(
    store: Store, hands: Hands
) -> None:
    bmc = hands.bmc("node1", None, refuse_patch=[Answer(403, "your account may only look")])
    hands.start(config())
    with pytest.raises(ActionRefused, match=r"403 your account may only look.*its permit is revoked"):
        asyncio.run(actions(store, hands).permit_install("node1", "alice", "node1"))
    assert not bmc.resets and store.current_permit("node1") is None


def test_no_password_and_no_token_is_in_what_was_told(store: Store, hands: Hands) -> None:
    hands.bmc("node1", None, refuse_reset=[Answer(403, f"no, {fake.PASSWORD}")] * 5)
    hands.start(config())
    with pytest.raises(ActionRefused):
        asyncio.run(actions(store, hands).permit_install("node1", "alice", "node1"))
    told = " ".join(f"{event.text} {event.facts}" for event in store.events())
    assert "[struck out]" in told and fake.PASSWORD not in told and "answer/" not in told


def test_an_action_goes_on_when_who_asked_has_gone_and_the_next_is_told(hands: Hands) -> None:
    stuck = Stuck()
    hands.start(config(seconds=30), board=stuck.board)

    async def ask_and_go() -> None:
        task = asyncio.create_task(hands.client.power("node1", "off"))
        assert await asyncio.to_thread(stuck.entered.wait, 10)
        task.cancel()

    asyncio.run(ask_and_go())
    assert "power off" in asyncio.run(hands.client.state("node1"))["under_way"]
    stuck.let_go.set()

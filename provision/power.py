"""Step `power`: prove who every node is, set one network boot, reset, and see it under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

from provision.errors import LabError, NodesFailed
from provision.inventory import Lab, Node
from provision.redfish import Board, Identity, Timing, prove
from provision.run import Done, Run
from provision.together import together

STEP = "power"

T = TypeVar("T")


def reboot(
    lab: Lab,
    run: Run,
    permit: Callable[[list[Node]], None],
    *,
    board: Callable[[Node], Board] | None = None,
    first_sign: Callable[[str], bool] = lambda node: False,
) -> Done:
    """Reset every node of `lab` into its network boot, all at the same time.

    A node that is not the one in the lab file is left alone, by name, while the others go on. `permit`
    is called once, with the nodes that proved who they are, before anything is written to them; nothing
    is written when it raises. `first_sign` says whether a node, by name, was heard of since its reset.
    Raises the node's error when one failed and NodesFailed when several did.
    """
    make = board or (lambda node: Board(node, timing=Timing.within(lab.deadlines.power)))
    with ExitStack() as closing:
        boards = {name: closing.enter_context(make(node)) for name, node in lab.nodes.items()}
        known, failed = _each(boards, lambda board: _identify(run, board))
        if known:
            permit([lab.nodes[name] for name in known])
        proved = {name: boards[name] for name in known}
        booted, stuck = _each(proved, lambda board: _boot(run, lab, make, board, first_sign))
    _raise({**failed, **stuck})
    return Done(
        changed=[f"{name}: {facts['reset']} into network boot" for name, facts in booted.items()],
        nodes={name: {**known[name], **facts} for name, facts in booted.items()},
    )


def _identify(run: Run, board: Board) -> dict[str, Any]:
    """The facts of a machine that is the node it should be; raises IdentityMismatch when it is not."""
    found = board.identity()
    facts = {**_facts(found), "identity": prove(board.node, found), "auth": board.auth}
    run.say("identified", facts["identity"], step=STEP, node=board.node.name, **facts)
    return facts


def _facts(found: Identity) -> dict[str, Any]:
    return {
        "serial": found.service_tag or found.serial,
        "manufacturer": found.manufacturer,
        "model": found.model,
        "bios": found.bios,
        "bmc_firmware": found.firmware,
        "uuid": found.uuid,
        "macs": sorted(found.macs),
    }


def _boot(
    run: Run, lab: Lab, make: Callable[[Node], Board], board: Board, first_sign: Callable[[str], bool]
) -> dict[str, Any]:
    node = lab.nodes[board.node.name]
    # The undo may run long after this board has logged out, so it goes by a board of its own.
    drop_undo = run.undo_later(f"{node.name}: network boot cleared", lambda: _clear(make, node))
    kept = board.set_boot_once_pxe()
    run.say("network-boot-set", f"read back: {kept}", step=STEP, node=node.name, mode=kept.mode)
    done = board.reset(seen=lambda: first_sign(node.name))
    drop_undo()
    run.say("reset", f"{done.how}: {done.sign}", step=STEP, node=node.name, how=done.how, sign=done.sign)
    return {"boot_mode": kept.mode, "reset": done.how, "reset_seen_by": done.sign}


def _clear(make: Callable[[Node], Board], node: Node) -> None:
    with make(node) as board:
        board.clear_boot_override()


def _each(
    boards: Mapping[str, Board], action: Callable[[Board], T]
) -> tuple[dict[str, T], dict[str, LabError]]:
    """Results and lab trouble by node name, of all nodes at once: one node's trouble stops no other."""

    def outcome(board: Board) -> T | LabError:
        try:
            return action(board)
        except LabError as error:
            return error

    outcomes = together(boards, outcome)
    failed = {name: error for name, error in outcomes.items() if isinstance(error, LabError)}
    return {name: done for name, done in outcomes.items() if not isinstance(done, LabError)}, failed


def _raise(failed: Mapping[str, LabError]) -> None:
    if len(failed) == 1:
        raise next(iter(failed.values()))
    if failed:
        raise NodesFailed(failed)

"""Step `power`: prove who every node is, set one network boot, reset, and see it under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from provision.inventory import Lab, Node
from provision.pace import Pace
from provision.redfish import Board, Timing, prove
from provision.run import Done, Run
from provision.together import Gathered, together
from provision.turns import Signs, Turns, Unheard

STEP = "power"


def reboot(
    lab: Lab,
    run: Run,
    permit: Callable[[list[Node]], None],
    *,
    board: Callable[[Node], Board] | None = None,
    signs: Signs | None = None,
    pace: Pace | None = None,
) -> Done:
    """Reset every node of `lab` into its network boot, each for itself: a slow BMC holds no other node up.

    A node that is not the one in the lab file is left alone, by name, while the others go on. `permit` is
    called, by one thread at a time, with nodes that proved who they are, before anything is written to them;
    nothing is written to those of a call that raises. `signs` tell what was heard of nodes since their
    reset. With a `pace` that holds nodes back, each has its turn. Raises the node's error when one failed
    and NodesFailed when several did.
    """
    make = board or (lambda node: Board(node, timing=Timing.within(lab.deadlines.power)))
    signs, pace = signs or Unheard(), pace or Pace(dict.fromkeys(lab.nodes, 0.0))
    if pace.holds:
        run.say("stagger", str(pace), step=STEP)
    rebooting = _Rebooting(run, make, Gathered(permit), signs, Turns(pace, run, signs))
    facts = together(lab.nodes, rebooting.reboot)
    return Done(
        changed=[f"{name}: {told['reset']} into network boot" for name, told in facts.items()],
        facts={"stagger": str(pace)} if pace.holds else {},
        nodes=facts,
    )


@dataclass(frozen=True, slots=True)
class _Rebooting:
    run: Run
    make: Callable[[Node], Board]
    permit: Callable[[Node], None]
    signs: Signs
    turns: Turns

    def reboot(self, node: Node) -> dict[str, Any]:
        """The facts of a node that is on its way into its network boot."""
        with self.make(node) as board:
            known = _identify(self.run, board)
            if self.turns.join(node.name):
                # The wait may be longer than a BMC keeps a session, or a cable its place.
                board.close()
                self.turns.wait(node.name)
                known = _facts_of(board)
            with self.turns.under_way(node.name):
                self.permit(node)
                return known | self._boot(node, board)

    def _boot(self, node: Node, board: Board) -> dict[str, Any]:
        name = node.name
        # The undo may run long after this board has logged out, so it goes by a board of its own.
        drop_undo = self.run.undo_later(f"{name}: network boot cleared", lambda: self._clear(node))
        kept = board.set_boot_once_pxe()
        self.run.say("network-boot-set", f"read back: {kept}", step=STEP, node=name, mode=kept.mode)
        done = board.reset(seen=lambda: self.signs.heard_of(name))
        drop_undo()
        self.run.say("reset", f"{done.how}: {done.sign}", step=STEP, node=name, how=done.how, sign=done.sign)
        return {"boot_mode": kept.mode, "reset": done.how, "reset_seen_by": done.sign}

    def _clear(self, node: Node) -> None:
        with self.make(node) as board:
            board.clear_boot_override()


def _identify(run: Run, board: Board) -> dict[str, Any]:
    facts = _facts_of(board)
    run.say("identified", facts["identity"], step=STEP, node=board.node.name, **facts)
    return facts


def _facts_of(board: Board) -> dict[str, Any]:
    """The facts of a machine that is the node it should be; raises IdentityMismatch when it is not."""
    found = board.identity()
    return {
        "serial": found.service_tag or found.serial,
        "manufacturer": found.manufacturer,
        "model": found.model,
        "bios": found.bios,
        "bmc_firmware": found.firmware,
        "uuid": found.uuid,
        "macs": sorted(found.macs),
        "identity": prove(board.node, found),
        "auth": board.auth,
    }

"""Every known text has its own advice, and what is unknown has none."""

from __future__ import annotations

import re

import pytest

from provision.run import STEPS
from reports.advice import KNOWN, Known, advise
from reports.culprits import culprits
from reports.story import Outcome, Story


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.sample.split("\n")[0][:40])
def test_a_sample_is_known_by_its_own_pattern_alone(known: Known) -> None:
    assert advise(["something before", f"and then {known.sample} was said"]) == known.advice
    assert [each for each in KNOWN if re.search(each.pattern, known.sample)] == [known]


def test_what_nobody_knows_has_no_advice() -> None:
    assert advise(["assert 1500 == 9000"]) == ""
    assert advise([]) == ""


def test_a_culprit_has_the_advice_unless_the_step_itself_said_what_is_likely() -> None:
    story = Story("hall", STEPS, ["node1", "node2"])
    story.note(Outcome("mtu: largest_packet_passes[node1-node2-storage]", "install", "failed", 0.1,
                       said="ping: sendmsg: Message too long"))  # fmt: skip
    story.note(Outcome("step cluster", "cluster", "error", 0.1, acts=True,
                       said="node2: no quorum\n  likely: its switch\nActivity blocked"))  # fmt: skip
    told = {culprit.step: culprit.likely for culprit in culprits(story)}
    assert told["install"].startswith("the sending node's own MTU is smaller")
    assert told["cluster"] == "its switch"

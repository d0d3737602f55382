"""The options of rackproof on pytest's command line.

pyproject.toml loads this module before pytest looks for conftest.py: pytest would otherwise take the
value of an option that it does not know yet, such as a lab file in another folder, for a folder of tests.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from provision.run import DEEDS, STEPS

ROOT = Path(__file__).parent.parent
DEFAULT_OUT = ROOT / "reports" / "out"


SHAPES = ("slack", "matrix", "json")
"""The shapes of webhooks that can be told."""
WHEN = ("always", "bad", "change")
MOST_MINUTES = 7 * 24 * 60


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of rackproof, apart from pytest's own."""
    group = parser.getgroup("rackproof")
    group.addoption(
        "--lab", type=Path, metavar="FILE", help="the lab file, or a classic nodes.json; default: virtual"
    )
    group.addoption("--virtual", action="store_true", help="play this lab's hardware on this machine")
    group.addoption("--wipe", metavar="NAME", help="leave to destroy what is on the disks of lab NAME")
    group.addoption("--nodes", metavar="A,B", help="only these nodes")
    group.addoption(
        "--from", dest="from_step", choices=STEPS, help="act from this step on; earlier ones are recalled"
    )
    group.addoption("--until", dest="until_step", choices=STEPS, help="act up to this step")
    group.addoption("--only", dest="only_step", choices=STEPS, help="act on this step alone")
    group.addoption(
        "--templates",
        choices=DEEDS,
        help="act on the VM templates alone: create what is not right and try each (what a whole run does), "
        "make all anew, try only, or remove",
    )
    group.addoption("--resume", action="store_true", help="act from the first step that left no evidence")
    group.addoption(
        "--plan", action="store_true",
        help="say what -m provision would do, step server as a diff, and touch nothing; exit 6 if it differs",
    )  # fmt: skip
    group.addoption(
        "--wait", type=float, default=0.0, metavar="MINUTES", help="wait for a lab that another run holds"
    )
    group.addoption(
        "--notify", action="append", default=[], type=_webhook, metavar="SHAPE:URL",
        help=f"tell a webhook how the run ended: {', '.join(SHAPES)}, then its URL, env:NAME or file:PATH",
    )  # fmt: skip
    group.addoption(
        "--notify-when", choices=WHEN, default=WHEN[0],
        help="of every run, of those that did not prove, or when the outcome is another than before",
    )  # fmt: skip
    group.addoption(
        "--drift", action="store_true",
        help="with -m verify: compare the rack's facts with those of the last green run",
    )  # fmt: skip
    group.addoption(
        "--accept", action="store_true", help="with --drift: what stands now is what later runs compare with"
    )
    group.addoption("--reason", metavar="TEXT", help="with --accept: why; it is kept")
    group.addoption(
        "--watch", type=_minutes, metavar="MINUTES",
        help="repeat -m verify that often until it is interrupted, and tell what changes",
    )  # fmt: skip
    group.addoption("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="where reports go")


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < MOST_MINUTES:
        raise ArgumentTypeError(f'"{text}" is no number of minutes, such as 5 or 0.5')
    return minutes


def _webhook(text: str) -> str:
    shape, _, place = text.partition(":")
    if shape not in SHAPES:
        # What was given is not repeated: the URL of a webhook is a secret.
        raise ArgumentTypeError(f"a webhook is SHAPE:URL, its shape one of {', '.join(SHAPES)}")
    if not place.startswith(("https://", "http://", "env:", "file:")):
        raise ArgumentTypeError(f"after {shape}: comes an https URL, or env:NAME or file:PATH that hold it")
    return text

"""The page of symptoms quotes what is really said: words of the code, checks that exist, phases of an install."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from provision.handed import PHASES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
FIRST_CELLS = re.findall(r"^\| (?!it says|not reached|---)(.*?) \|", PAGE, re.MULTILINE)
QUOTED = [text for cell in FIRST_CELLS for text in re.findall(r"`([^`]+)`", cell)]
CODE = "\n".join(path.read_text() for path in sorted((ROOT / "provision").rglob("*.py")))
SUBJECTS = {
    path.stem.removeprefix("check_"): path.read_text() for path in (ROOT / "checks").glob("check_*.py")
}


def test_every_phase_has_its_line() -> None:
    assert [text for text in QUOTED if text in PHASES] == list(PHASES)


@pytest.mark.parametrize("text", [text for text in QUOTED if text not in PHASES])
def test_what_is_quoted_is_said(text: str) -> None:
    subject, _, words = text.partition(": ")
    if subject in SUBJECTS:
        assert words == "…" or f"def test_{words.replace(' ', '_')}(" in SUBJECTS[subject]
        return
    parts = [part.strip() for part in re.split(r"…|[A-Z]{3,}[A-Z:]*|env:|place:", text)]
    assert any(parts) or text.startswith("FILE")
    assert [part for part in parts if part not in CODE] == []

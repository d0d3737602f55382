"""Every command that README and docs show is one that works: a run is collected, a tool asked, a parser obeyed."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.lab_fixtures import CANARIES, CLASSIC

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("pytest ", "python -m ")
PLACEHOLDERS = {
    "LABFILE": "labs/hall-3.yaml",
    "[LABFILE]": "",
    "[RUN]": "",
    "NODE": "node1",
    "NAME": "hall-3",
    "light-256.yaml": "labs/hall-3.yaml",
}
ASKED = (
    "provision.answers", "provision.inventory check", "provision.inventory convert", "provision.secrets check",
)  # fmt: skip
"""What only reads, and answers in a moment: these commands are run as they stand."""
CLASSIC_VARIABLES = "cluster_name: hall-3\n"


class Understood(Exception):
    """The command line was taken."""


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it, without `./bootstrap` before it."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} {shlex.join(self.words)}"


def _shown(page: Path) -> Iterator[Shown]:
    for number, line in enumerate(page.read_text().splitlines(), 1):
        block = [line.strip()] if line.startswith("    ") else []
        for text in [*block, *re.findall(r"`([^`]+)`", line)]:
            command = text.removeprefix("./bootstrap ").removeprefix("sudo ")
            if command.startswith(PROGRAMS):
                yield Shown(f"{page.name}:{number}", _words(command))


def _words(command: str) -> tuple[str, ...]:
    # Behind two blanks stands what the command does, behind > where what it prints goes.
    text = re.split(r"\s{2,}|\s#|\s>\s", command)[0]
    return tuple(word for given in shlex.split(text) if (word := PLACEHOLDERS.get(given, given)))


COMMANDS = sorted({shown.words: shown for page in PAGES for shown in _shown(page)}.values(), key=str)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages suppose it: lab files of a user's own beside the project's."""
    folder = tmp_path_factory.mktemp("desk")
    labs = folder / "labs"
    labs.mkdir()
    for file in (ROOT / "labs").glob("*.yaml"):
        (labs / file.name).write_text(file.read_text())
    own = (ROOT / "labs/virtual.yaml").read_text().replace("name: virtual", "name: hall-3", 1)
    (labs / "hall-3.yaml").write_text(own)
    (folder / "nodes.json").write_text(json.dumps(CLASSIC))
    (folder / "main.yml").write_text(CLASSIC_VARIABLES)
    return folder


def _run(words: Sequence[str], desk: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=desk, env={**os.environ, **CANARIES, "PYTHONPATH": str(ROOT), "RACKPROOF_INSTANCE": "desk"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_pages_show_commands() -> None:
    programs = {shown.words[0] for shown in COMMANDS}
    assert programs == {"pytest", "python"}
    assert len(COMMANDS) >= 30


@pytest.mark.parametrize("shown", [shown for shown in COMMANDS if shown.words[0] == "pytest"], ids=str)
def test_a_run_that_is_shown_selects_something(shown: Shown, desk: Path) -> None:
    words = [
        str(desk / "labs" / Path(word).name) if word.endswith(".yaml") else word for word in shown.words[1:]
    ]
    # As bootstrap has it: a lab file elsewhere is no root of pytest's.
    root = ["-c", str(ROOT / "pyproject.toml")]
    result = _run(["-m", "pytest", *root, *words, "--collect-only", "-q"], ROOT)
    if "--plan" in words and result.returncode == 1:
        # It is read from the machine, and here is none.
        assert "no plan: the virtual rack desk is not up" in result.stdout
        return
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("shown", [shown for shown in COMMANDS if shown.words[0] == "python"], ids=str)
def test_a_tool_that_is_shown_takes_these_words(
    shown: Shown, desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _python, _m, module, *words = shown.words
    if " ".join([module, *words]).startswith(ASKED):
        result = _run(shown.words[1:], desk)
        # A secret that is not there is an answer too.
        assert result.returncode in (0, 1), result.stdout + result.stderr
        return
    parse = argparse.ArgumentParser.parse_args

    def parsed(*given: Any) -> None:
        parse(*given)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    program = import_module(f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module)
    if words:
        try:
            with pytest.raises(Understood):
                program.main(words)
        except SystemExit:
            pytest.fail(capsys.readouterr().err)

"""The ready files for CI are what their systems read, and run a command that rackproof takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CI = ROOT / "docs" / "ci"


def commands() -> dict[str, str]:
    github = yaml.safe_load((CI / "github-actions.yml").read_text())
    gitlab = yaml.safe_load((CI / "gitlab-ci.yml").read_text())
    jenkins = re.findall(r"sh '([^']*)'", (CI / "Jenkinsfile").read_text())
    steps = [step["run"] for step in github["jobs"]["rebuild"]["steps"] if "run" in step]
    return {"github": steps[0], "gitlab": gitlab["rebuild"]["script"][0], "jenkins": jenkins[0]}


@pytest.mark.parametrize("system", ["github", "gitlab", "jenkins"])
def test_the_command_is_one_that_rackproof_takes(system: str, pytestconfig: pytest.Config) -> None:
    words = shlex.split(commands()[system])
    words = words[words.index("pytest") + 1 :]
    known = pytestconfig._parser.parse_known_args(words)
    assert (known.markexpr, known.lab, known.wipe, known.wait) == (
        "provision",
        Path("labs/hall-3.yaml"),
        "hall-3",
        120,
    )


@pytest.mark.parametrize("file", ["github-actions.yml", "gitlab-ci.yml", "Jenkinsfile"])
def test_the_report_is_kept_also_of_a_red_run(file: str) -> None:
    text = (CI / file).read_text()
    assert "always" in text
    assert "reports/out/latest/" in text


def test_github_and_gitlab_let_one_job_at_a_time_into_the_lab() -> None:
    github = yaml.safe_load((CI / "github-actions.yml").read_text())
    gitlab = yaml.safe_load((CI / "gitlab-ci.yml").read_text())
    assert github["concurrency"] == {"group": "hall-3", "cancel-in-progress": False}
    assert gitlab["rebuild"]["resource_group"] == "hall-3"
    assert gitlab["rebuild"]["artifacts"]["reports"]["junit"].endswith("junit.xml")

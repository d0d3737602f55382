"""Verify only reads, and sees to it: checks that write, each through another client, are refused on a standing rack."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from provision.together import together
from tests.lab.checks_that_write import HERE, NODE, WRITTEN
from tests.lab.conftest import ROOT, Lab
from tests.lab.test_main_job import everything


def of_the_services(lab: Lab) -> dict[str, Any]:
    """What the calls of those checks would have changed: in the API, the boot service, and by what tasks."""
    asked = {
        "options": "/cluster/options",
        "storages": "/storage",
        "tasks": f"/nodes/{NODE}/tasks",
        "members": "/cluster/config/nodes",
    }
    told = {name: lab.on("node1", f"pvesh get {path} --output-format json") for name, path in asked.items()}
    return {**told, "permits": lab.operator("/api/v1/permits")}


def test_every_client_refuses_to_write_while_verify_runs(lab: Lab, tmp_path: Path) -> None:
    """In every worker, too; each is an error that names the check, and nothing has arrived."""
    # Elsewhere than below tests/, whose fixture `lab` is another.
    planted = tmp_path / "check_that_writes.py"
    shutil.copy(ROOT / "tests" / "lab" / "checks_that_write.py", planted)
    before = everything(lab), of_the_services(lab)
    result = lab.pytest("-m", "verify", "-n", "2", "checks/check_answer.py", str(planted), timeout=100)
    assert result.returncode == 1, result.stdout + result.stderr
    # A check from elsewhere than this project has no path in its name.
    writing = [case.removeprefix("::") for case, _ in lab.cases() if case.startswith("::")]
    errors = lab.errors()
    assert len(writing) > 20 and sorted(errors) == sorted(writing)
    for name, said in errors.items():
        assert "not sent: " in said, f"{name}: {said}"
        assert f"asked by: ::{name}\n" in said, f"{name}: {said}"
    assert not list(lab.junit().iter("failure")), "it is a fault of the check, not of the lab"
    assert not lab.events("diagnosed")
    assert (everything(lab), of_the_services(lab)) == before
    machines = {name: name for name in ("server", *lab.nodes)}
    found = together(machines, lambda name: lab.on(name, f"find {WRITTEN} 2>/dev/null", check=False))
    assert found == dict.fromkeys(machines, "")
    assert not HERE.exists()

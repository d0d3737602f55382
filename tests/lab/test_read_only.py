"""Verify only reads, and sees to it: checks that write, each through another client, are refused on a standing rack."""

from __future__ import annotations

from typing import Any

from provision.together import together
from tests.lab.checks_that_write import HERE, NODE, WRITTEN
from tests.lab.conftest import Lab
from tests.lab.test_main_job import everything

CHECKS = "tests/lab/checks_that_write.py"


def of_the_services(lab: Lab) -> dict[str, Any]:
    """What the calls of those checks would have changed: in the API, the boot service, and by what tasks."""
    asked = {
        "config": f"/nodes/{NODE}/config",
        "tasks": f"/nodes/{NODE}/tasks",
        "members": "/cluster/config/nodes",
    }
    told = {name: lab.on("node1", f"pvesh get {path} --output-format json") for name, path in asked.items()}
    return {**told, "permits": lab.operator("/api/v1/permits")}


def test_every_client_refuses_to_write_while_verify_runs(lab: Lab) -> None:
    """In every worker, too; each is an error that names the check, and nothing has arrived."""
    before = everything(lab), of_the_services(lab)
    result = lab.pytest("-m", "verify", "-n", "2", CHECKS, timeout=100)
    assert result.returncode == 1, result.stdout + result.stderr
    errors = lab.errors()
    assert len(errors) > 20
    assert sorted(errors) == sorted(name.partition("::")[2] for name, _ in lab.cases())
    for name, said in errors.items():
        assert "not sent: " in said, f"{name}: {said}"
        assert f"asked by: {CHECKS}::{name}\n" in said, f"{name}: {said}"
    assert not list(lab.junit().iter("failure")), "it is a fault of the check, not of the lab"
    assert (everything(lab), of_the_services(lab)) == before
    machines = {name: name for name in ("server", *lab.nodes)}
    found = together(machines, lambda name: lab.on(name, f"find {WRITTEN}", check=False))
    assert found == dict.fromkeys(machines, "")
    assert not HERE.exists()

"""junit.xml is what Jenkins' xunit plugin takes: with steps that failed, were skipped, and checks that failed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped
from lxml import etree  # type: ignore[import-untyped]  # its stubs are another package

from tests.unit.test_suite import LAB, run_pytest

# Addresses at which nobody answers, and that no packet to leaves this machine.
HERE = LAB.replace("10.10.1.", "127.10.1.")
SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).with_name("junit.xsd")))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, etree._ElementTree]:
    """The junit.xml of a run that fails at its first step, and of a verification that fails at everything."""
    folder = tmp_path_factory.mktemp("junit")
    (folder / "attic.yaml").write_text(HERE)
    given = {"provision": ("--wipe", "attic"), "verify": ("-n", "2", "-k", "bmc or dns or version")}
    for name, more in given.items():
        result = run_pytest(folder / name, "-m", name, "--lab", str(folder / "attic.yaml"), *more)
        assert result.returncode == 1, result.stdout + result.stderr
    return {name: etree.parse(folder / name / "out" / "latest" / "junit.xml") for name in given}


@pytest.mark.parametrize("run", ["provision", "verify"])
def test_junit_is_valid(written: dict[str, etree._ElementTree], run: str) -> None:
    assert SCHEMA.validate(written[run]), SCHEMA.error_log


def test_every_case_is_there_by_name_once(written: dict[str, etree._ElementTree]) -> None:
    for tree in written.values():
        cases = [(case.get("classname"), case.get("name")) for case in tree.iter("testcase")]
        assert len(cases) > 10
        assert len(set(cases)) == len(cases)


def test_workers_share_one_run(written: dict[str, etree._ElementTree]) -> None:
    """What fails is the lab, for the reason it has, in whichever worker."""
    said = " ".join(str(error.get("message")) for error in written["verify"].iter("error"))
    assert "Connection refused" in said
    assert "IntegrityError" not in said


@pytest.mark.parametrize("run", ["provision", "verify"])
def test_the_suite_says_which_run_of_which_lab_it_was(
    written: dict[str, etree._ElementTree], run: str
) -> None:
    told = {each.get("name"): each.get("value") for each in written[run].iter("property")}
    assert told["lab"] == "attic"
    assert told["mode"] == run
    assert told["virtual"] == "false"
    assert {"run", "rackproof", "python", "pytest"} <= told.keys()


def test_counts_are_those_of_the_cases_as_another_tool_reads_them(
    written: dict[str, etree._ElementTree],
) -> None:
    for tree in written.values():
        (suite,) = JUnitXml.fromstring(etree.tostring(tree))
        ended = Counter(type(result) for case in suite for result in case.result)
        assert suite.tests == len(list(suite))
        assert (suite.errors, suite.failures, suite.skipped) == (ended[Error], ended[Failure], ended[Skipped])
        assert suite.errors > 0


def test_the_failed_step_carries_its_error_and_its_time(written: dict[str, etree._ElementTree]) -> None:
    (error,) = written["provision"].iter("error")
    case = error.getparent()
    assert (case.get("classname"), case.get("name")) == ("provision.steps", "test_server")
    assert "server" in error.get("message", "")
    assert float(case.get("time", "")) > 0


def test_the_schema_refuses_what_the_plugin_refuses(written: dict[str, etree._ElementTree]) -> None:
    tree = written["verify"]
    case = next(tree.iter("testcase"))
    etree.SubElement(case, "properties")
    assert not SCHEMA.validate(tree)
    case.remove(case[-1])
    case.set("file", "checks/check_dns.py")
    assert not SCHEMA.validate(tree)
    del case.attrib["file"]
    assert SCHEMA.validate(tree), SCHEMA.error_log

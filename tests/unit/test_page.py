"""The page of a run: what its first screen says, what it escapes, and that it never costs a run its report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import html  # type: ignore[import-untyped]  # its stubs are another package

from reports.advice import advise
from reports.changes import Changes
from reports.culprits import culprits, nodes_in
from reports.history import About
from reports.page import Material, PageUnwritable, render, write_page
from reports.story import Outcome, Story
from reports.timeline import draw
from tests import page_material as runs
from tests.unit.test_junit import HERE
from tests.unit.test_suite import run_pytest

HOSTILE = "</script></style></title><img src=x onerror=alert(1)>'\"&{{ 7*7 }}\x00\udcff"


def page(folder: Path, material: Material) -> html.HtmlElement:
    return html.fromstring(write_page(folder, material).read_bytes())


def words(element: html.HtmlElement) -> str:
    return " ".join(" ".join(element.itertext()).split())


def section(tree: html.HtmlElement, name: str) -> html.HtmlElement:
    (found,) = tree.xpath(f"//section[@aria-labelledby='{name}']")
    return found


def test_a_proved_run_says_so_and_shows_nothing_wrong(tmp_path: Path) -> None:
    tree = page(tmp_path, runs.proved())
    assert words(tree.find(".//h1")) == "✓ PROVED"
    assert tree.find(".//title").text.startswith("✓ PROVED: hall-3, 22 Nov 2026")
    assert not tree.xpath("//article[contains(@class, 'wrong')]")
    assert words(section(tree, "rack")).count("✓ proved") == 4
    assert "hall-3, quorate" in words(section(tree, "overview"))


def test_the_first_screen_of_a_failed_run_names_the_culprit(tmp_path: Path) -> None:
    (tmp_path / "node4").mkdir()
    (tmp_path / "node4" / "console #1.log").write_text("…")
    tree = page(tmp_path, runs.failed())
    assert words(tree.find(".//h1")) == "✗ NOT PROVED"
    assert "first bad run: this one, last proved 21 Nov 2026" in words(tree.find(".//header"))
    (box,) = tree.xpath("//article[contains(@class, 'wrong')]")
    assert words(box).startswith(
        "✗ node4 · install · no boot script was asked for within 6 min of power-on lab trouble "
        "likely node4 boots in BIOS mode; the lab asks for UEFI last seen node4: dhcp: DISCOVER"
    )
    assert "node4/console%20%231.log" in box.xpath(".//a/@href")
    assert words(section(tree, "rack")).count("✗ wrong") == 1


def test_checks_that_fail_at_one_node_name_it(tmp_path: Path) -> None:
    tree = page(tmp_path, runs.checks_failed())
    (box,) = tree.xpath("//article[contains(@class, 'wrong')]")
    assert words(box).startswith("✗ node3 · install · mtu: largest packet passes (4 cases) came up wrong")
    assert len(section(tree, "failures").xpath(".//pre")) == 4
    install = section(tree, "checks").xpath(".//details")[2]
    assert [words(case).split()[0] for case in install.xpath(".//li")] == ["✗"] * 4 + ["✓"] * 4


def test_several_nodes_that_failed_alike_are_one_culprit() -> None:
    story = Story("lab", ["install"], ["node1", "node10", "node2"])
    said = (
        "node1: no answer\n  last seen: a\nand a second line\nnode10: no answer\n  last seen: b\nnode2: broke"
    )
    story.note(Outcome("step install", "install", "error", 1, acts=True, said=said))
    found = [(each.where, each.what, each.seen) for each in culprits(story)]
    assert found == [(["node1", "node10"], "no answer", "node1: a"), (["node2"], "broke", "")]


def test_what_one_case_alone_says_comes_before_what_every_path_says() -> None:
    story = Story("lab", ["install", "cluster"], ["node1", "node2", "node3"])
    for name in ("mtu: packet_passes[node1-node2]", "mtu: packet_passes[node2-node3]", "mtu: of_port[node2]"):
        story.note(Outcome(name, "install", "failed", 0.1, said="no"))
    story.note(Outcome("corosync: runs[node2]", "cluster", "failed", 0.1, said="no"))
    told = [each.what for each in culprits(story)]
    assert told == ["mtu: of port", "mtu: packet passes (2 cases)", "corosync: runs"]


def test_a_machine_that_is_in_the_way_of_many_checks_is_one_culprit(tmp_path: Path) -> None:
    story = Story("lab", ["server", "power"], ["node1", "node2"])
    refused = "server: ssh root@10.10.1.1:22: Connection refused"
    for name in (
        "dns: name_has_its_address[node1.lab]",
        "dns: name_has_its_address[node2.lab]",
        "nat: works",
    ):
        story.note(Outcome(name, "server", "error", 0.1, said=refused))
    for name, said in (("is_on", "no answer"), ("is_of_this_node", "no answer either")):
        told = f"node2: {said}\n  likely: it is off"
        story.note(Outcome(f"bmc: {name}[node2]", "power", "failed", 0.1, said=told))
    found = [(each.where, each.what, each.likely, each.sort, len(each.outcomes)) for each in culprits(story)]
    assert found == [
        (
            ["server"],
            "ssh root@10.10.1.1:22: Connection refused",
            advise(["Connection refused"]),
            "lab trouble",
            3,
        ),
        (["node2"], "no answer", "it is off", "lab trouble", 2),
    ]
    assert "in the way of 3 checks" in words(section(page(tmp_path, Material("r", "verify", story)), "wrong"))


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("mtu: passes[node4-node3-storage]", ["node4", "node3"]),
        ("dns: name[node1.lab.example.net]", ["node1"]),
        ("dns: name[node1-storage.lab]", ["node1"]),
        ("mtu: passes[node10-x]", ["node10"]),
        ("mtu: passes[rack-a-1-rack-a]", ["rack-a-1", "rack-a"]),
        ("step install", []),
        ("storages: storage_of_pool[rbd]", []),
    ],
)
def test_nodes_of_a_case(name: str, nodes: list[str]) -> None:
    assert nodes_in(name, ["node1", "node10", "node3", "node4", "rack-a", "rack-a-1"]) == nodes


def test_words_from_outside_are_never_markup(tmp_path: Path) -> None:
    material = runs.proved(hostile=HOSTILE)
    material.story.note(Outcome(f"x: y[{HOSTILE}]", "ceph", "failed", 1, said=HOSTILE))
    material.story.note(
        Outcome("step ceph", "ceph", "error", 1, acts=True, said=f"node1{HOSTILE}: {HOSTILE}")
    )
    text = render(tmp_path, material)
    assert "<img" not in text
    assert text.count("<script>") == text.count("</script>") == 1
    assert "{{ 7*7 }}" in text
    tree = page(tmp_path, material)
    assert not tree.xpath("//@onerror")
    assert len(tree.xpath("//script")) == 1


def test_nothing_is_fetched_from_another_host(tmp_path: Path) -> None:
    text = render(tmp_path, runs.failed())
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:src|href)=\"(?:[a-z]+:)?//", text)
    assert not re.search(r"@import|url\(", text)


def test_an_interrupted_run_is_not_proved_and_says_where_it_stood(tmp_path: Path) -> None:
    tree = page(tmp_path, runs.interrupted())
    assert words(tree.find(".//h1")) == "✗ NOT PROVED"
    assert "install · the run was interrupted before it was done" in words(section(tree, "wrong"))
    steps = words(section(tree, "steps"))
    assert "install ▸ interrupted" in steps
    assert steps.count("\u2013 not reached") == 3


@pytest.mark.parametrize("run", [runs.empty, runs.verified])
def test_a_run_without_steps_has_no_picture(tmp_path: Path, run: Callable[[], Material]) -> None:
    tree = page(tmp_path, run())
    assert not tree.xpath("//section[@aria-labelledby='timeline']//svg")
    assert "No step acted in this run" in words(section(tree, "timeline"))


def test_an_empty_run_claims_nothing(tmp_path: Path) -> None:
    assert words(page(tmp_path, runs.empty()).find(".//h1")) == "\u2013 NOTHING CHECKED"


def test_a_large_rack_is_written(tmp_path: Path) -> None:
    tree = page(tmp_path, runs.failed(64, "node37"))
    assert len(tree.xpath("//article[contains(@class, 'card')]")) == 64
    (box,) = tree.xpath("//article[contains(@class, 'wrong')]")
    assert "node37 · install" in words(box)


def test_every_length_of_the_picture_lies_within_it() -> None:
    for material in (runs.proved(64), runs.failed(), runs.interrupted()):
        picture = draw(material.story, material.events, culprits(material.story), {"install": 10_000})
        assert picture
        spans = [*picture.bands, *(span for row in picture.rows for span in row.phases)]
        assert all(0 <= span.left <= span.left + span.width <= 100.2 for span in spans)
        assert all(band.left + band.usual <= 100 for band in picture.bands)
        assert all(0 <= mark.left <= 100 for row in picture.rows for mark in row.marks)
        assert len(picture.ticks) <= 9


def test_phases_go_on_and_never_back() -> None:
    material = runs.proved()
    late = runs.event(300, "dhcp", "ACK", node="node1")
    picture = draw(material.story, [*material.events, late], [], {})
    assert picture
    node1 = next(row for row in picture.rows if row.name == "node1")
    assert [phase.name for phase in node1.phases] == [
        "power", "network boot", "installing", "reboot to disk", "first boot", "ready", "member",
    ]  # fmt: skip


def test_the_row_of_a_node_at_fault_ends_where_its_step_gave_up() -> None:
    material = runs.failed()
    picture = draw(material.story, material.events, culprits(material.story), {})
    assert picture
    assert [row.name for row in picture.rows if row.failed] == ["node4"]
    assert picture.rows[4].marks[-1].sort == "trouble"


def test_a_page_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PageUnwritable) as told:
        write_page(tmp_path / "missing", runs.proved())
    assert len(str(told.value).splitlines()) == 1
    material = runs.proved()
    material.evidence[1].nodes["node1"]["registered"] = float("inf")
    with pytest.raises(PageUnwritable, match="OverflowError"):
        write_page(tmp_path, material)


def test_without_history_nothing_is_said_of_the_past(tmp_path: Path) -> None:
    material = runs.checks_failed()
    assert material.about == About()
    text = words(page(tmp_path, material))
    assert "first bad run" not in text
    assert "usual" not in words(section(page(tmp_path, material), "steps"))


# Takes the page's place in the run's folder, before the run could write it.
IN_THE_WAY = """\
from provision.session import SESSION

def pytest_sessionstart(session):
    (session.config.stash[SESSION].folder / "index.html").mkdir(parents=True)
"""


def test_a_run_leaves_its_page_and_names_it_last(tmp_path: Path) -> None:
    (tmp_path / "attic.yaml").write_text(HERE)
    result = run_pytest(tmp_path, "-m", "verify", "--lab", str(tmp_path / "attic.yaml"), "-k", "bmc")
    assert result.returncode == 1
    path = tmp_path / "out" / "latest" / "index.html"
    assert result.stdout.rstrip().endswith(str(path))
    assert "NOT PROVED" in path.read_text()
    assert "canary-Sesame-1" not in path.read_text()


def test_a_page_that_cannot_be_written_costs_the_run_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "attic.yaml").write_text(HERE)
    (tmp_path / "in_the_way.py").write_text(IN_THE_WAY)
    chosen = ("--lab", str(tmp_path / "attic.yaml"), "-k", "bmc", "-p", "in_the_way")
    result = run_pytest(tmp_path, "-m", "verify", *chosen, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "index.html: not written: IsADirectoryError" in result.stdout
    left = tmp_path / "out" / "latest"
    assert result.stdout.rstrip().endswith(str(left / "junit.xml"))
    assert {"junit.xml", "summary.json", "summary.md", "events.jsonl"} <= {
        path.name for path in left.iterdir()
    }


def test_what_changed_since_the_last_green_run(tmp_path: Path) -> None:
    drifted = words(section(page(tmp_path, runs.drifted()), "changed"))
    assert "node3 7 changes" in drifted
    assert "packages jq 1.7.1-6 → is now absent" in drifted
    assert "compared with green run run-0" in drifted
    rebuilt = words(section(page(tmp_path, runs.rebuilt()), "changed"))
    assert "Nothing changed." in rebuilt
    assert "1 made anew by the install" in rebuilt


@pytest.mark.parametrize(
    ("state", "said"), [("no baseline", "No green run yet"), ("not read", "facts were not read in this run")]
)
def test_why_nothing_is_said_of_changes(tmp_path: Path, state: str, said: str) -> None:
    material = replace(runs.proved(), changes=Changes(state))  # type: ignore[arg-type]
    assert said in words(section(page(tmp_path, material), "changed"))

"""What nginx logs of the boot scripts it served becomes the service's own events, and nothing else does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.boot_service.boot_log import boot_script_events, keep_boot_scripts
from provision.boot_service.flood import FloodGate
from tests.unit.boot_bench import MAC1, MAC2, PERMIT_SECONDS, STORAGE_MAC1, Bench, rack

HEADER = "<190>Nov 22 22:00:01 nginx: "


def line(
    path: str = f"/boot/{MAC1}", who: str = "10.10.1.21", status: Any = 200, header: str = HEADER
) -> str:
    return header + json.dumps({"who": who, "path": path, "status": status})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "boot.db")
    bench.store.put_rack(rack(), bench.clock.now)
    yield bench
    bench.close()


def keep(bench: Bench, *lines: str) -> None:
    bench.runner.run(keep_boot_scripts(bench.service, lines))


@pytest.mark.parametrize(
    "path",
    [f"/boot/{MAC1}", f"/boot/{MAC1}.ipxe", f"/boot/{MAC1.upper()}", f"/boot/{STORAGE_MAC1}",
     f"/grub/{MAC1}", f"/grub/{MAC1}/grub.cfg", f"/boot/{MAC1.replace(':', '-')}"],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, "200"], ids=["number", "text"])
def test_a_served_script_is_that_of_its_node(path: str, status: Any) -> None:
    (served,) = boot_script_events([line(path, status=status)], rack())
    assert (served.node.name, served.who, served.grub) == ("node1", "10.10.1.21", path.startswith("/grub"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        HEADER,
        HEADER + "[]",
        HEADER + '"x"',
        HEADER + "{" * 100_000,
        HEADER + '{"a":' * 1500,
        line(status=404),
        line(status=True),
        line(status=None),
        line(who="10.10.1.22"),
        line(who="10.10.1.99"),
        line(who=""),
        line(f"/boot/{MAC2}"),
        line("/boot/de:ad:be:ef:00:01"),
        line(f"/boot/{MAC1}\n/boot/x"),
        line(f"/boot/{MAC1}/../../etc/passwd"),
        line(f"/boot/../boot/{MAC1}"),
        line(f"//boot/{MAC1}"),
        line(f"/boot/{MAC1}?x"),
        line("/answer/secret-token-0001-0001"),
        line(f"/boot/{'ac' * 3000}"),
        HEADER + json.dumps({"who": ["10.10.1.21"], "path": {"a": 1}, "status": 200}),
        HEADER + json.dumps({"who": "10.10.1.21", "status": 200}),
        HEADER + f'{{"who":"10.10.1.21","path":"/boot/{MAC1}","status":200',
    ],
)
def test_whatever_else_the_log_says_is_passed_over(text: str) -> None:
    assert len(boot_script_events([text, line()], rack())) == 1


@given(st.lists(st.text(max_size=200)), st.text(), st.text())
def test_no_line_is_an_error(lines: list[str], path: str, who: str) -> None:
    assert boot_script_events([*lines, line(path, who)], rack()) == []


def test_the_events_are_those_that_the_service_makes_itself(bench: Bench) -> None:
    asked = []
    for act in (lambda: None, bench.grant, bench.ask):
        act()
        bench.nodes.get(f"/boot/{MAC1}")
        asked.append(bench.last())
        keep(bench, line())
        event = bench.last()
        assert event.seq == asked[-1].seq + 1
        same = ("kind", "text", "node", "run", "lab", "facts")
        assert [getattr(event, name) for name in same] == [getattr(asked[-1], name) for name in same]
    assert [event.text for event in asked] == ["local disk", "installer", "local disk"]
    assert [event.run for event in asked] == [None, "r1", "r1"]


def test_a_rescue_is_named_so(bench: Bench) -> None:
    bench.grant(purpose="rescue", answer=None)
    keep(bench, line())
    assert bench.last().text == "rescue"
    bench.clock.now += PERMIT_SECONDS
    keep(bench, line())
    assert bench.last().text == "local disk"


def test_a_flood_of_lines_is_held_back(bench: Bench) -> None:
    bench.service.handouts = FloodGate(each=3, all_together=100)
    before = bench.store.last_seq()
    asyncio.run(keep_boot_scripts(bench.service, [line()] * 500))
    assert bench.store.last_seq() - before == 3

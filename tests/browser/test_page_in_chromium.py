"""The page of a run in a browser: what is seen first, light, dark, on a phone, on paper, by keyboard, without script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request

from reports.page import Material, write_page
from tests import page_material as runs
from tests.browser.contrast import CONTRAST

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="needs Debian's chromium; ./bootstrap installs it"
)

Show = Callable[..., Page]

LONG = "</script><b>x" + "y" * 60


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    """Opens the page of a run; whatever it complains of, or asks for elsewhere, fails the test."""
    wrong: list[str] = []
    contexts = []

    def asked(request: Request) -> None:
        if not request.url.startswith(("file:", "data:")):
            wrong.append(request.url)

    def open_page(material: Material, width: int = 1280, height: int = 800, **how: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **how))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", asked)
        page.goto(write_page(tmp_path, material).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
@pytest.mark.parametrize("run", [runs.failed(), runs.failed(64, "node37")], ids=["4", "64"])
def test_the_culprit_is_on_the_first_screen(show: Show, run: Material, size: tuple[int, int]) -> None:
    page = show(run, *size)
    box = page.locator(".wrong").bounding_box()
    assert box
    assert box["y"] + box["height"] < size[1]
    assert page.locator("h1").inner_text() == "✗ NOT PROVED"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize(
    "run",
    [runs.proved(hostile=LONG), runs.failed(64, "node37"), runs.checks_failed(), runs.drifted(), runs.empty()],
    ids=["long words", "64 nodes", "checks", "drift", "empty"],
)  # fmt: skip
def test_nothing_is_wider_than_the_screen(show: Show, run: Material, width: int) -> None:
    page = show(run, width)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "run",
    [runs.proved(), runs.failed(), runs.checks_failed(), runs.drifted(), runs.rebuilt()],
    ids=["proved", "failed", "checks", "drift", "rebuilt"],
)
def test_everything_can_be_read_in_both_colours(show: Show, run: Material, scheme: str) -> None:
    page = show(run, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate(CONTRAST) == []


def test_dark_is_dark(show: Show) -> None:
    grounds = [
        show(runs.proved(), color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert grounds == ["rgb(244, 245, 247)", "rgb(20, 23, 28)"]


def test_the_filter_leaves_what_has_all_its_words(show: Show) -> None:
    page = show(runs.checks_failed())
    shown = page.locator("details.group li:not([hidden])")
    everything = shown.count()
    page.keyboard.press("/")
    page.keyboard.type("MTU node3 failed")
    assert shown.count() == 4
    assert page.locator("#count").inner_text() == f"4 of {everything}"
    assert page.locator("details.group:visible").count() == 1
    assert page.locator("li.failed").first.is_visible()
    page.keyboard.press("Escape")
    assert shown.count() == everything
    assert page.locator("details.group[open]").count() == 0


def test_without_script_the_page_says_all_the_same(show: Show) -> None:
    page = show(runs.checks_failed(), java_script_enabled=False)
    assert page.locator("#filter").is_hidden()
    assert page.locator(".wrong").is_visible()
    group = page.locator("details.group").first
    group.locator("summary").click()
    assert group.locator("li").first.is_visible()
    assert page.locator(".plot .item title").count() > 20


def test_what_is_pointed_at_is_said(show: Show) -> None:
    page = show(runs.proved())
    assert page.locator("#told").is_hidden()
    page.locator(".plot .phase.installing").first.hover()
    assert page.locator("#told").inner_text().startswith("node1: installing\n+49.5 s answer: answer of it")


def test_the_picture_is_walked_by_keys(show: Show) -> None:
    page = show(runs.proved())
    page.locator(".plot .row").nth(3).focus()
    said = []
    for _ in range(12):
        said.append(page.locator("#told").inner_text().splitlines()[0])
        page.keyboard.press("ArrowRight")
    assert said[:5] == [
        f"node2: {each}" for each in ("power", "network boot", "installing", "reboot to disk", "first boot")
    ]
    assert all(each.startswith("node2") for each in said)
    page.keyboard.press("Tab")
    assert page.locator("#told").inner_text().startswith("node3: power")


def test_every_control_is_reached_by_tab_and_seen(show: Show) -> None:
    page = show(runs.failed())
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName.toLowerCase()"))
    assert {"a", "summary", "input", "g", "pre"} <= reached


def test_a_link_to_folded_facts_unfolds_them(show: Show) -> None:
    page = show(runs.failed())
    page.locator(".wrong a", has_text="facts of node4").click()
    facts = page.locator("#facts-4")
    facts.locator("h3").first.wait_for()
    assert "SYS-2029TP-HTR" in facts.inner_text()


def test_what_changed_is_found_from_the_nodes_card(show: Show) -> None:
    page = show(runs.drifted())
    page.locator(".card", has_text="node3").get_by_role("link", name="facts changed").click()
    assert page.evaluate("location.hash") == "#changed"
    rows = page.locator(".changes").filter(has=page.get_by_text("node3", exact=True)).locator("li")
    assert rows.count() == 7
    assert "1.7.1-6" in rows.filter(has_text="jq").inner_text()
    assert page.locator(".changes li", has_text="noout").is_visible()
    notices = page.locator(".changes", has_text="no drift, only told")
    assert notices.locator("li").first.is_hidden()


def test_paper_shows_what_was_folded(show: Show) -> None:
    page = show(runs.proved())
    assert page.pdf().startswith(b"%PDF")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    assert page.locator("#filter").is_hidden()


def test_hostile_words_start_nothing(show: Show) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\"></title></script></style><script>document.title='owned'</script>"
    page = show(runs.proved(hostile=hostile))
    assert page.title().startswith("✓ PROVED: hall-3<img")
    assert page.locator("img").count() == 0

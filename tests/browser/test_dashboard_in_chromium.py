"""The dashboard in a browser: live without reload, log-in, actions, hostile nodes, restart, keyboard, phone, dark."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvicorn
from playwright._impl._api_structures import SetCookieParam
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect

from provision.boot_service.accounts import Accounts
from provision.boot_service.gate import COOKIE
from provision.boot_service.people_api import PeopleApi
from provision.boot_service.service import Service
from provision.boot_service.store import Store
from tests.browser.contrast import CONTRAST
from tests.dashboard_material import PASSWORDS, Played, PlayedActions, busy_rack, cheap_hashes

# How long a page takes on a machine that others use, too, is no outcome of a test.
expect.set_options(timeout=30_000)

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="needs Debian's chromium; ./bootstrap installs it"
)
PICTURES = Path(os.environ.get("RACKPROOF_PICTURES", Path(__file__).parents[2] / "reports/out/dashboard"))
"""Where the pictures of every page are kept."""


class Served:
    """The people's socket over TLS on loopback, in a thread; it can be ended and begun again."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self._folder = store, folder
        self.listener_port = 0
        self.hands: PlayedActions
        self._powers: dict[str, str] = {}
        self._sessions: dict[str, str] = {}
        self._certificate = trustme.CA().issue_cert("localhost")
        self.begin()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.listener_port}"

    def begin(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.listener_port))
        self.listener_port = listener.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener, ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def session(self, who: str) -> str:
        """A session of somebody, without the form."""
        if who not in self._sessions:
            session = Accounts(self.store).log_in(who, PASSWORDS[who], "127.0.0.1", time.time())
            assert session
            self._sessions[who] = session
        return self._sessions[who]

    def tell(self, job: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have something kept as the service itself keeps it, so that whoever listens hears of it."""
        return asyncio.run_coroutine_threadsafe(self._service.work(job, *args, **kwargs), self._loop).result(
            10
        )

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._service = Service(self.store)
        self.hands = PlayedActions(self._service, self._powers)
        app = PeopleApi(self._service, self.hands).app()
        config = uvicorn.Config(
            app, lifespan="off", log_level="warning", ws="none", timeout_graceful_shutdown=1
        )
        config.load()
        config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificate.configure_cert(config.ssl)
        self._server = uvicorn.Server(config)
        self._loop.call_soon(ready.set)
        await self._server.serve([listener])
        # TLS would wait for the browser to say goodbye.
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))

    def _stop(self) -> None:
        self._service.stop()
        self._server.should_exit = True


@pytest.fixture(scope="module", autouse=True)
def cheap() -> Iterator[None]:
    with cheap_hashes():
        yield


@pytest.fixture
def rack(tmp_path: Path) -> Played:
    return busy_rack(tmp_path, time.time())


@pytest.fixture
def served(rack: Played, tmp_path: Path) -> Iterator[Served]:
    served = Served(rack.store, tmp_path)
    served.hands.powers.update(
        {"node1": "on", "node2": "on", "node3": "off", "node4": "on", "node5": "silent"}
    )
    yield served
    served.end()
    rack.store.close()


Show = Callable[..., Page]


@pytest.fixture
def show(browser: Browser, served: Served) -> Iterator[Show]:
    """Opens a page as somebody; whatever it complains of, or asks for elsewhere, fails the test."""
    wrong: list[str] = []
    contexts: list[BrowserContext] = []

    def asked(request: Request) -> None:
        if not request.url.startswith((served.url, "data:")):
            wrong.append(request.url)

    def open_page(
        path: str = "/", who: str | None = "otto", width: int = 1280, height: int = 800, **how: Any
    ) -> Page:
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": height},
                ignore_https_errors=True,
                base_url=served.url,
                **how,
            )
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", asked)
        page.wrong = wrong  # type: ignore[attr-defined]
        if who:
            cookie: SetCookieParam = {
                "name": COOKIE,
                "value": served.session(who),
                "url": served.url,
                "secure": True,
                "httpOnly": True,
                "sameSite": "Strict",
            }
            contexts[-1].add_cookies([cookie])
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def log_in(page: Page, who: str, password: str | None = None) -> None:
    page.get_by_label("Name").fill(who)
    page.get_by_label("Password").fill(password or PASSWORDS[who])
    page.get_by_role("button", name="Log in").click()


def row(page: Page, node: str) -> Any:
    return page.locator("table.rack tbody tr", has=page.get_by_role("link", name=node, exact=True))


def keep(page: Page, name: str) -> None:
    """Keep a picture of the whole page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


PAGES = {
    "login": "/login",
    "rack": "/",
    "timeline": "/timeline",
    "node": "/nodes/node1",
    "failed-node": "/nodes/node4",
    "audit": "/audit",
}


@pytest.mark.parametrize("how", ["light", "dark", "phone"])
def test_every_page_fits_and_can_be_read(show: Show, how: str) -> None:
    width = 360 if how == "phone" else 1280
    page = show("/login", None, width, color_scheme="dark" if how == "dark" else "light")
    for name, path in PAGES.items():
        if name == "rack":
            log_in(page, "otto")
        else:
            page.goto(path)
        page.wait_for_load_state()
        if name == "rack":
            expect(row(page, "node1")).to_contain_text("● on")
        if name not in ("login",):
            expect(page.locator("#link .text")).to_have_text("live")
        keep(page, f"{name}-{how}")
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate(CONTRAST) == [], name


def test_a_run_is_watched_without_reload(show: Show, served: Served, rack: Played) -> None:
    page, picture, one = show("/"), show("/timeline"), show("/nodes/node5")
    for each in (page, picture, one):
        expect(each.locator("#link .text")).to_have_text("live")
        each.evaluate("window.notReloaded = true")
    expect(row(page, "node5")).to_contain_text("permitted")
    for phase in ("dhcp", "boot-script", "answer", "installed", "first-boot", "registered"):
        served.tell(rack.reach, "node5", phase, time.time())
        expect(row(page, "node5").locator(".phase")).to_contain_text(phase)
        expect(page.locator("#news")).to_contain_text("node5")
    expect(row(page, "node5")).to_contain_text("✓ registered")
    expect(row(page, "node5").locator("code")).to_have_text("5f2a9c1e")
    served.tell(
        rack.run,
        time.time(),
        time.time() - 300,
        server="done",
        power="done",
        install="done",
        cluster="running",
    )
    expect(page.locator(".steps .running")).to_contain_text("cluster")
    expect(picture.locator(".plot .row", has_text="node5").locator("rect.phase.first-boot")).to_have_count(1)
    expect(one.locator(".events .kind").first).to_have_text("registered")
    expect(one.locator("h1")).to_contain_text("registered")
    assert all(each.evaluate("window.notReloaded") for each in (page, picture, one))


def test_who_does_not_log_in_sees_nothing(show: Show, served: Served) -> None:
    page = show("/nodes/node1", None)
    assert page.url.endswith("/login")
    log_in(page, "otto", "not his password")
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    keep(page, "login-refused")
    assert "node1" not in page.content()
    log_in(page, "otto")
    expect(page.get_by_role("heading", name="Rack hall-3")).to_be_attached()
    cookie = page.context.cookies()[0]
    assert (cookie["name"], cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (
        "__Host-rackproof",
        True,
        True,
        "Strict",
        "/",
    )
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto("/")
    assert page.url.endswith("/login")
    page.wrong.clear()  # type: ignore[attr-defined]  # Chromium's own line for the 403


def test_a_viewer_looks_and_does_not_touch(show: Show, served: Served) -> None:
    page = show("/nodes/node1", "vera")
    assert page.get_by_role("heading", name="Actions").count() == 0
    assert page.get_by_role("link", name="Audit").count() == 0
    csrf = page.locator("form.me input[name=csrf]").input_value()
    statuses = [page.request.post(f"{served.url}/nodes/node1/power", form={"csrf": csrf, "how": "off"}).status,
                page.request.get(f"{served.url}/audit").status]  # fmt: skip
    assert statuses == [403, 403]
    assert served.hands.done == []


def test_power_and_permit_by_an_operator(show: Show, served: Served) -> None:
    page = show("/nodes/node3")
    expect(page.locator("dl .quiet", has_text="off")).to_be_visible()
    page.get_by_role("button", name="on", exact=True).click()
    expect(page.locator("#outcome")).to_contain_text("power on: done")
    expect(page.locator("dl.columns")).to_contain_text("● on")
    expect(page.locator(".events")).to_contain_text("otto: power on: done")
    page.get_by_label("Install anew").fill("node1")
    page.get_by_role("button", name="permit and install").click()
    expect(page.locator("#outcome")).to_contain_text("type node3 to mean it")
    keep(page, "node-action")
    page.get_by_label("Install anew").fill("node3")
    page.keyboard.press("Enter")
    expect(page.locator("#outcome")).to_contain_text("permit an install: done")
    page.get_by_role("button", name="disk").click()
    expect(page.locator("#outcome")).to_contain_text("boot once disk: done")
    assert served.hands.done == [
        ("otto", "node3", "power", "on"),
        ("otto", "node3", "permit an install"),
        ("otto", "node3", "boot once", "disk"),
    ]
    page.goto("/audit")
    expect(page.locator("table.audit tbody tr").first).to_contain_text("boot once disk")


def test_what_was_typed_and_unfolded_stays(show: Show, served: Served, rack: Played) -> None:
    page = show("/nodes/node1")
    page.get_by_label("Install anew").fill("nod")
    page.locator("#boot-script summary").click()
    served.tell(rack.tell, time.time(), "node1", "dhcp")
    expect(page.locator(".events .kind").first).to_have_text("dhcp")
    assert page.get_by_label("Install anew").input_value() == "nod"
    expect(page.locator("#boot-script pre")).to_be_visible()


HOSTILE = "<img src=x onerror=\"document.title='owned'\">\"'></title></script></pre><script>document.title='owned'</script>{{7*7}}"


def test_hostile_nodes_start_nothing(show: Show, served: Served, rack: Played) -> None:
    now = time.time()
    rack.reach("node5", "dhcp", now, vendor_class=HOSTILE)
    facts: dict[str, Any] = {"fqdn": HOSTILE, "serial": HOSTILE, "product": HOSTILE, HOSTILE: HOSTILE, "disks": [{"model": HOSTILE, HOSTILE: HOSTILE}], "nics": [{"name": HOSTILE}],
                             "dmi": {"system": {"serial": HOSTILE}}, "ssh_host_keys": [HOSTILE]}  # fmt: skip
    rack.reach("node5", "answer", now, dmi={"system": {"serial": HOSTILE}})
    rack.tell(now, "node5", "installed", HOSTILE, **facts)
    rack.tell(now, "node5", HOSTILE, HOSTILE)
    rack.tell(now, "node5", "registered", HOSTILE, nonce=HOSTILE, log=HOSTILE)
    rack.tell(now, "node5", "installer", HOSTILE, log=HOSTILE)
    rack.tell(now, None, "refused", HOSTILE, who=HOSTILE, what=HOSTILE, why=HOSTILE)
    rack.tell(now, "node5", "action", HOSTILE, who=HOSTILE, action=HOSTILE, outcome=HOSTILE)
    rack.tell(now, "node4", "failed", HOSTILE, log=HOSTILE)
    pages = [show(path) for path in ("/", "/timeline", "/audit", "/nodes/node5", "/nodes/node4")]
    served.tell(rack.tell, time.time(), "node5", "failed", HOSTILE, log=HOSTILE)
    for page in pages:
        expect(page.locator("#link .text")).to_have_text("live")
        expect(page.locator("#live")).to_contain_text("onerror") if "timeline" not in page.url else None
        assert page.locator("img, #live script, main script").count() == 0
        assert "owned" not in page.title()
        assert "49" not in page.title()
    expect(pages[0].locator("#news")).to_contain_text("<img src=x")


def test_it_says_when_it_is_not_connected_and_comes_back(show: Show, served: Served, rack: Played) -> None:
    page = show("/")
    expect(page.locator("#link .text")).to_have_text("live")
    page.evaluate("window.notReloaded = true")
    served.end()
    expect(page.locator("#link .text")).to_contain_text("not connected for")
    age = row(page, "node1").locator("time").first
    before = age.inner_text()
    expect(page.locator("#link .text")).to_contain_text("not connected for 3 s")
    keep(page, "rack-not-connected")
    assert age.inner_text() == before, "a time went on though nothing is known"
    rack.reach("node5", "dhcp", time.time())
    served.begin()
    expect(page.locator("#link .text")).to_have_text("live", timeout=15000)
    expect(row(page, "node5").locator(".phase")).to_contain_text("dhcp")
    served.tell(rack.reach, "node5", "boot-script", time.time())
    expect(row(page, "node5").locator(".phase")).to_contain_text("boot-script")
    assert page.evaluate("window.notReloaded")
    page.wrong.clear()  # type: ignore[attr-defined]  # Chromium's own lines for the broken connection


def test_all_of_it_by_keyboard(show: Show, served: Served) -> None:
    page = show("/login", None)
    page.keyboard.type("otto")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORDS["otto"])
    page.keyboard.press("Enter")
    expect(page.locator("#link .text")).to_have_text("live")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    _tab_to(page, "node2")
    focus = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert focus == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/nodes/node2")
    expect(page.locator("#link .text")).to_have_text("live")
    _tab_to(page, "cycle")
    page.keyboard.press("Enter")
    expect(page.locator("#outcome")).to_contain_text("power cycle: done")
    assert page.evaluate(
        "document.querySelectorAll('input:not([type=hidden]), button').length"
    ) == page.evaluate(
        "[...document.querySelectorAll('input:not([type=hidden]), button')].filter((e) => e.labels?.length || e.textContent.trim()).length"
    )
    assert (
        page.get_by_role("main").count()
        == page.get_by_role("banner").count()
        == page.get_by_role("navigation").count()
        == 1
    )


def _tab_to(page: Page, text: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == text:
            return
    raise AssertionError(f"{text} is not reached by Tab")


def test_focus_stays_when_news_come(show: Show, served: Served, rack: Played) -> None:
    page = show("/")
    expect(page.locator("#link .text")).to_have_text("live")
    page.get_by_role("link", name="node3").focus()
    served.tell(rack.reach, "node5", "dhcp", time.time())
    expect(row(page, "node5").locator(".phase")).to_contain_text("dhcp")
    assert page.evaluate("document.activeElement.textContent") == "node3"


def test_a_session_that_ends_shows_nothing_more(show: Show, served: Served, rack: Played) -> None:
    page = show("/")
    expect(page.locator("#link .text")).to_have_text("live")
    with rack.store.writing() as connection:
        connection.exec_driver_sql("delete from sessions")
    served.tell(rack.reach, "node5", "dhcp", time.time())
    page.wait_for_url("**/login")
    page.wrong.clear()  # type: ignore[attr-defined]  # Chromium's own line for the 401


def test_without_script_pages_and_actions_work(show: Show, served: Served) -> None:
    page = show("/nodes/node2", java_script_enabled=False)
    page.get_by_role("button", name="cycle").click()
    expect(page.locator(".events")).to_contain_text("power cycle: done")
    assert served.hands.done == [("otto", "node2", "power", "cycle")]


def test_sixty_four_nodes_are_shown_at_once(browser: Browser, tmp_path: Path) -> None:
    rack = Played(tmp_path, 64, time.time() - 600)
    now = time.time() - 500
    for number, name in enumerate(rack.names):
        rack.go(name, ("answer", "installed", "first-boot", "registered")[number % 4], now + number, 6)
    rack.run(
        now + 100,
        now,
        server="done",
        power="done",
        install="running",
        cluster="waiting",
        ceph="waiting",
        templates="waiting",
    )
    served = Served(rack.store, tmp_path)
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, ignore_https_errors=True, base_url=served.url
    )
    page = context.new_page()
    page.goto("/login")
    log_in(page, "otto")
    for name, path in (("rack-64", "/"), ("timeline-64", "/timeline")):
        page.goto(path)
        keep(page, name)
    context.close()
    served.end()
    rack.store.close()

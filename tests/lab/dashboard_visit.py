"""A person at the dashboard of a standing lab, in a real browser; run in the lab's network by test_dashboard.py.

Prints as JSON what was seen: python dashboard_visit.py SECRETS_FILE.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

URL = "https://10.10.1.1"
MINUTE = 60_000


def log_in(browser: Browser, name: str, password: str) -> Page:
    # The certificate is the server's own; what pins it is not under test here.
    page = browser.new_context(ignore_https_errors=True, base_url=URL).new_page()
    page.goto("/")
    page.fill("#name", name)
    page.fill("#password", password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{URL}/")
    return page


def watched(page: Page, node: str) -> list[str]:
    """The states of a node's row from now on, by a page that is never loaded again, until it is complete."""
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=node, exact=True))
    page.evaluate("window.sameDocument = true")
    expect(row.get_by_text("installing")).to_be_visible(timeout=MINUTE)
    states = [row.inner_text()]
    expect(row.get_by_text("✓ registered")).to_be_visible(timeout=MINUTE)
    states.append(row.inner_text())
    assert page.evaluate("window.sameDocument") is True, "the page was loaded again"
    return states


def visit(browser: Browser, secrets: dict[str, str]) -> dict[str, Any]:
    viewer = log_in(browser, "viewer", secrets["viewer_password"])
    viewer.goto("/nodes/node4")
    sees = {"buttons of the viewer": [each.inner_text() for each in viewer.get_by_role("button").all()]}
    rack = log_in(browser, "operator", secrets["operator_password"])
    operator = rack.context.new_page()
    operator.goto("/nodes/node4")
    operator.fill("#confirmed", "node3")
    operator.get_by_role("button", name="permit and install").click()
    expect(operator.get_by_text("type node4 to confirm").first).to_be_visible(timeout=MINUTE)
    operator.fill("#confirmed", "node4")
    operator.get_by_role("button", name="permit and install").click()
    states = watched(rack, "node4")
    operator.get_by_role("button", name="off", exact=True).click()
    expect(operator.get_by_text("power off: done").first).to_be_visible(timeout=MINUTE)
    operator.goto("/audit")
    return sees | {"states": states, "audit": operator.get_by_role("main").inner_text()}


def main() -> None:
    secrets = json.loads(Path(sys.argv[1]).read_text())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        print(json.dumps(visit(browser, secrets)))
        browser.close()


if __name__ == "__main__":
    main()

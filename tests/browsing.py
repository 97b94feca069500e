"""The endpoint's page in a real browser."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("NO BROWSER: install chromium to test the page")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic"])
        yield browser
        browser.close()


@contextmanager
def page_at(address: str, browser: Browser) -> Iterator[Page]:
    """The page, in a window of a phone's size; whatever the browser complains of fails the test."""
    context = browser.new_context(viewport={"width": 375, "height": 740}, permissions=["clipboard-read", "clipboard-write"])
    page, complaints = context.new_page(), []
    page.on("console", lambda message: "status of 400" in message.text or complaints.append(message.text))  # some are asked for
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((address, "data:")) else complaints.append(request.url))
    page.goto(address)
    expect(page.locator("#model")).to_contain_text("version")
    yield page
    context.close()
    assert not complaints


def draw(page: Page) -> None:
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("status")).to_contain_text("images in", timeout=30_000)

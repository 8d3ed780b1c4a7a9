"""A headless Chromium for tests of pages, and a page that remembers what it complained about."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
# A machine that does much else may take long: no test waits for time to pass.
LONGEST_MS = 300_000
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield chromium
        chromium.close()


class Opened:
    """A page in a browser, with all that it complained about and asked for."""

    def __init__(
        self,
        browser: Any,
        url: str,
        width: int = 1200,
        scheme: str = "light",
        ready: str = "html[data-ready]",
    ) -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(LONGEST_MS)
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector(ready)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def quiet(self, *origins: str) -> bool:
        """No complaint, and nothing asked for but the page's own origins and what it holds."""
        outside = [
            url for url in self.asked if not url.startswith(("file:", "data:", "blob:", *origins))
        ]
        assert not self.complaints
        assert not outside
        return True

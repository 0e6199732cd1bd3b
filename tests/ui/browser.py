"""Debian's Chromium, and what is looked for on each page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, sync_playwright

SERIOUS = {"serious", "critical"}
LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "is_mobile": True, "has_touch": True},
    "phone-dark": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "dark",
        "is_mobile": True,
        "has_touch": True,
    },
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
}


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser; root may start it too."""
    path = shutil.which("chromium")
    assert path is not None, "no chromium; run tests/install_chromium.sh"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """What a page did while it was open.

    Attributes:
        complaints: Of the console, of its scripts, and of its policy.
        elsewhere: Addresses that are not the service's.
    """

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    _finished: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda said: said.type in {"error", "warning"} and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._check(request.url))
        self.page.on("requestfinished", self._keep)

    def _keep(self, request: Request) -> None:
        self._finished.append(request)

    def _check(self, url: str) -> None:
        if not url.startswith(self.base):
            self.elsewhere.append(url)

    @property
    def weight_bytes(self) -> int:
        """What came over the wire so far, headers left out; event streams go on and do not count."""
        return sum(request.sizes()["responseBodySize"] for request in self._finished)


def violations(page: Page) -> list[dict[str, Any]]:
    """What axe-core finds on a page."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return found


def told(found: list[dict[str, Any]]) -> str:
    """Violations in words: rule, impact and the first elements."""
    return "\n".join(
        f"{each['id']} ({each['impact']}): {[node['html'] for node in each['nodes'][:3]]}" for each in found
    )

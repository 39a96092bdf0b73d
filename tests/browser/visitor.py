"""Somebody who looks at pages with a browser."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page

#: Seconds for anything that a page is waited for.
PAGE_SECONDS = 30.0

#: Says on the console what a page's policy forbade.
WATCH = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`forbidden: ${event.violatedDirective} ${event.blockedURI}`));
"""


class Visitor:
    """One browser with cookies of its own, and what its pages said."""

    def __init__(self, chromium: "Browser") -> None:
        self._chromium = chromium
        self._context: BrowserContext | None = None
        #: Errors and warnings of pages, but for requests that failed where `forgives` says that they may.
        self.complaints: list[str] = []
        self.forgives_failed_requests = False
        #: What dialogs asked; each is answered with `agrees`.
        self.dialogs: list[str] = []
        self.agrees = False

    def come(self, **options: Any) -> "BrowserContext":
        """The browser, with Playwright's options of a context where this is the first call."""
        if self._context is None:
            context = self._context = self._chromium.new_context(**options)
            context.set_default_timeout(PAGE_SECONDS * 1000)
            context.add_init_script(WATCH)
            context.on("console", self._hear)
            context.on("weberror", lambda error: self.complaints.append(f"{error.page.url}: {error.error}"))
        return self._context

    def open(self, url: str) -> "Page":
        """A page in a tab of its own, with a mark that a reload takes away, connected where it is one that is kept up
        to date."""
        from playwright.sync_api import expect

        expect.set_options(timeout=PAGE_SECONDS * 1000)
        page = self.come().new_page()
        page.on("dialog", self._answer)
        page.goto(url)
        page.evaluate("() => { window.mark = 'as it was opened'; }")
        if page.locator("body[data-events]").count():
            expect(page.locator("#connection")).to_have_text("live")
        return page

    def leave(self) -> None:
        """Close every page."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def _hear(self, message: "ConsoleMessage") -> None:
        is_failed_request = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not (is_failed_request and self.forgives_failed_requests):
            self.complaints.append(f"{message.location}: {message.text}")

    def _answer(self, dialog: "Dialog") -> None:
        self.dialogs.append(dialog.message)
        if self.agrees:
            dialog.accept()
        else:
            dialog.dismiss()


def is_as_opened(page: "Page") -> bool:
    """Whether a page was not loaded again since it was opened."""
    return bool(page.evaluate("() => window.mark === 'as it was opened'"))


def until(page: "Page", what: str, happened: Callable[[], object]) -> None:
    """Return once `happened()` is true, while the page goes on; fail with `what` at the deadline."""
    for _ in range(int(PAGE_SECONDS / 0.05)):
        if happened():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within {PAGE_SECONDS} seconds: {what}")

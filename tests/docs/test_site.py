"""The built site works in a browser: links, search, equations, both themes, narrow screens.

LRA_SITE is the folder that `sphinx-build -W docs site` wrote. LRA_CHROMIUM names the browser, if it
is not on the path.
"""

import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if "LRA_SITE" not in os.environ:
    pytest.skip("LRA_SITE names no built site", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")

SITE = Path(os.environ["LRA_SITE"]).resolve()
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if not {"_static", "_modules", "_sources"} & set(path.relative_to(SITE).parts)
)
BROWSER = os.environ.get("LRA_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that fails its test after an error in its scripts or a missing file."""
    faults: list[str] = []
    with browser.new_context(base_url=address) as context:
        page = context.new_page()
        page.route("**/*", lambda route: _stay_local(route, address))
        page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
        page.on("response", lambda r: r.status >= 400 and faults.append(f"{r.status} {r.url}"))
        yield page
    assert faults == []


def _stay_local(route: Any, address: str) -> None:
    if route.request.url.startswith(address):
        route.continue_()
    else:
        route.abort()


def test_every_internal_link_leads_somewhere() -> None:
    lychee = shutil.which("lychee")
    if lychee is None:
        pytest.skip("there is no lychee")
    pages = [str(SITE / page) for page in PAGES]
    done = subprocess.run(
        [lychee, "--offline", "--include-fragments", "--no-progress", *pages],
        capture_output=True, text=True, check=False, cwd=SITE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("width", [400, 1280])
def test_no_page_is_wider_than_the_screen(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    wide = []
    for name in PAGES:
        page.goto(name)
        excess = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
        if excess > 0:
            wide.append(f"{name}: {excess} px")
    assert wide == []


def test_images_load_and_are_described(page: Any) -> None:
    wrong = []
    for name in PAGES:
        page.goto(name, wait_until="load")
        script = "[...document.images].filter(i => !i.naturalWidth || !i.alt).map(i => i.src)"
        wrong += [f"{name}: {source}" for source in page.evaluate(script)]
    assert wrong == []


def test_equations_are_typeset(page: Any) -> None:
    page.goto("rules/lra-e.html", wait_until="load")
    assert page.locator(".katex").count() > 3
    assert page.locator(".katex-error").count() == 0
    assert page.evaluate("document.fonts.ready.then(() => document.fonts.check('12px KaTeX_Main'))")


def test_no_equation_is_wrong(page: Any) -> None:
    wrong = []
    for name in PAGES:
        page.goto(name, wait_until="load")
        found = page.locator(".katex-error, .math:not(:has(.katex))").all_inner_texts()
        wrong += [f"{name}: {text}" for text in found]
    assert wrong == []


@pytest.mark.parametrize(
    ("words", "expected"), [("MirroredLRA", "rules/mirrored-lra"), ("loss_terms", "losses")]
)
def test_search_finds(page: Any, words: str, expected: str) -> None:
    page.goto(f"search.html?q={words}")
    page.wait_for_selector("p.search-summary:has-text('found')")  # it adds them one by one
    targets = [link.get_attribute("href") for link in page.locator("ul.search li a").all()]
    assert any(expected in (target or "") for target in targets), targets


BRIGHTNESS = """(element, property) =>
    getComputedStyle(element)[property].match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"""


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_both_themes_have_contrast(browser: Any, address: str, mode: str) -> None:
    with browser.new_context(base_url=address, color_scheme=mode) as context:
        page = context.new_page()
        page.goto("index.html")
        assert page.locator("html").get_attribute("data-theme") == mode
        text = page.locator("article p").first.evaluate(BRIGHTNESS, "color")
        background = page.locator("body").evaluate(BRIGHTNESS, "backgroundColor")
    assert (text - background) * (1 if mode == "dark" else -1) > 300

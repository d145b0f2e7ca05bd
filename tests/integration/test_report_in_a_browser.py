"""report.html of a run on drawn faces in headless Chromium, at desktop width and at a phone's, without a network:

apt-get install -y chromium; pip install playwright
python -m pytest -m long tests/integration/test_report_in_a_browser.py --basetemp screens    # keeps the screenshots
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.drawn_road import run, write_config

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install -y chromium"),
]


@pytest.fixture(scope="module")
def report(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    return run(write_config(folder, drawn)) / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report(report: Path, browser: Any, tmp_path: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url) if request.url[:5] not in ("file:", "data:") else None)
    page.goto(report.as_uri())
    for picture in page.locator("img").all():
        picture.scroll_into_view_if_needed()
    assert page.evaluate("[...document.images].every(each => each.complete && each.naturalWidth > 20)")
    assert page.evaluate("document.images.length") > 3
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    cut = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, p, dd, img, figure, .card')].filter(each => each.checkVisibility()"
        " && each.getBoundingClientRect().right > window.innerWidth + 1).map(each => each.outerHTML.slice(0, 200))"
    )
    assert cut == []
    lost = page.evaluate("[...document.querySelectorAll('nav a')].filter(each => !document.querySelector(each.hash))")
    assert lost == []
    first_screen = page.evaluate("document.querySelector('.warnings').getBoundingClientRect().bottom + window.scrollY")
    assert first_screen < (700 if width > 600 else 1100)
    page.screenshot(path=str(tmp_path / f"{width}.png"), full_page=True)
    assert said == []
    context.close()

"""The page from end to end in headless Chromium, at desktop width in English and at a phone's in Korean. A minute:

apt-get install -y chromium; pip install playwright
python -m pytest -m long tests/integration/test_page_in_a_browser.py --basetemp screens    # keeps the screenshots there
"""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.predictor import Predictor, find_checkpoint
from scripts.demo_data.faces import draw_photograph
from scripts.demo_data.people import imagine_person
from tests.integration.workplace import ROOT, copy_into
from utils.images.decoding import decode_rgb

pytest.importorskip("streamlit")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install -y chromium"),
]

WORDS = {
    "en-US": ("Camera", "Drawn sample", "Show what the model looked at", "Sorry", "Download as CSV", "Runs"),
    "ko-KR": ("카메라", "그린 예시", "모델이 본 부분 보기", "죄송합니다", "CSV 내려받기", "학습 기록"),
}
SIZES = {"en-US": (1280, 900), "ko-KR": (390, 844)}
SECONDS = 60


def face(number: int) -> bytes:
    file = BytesIO()
    Image.fromarray(draw_photograph(imagine_person(1, "browser", number), "mask1")).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(made_data: Path, made_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run, as the page is opened in."""
    folder = tmp_path_factory.mktemp("page")
    copy_into(made_data, folder)
    copy_into(made_run, folder / "saved")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Of the page, served as the command in the README serves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--server.port", str(port), "--server.headless", "true"]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"), *options]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(SECONDS * 10):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=SECONDS)
    assert "Traceback" not in (folder / "server.log").read_text()


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Any]:
    """Its camera shows a drawn face."""
    camera = folder / "camera.mjpeg"
    camera.write_bytes(face(9) * 3)
    options = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as started:
        options.append(f"--use-file-for-fake-video-capture={camera}")
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


def settle(page: Any) -> None:
    """Until the server has answered."""
    page.wait_for_timeout(300)
    page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')", timeout=SECONDS * 1000)
    page.wait_for_timeout(700)


def check_looks(page: Any, file: Path, size: tuple[int, int]) -> None:
    """Nothing is wider than the window, and no error is shown; a screenshot of the whole page is kept."""
    main = "(document.querySelector('[data-testid=stMain]'))"
    assert page.evaluate(f"{main}.scrollWidth - {main}.clientWidth") <= 0
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    cut = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, p, label, button, img')].filter(each => each.checkVisibility()"
        " && each.getBoundingClientRect().right > window.innerWidth + 1).map(each => each.outerHTML.slice(0, 200))"
    )
    assert cut == []
    assert page.locator("[data-testid=stException]").count() == 0
    page.set_viewport_size({"width": size[0], "height": max(size[1], page.evaluate(f"{main}.scrollHeight") + 20)})
    page.wait_for_timeout(500)
    page.screenshot(path=str(file))
    page.set_viewport_size({"width": size[0], "height": size[1]})


def bars(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("[data-testid=stProgress] p").all_inner_texts()]


def expected_bars(predictor: Predictor, data: bytes) -> list[str]:
    predicted = predictor.predict_image(decode_rgb(data, "image"))
    return [f"{name} · {value:.1%}" for classes in predicted.values() for name, value in classes.items()]


@pytest.mark.parametrize("locale", WORDS)
def test_the_page(address: str, browser: Any, folder: Path, tmp_path: Path, locale: str) -> None:
    camera, sample, look, sorry, download, runs = WORDS[locale]
    width, height = SIZES[locale]
    (run,) = (folder / "saved").glob("models/*/*")
    predictor = Predictor.from_checkpoint(find_checkpoint(run))
    context = browser.new_context(viewport={"width": width, "height": height}, locale=locale)
    context.grant_permissions(["camera"])
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("input[type=file]", timeout=2 * SECONDS * 1000, state="attached")
    settle(page)
    check_looks(page, tmp_path / "1_open.png", SIZES[locale])

    files = [
        {"name": "하나.jpg", "mimeType": "image/jpeg", "buffer": face(1)},
        {"name": "two.jpg", "mimeType": "image/jpeg", "buffer": face(2)},
        {"name": "page.jpg", "mimeType": "image/jpeg", "buffer": b"<html>not found</html>"},
    ]
    page.locator("input[type=file]").first.set_input_files(files[0])
    page.wait_for_selector("[data-testid=stProgress]", timeout=SECONDS * 1000)
    settle(page)
    assert bars(page) == expected_bars(predictor, face(1))
    page.get_by_text(look, exact=True).click()
    page.wait_for_function("document.querySelectorAll('[data-testid=stImage]').length == 3", timeout=SECONDS * 1000)
    settle(page)
    check_looks(page, tmp_path / "2_looked_at.png", SIZES[locale])

    page.locator("input[type=file]").first.set_input_files(files[1:])
    page.wait_for_selector("[data-testid=stDataFrame]", timeout=SECONDS * 1000)
    settle(page)
    (warning,) = page.locator("[data-testid=stAlert]").all_inner_texts()
    assert sorry in warning
    assert "page.jpg" in warning
    with page.expect_download() as started:
        page.get_by_text(download, exact=True).click()
    rows = list(csv.DictReader(Path(started.value.path()).read_text(encoding="utf-8-sig").splitlines()))
    assert [next(iter(row.values())) for row in rows] == ["하나.jpg", "two.jpg"]
    for number, row in enumerate(rows, start=1):
        predicted = predictor.predict_image(decode_rgb(face(number), "image"))
        expected = {f"{name} {text}": value for name, classes in predicted.items() for text, value in classes.items()}
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=1e-6)
    check_looks(page, tmp_path / "3_several.png", SIZES[locale])

    page.get_by_text(camera, exact=True).first.click()
    page.locator("[data-testid=stCameraInputButton]").click(timeout=SECONDS * 1000)
    page.wait_for_selector("[data-testid=stProgress]", timeout=SECONDS * 1000)
    settle(page)
    shares = np.array([float(bar.rpartition(" ")[2].rstrip("%")) for bar in bars(page)])
    assert [shares[:3].sum(), shares[3:5].sum(), shares[5:].sum()] == pytest.approx([100] * 3, abs=0.2)
    check_looks(page, tmp_path / "4_camera.png", SIZES[locale])

    page.get_by_text(sample, exact=True).first.click()
    settle(page)
    assert len(bars(page)) == 8
    check_looks(page, tmp_path / "5_sample.png", SIZES[locale])

    page.get_by_role("tab").get_by_text(runs, exact=True).click()
    settle(page)
    assert page.get_by_text(run.name).locator("visible=true").count() > 0  # its folder, below what is known of it
    check_looks(page, tmp_path / "6_runs.png", SIZES[locale])
    context.close()

"""The page, driven as a browser does: its numbers are those of test.py, and whatever is uploaded gets an answer."""

from __future__ import annotations

import csv
import sys
import tomllib
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from inference.inputs import folds_with_checkpoints
from inference.predictor import Predictor, find_checkpoint
from inference.scoring.scores import read_scores
from scripts import export
from tests.integration.workplace import EVALUATION_NAMES, ROOT, Workplace, photograph
from utils.images.decoding import decode_rgb

testing = pytest.importorskip("streamlit.testing.v1")

KOREAN = {"locale": "ko-KR"}


@pytest.fixture(autouse=True)
def _as_streamlit_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # AppTest puts the page in its place


def open_page(context: dict[str, Any] | None = None) -> Any:
    page = testing.AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    page.context = context or {}
    return check(page.run())


def check(page: Any) -> Any:
    assert [error.value for error in page.exception] == []
    return page


def upload(page: Any, *files: tuple[str, bytes]) -> Any:
    page.file_uploader(key="upload").set_value([(name, data, "image/jpeg") for name, data in files])
    return check(page.run())


def words(element: Any) -> str:
    """The text of an element as a reader sees it, without the signs that keep Markdown from reading it otherwise."""
    return str(element.value if hasattr(element, "value") else element).replace("\\", "")


def bars(page: Any) -> list[str]:
    return [words(bar.text) for bar in page.progress]


def image_bytes(image: np.ndarray, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(image).convert(mode).save(file, kind, **options)
    return file.getvalue()


def expected_bars(predictor: Predictor, data: bytes) -> list[str]:
    predicted = predictor.predict_image(decode_rgb(data, "image"))
    return [f"{name} · {value:.1%}" for classes in predicted.values() for name, value in classes.items()]


@pytest.mark.usefixtures("empty_workplace")
def test_without_runs_there_is_a_sentence() -> None:
    page = open_page()
    assert all("saved" in words(info) for info in page.info)
    assert len(page.info) == 2
    assert not page.file_uploader
    assert not page.markdown
    page.text_input(key="path").set_value("nowhere")
    (error,) = check(page.run()).error
    assert "nowhere" in words(error)
    sys.argv.append("--save-dri=x")
    (error,) = open_page().error
    assert "--save-dir" in words(error)


def test_the_numbers_are_those_of_test(trained: Workplace) -> None:
    trained.test("--resume", trained.run).check_success()
    (table,) = trained.submissions
    answers = {row["ImageID"]: row["ans"] for row in csv.DictReader(table.open())}
    predictor = Predictor.from_checkpoint(find_checkpoint(trained.run))
    page = open_page()
    for name in EVALUATION_NAMES[:3]:
        data = (trained.info_dir / "images" / name).read_bytes()
        page = upload(page, (name, data))
        assert bars(page) == expected_bars(predictor, data)
        assert f"class {answers[name]}, one of 18" in [words(caption) for caption in page.caption]
    (picture,) = page.get("image")
    assert words(picture.captions[0]) == name


def test_several_photographs_are_a_table(trained: Workplace) -> None:
    predictor = Predictor.from_checkpoint(find_checkpoint(trained.run))
    files = [(name, image_bytes(photograph(at))) for at, name in enumerate(("a.png", "a.png", "=1+1.png"))]
    page = upload(open_page(), *files)
    table = page.dataframe[0].value
    assert list(table["photograph"]) == ["a.png", "a.png (2)", "=1+1.png"]
    for (_, data), (_, row) in zip(files, table.iterrows(), strict=True):
        for attribute, classes in predictor.predict_image(decode_rgb(data, "image")).items():
            assert row[attribute] == max(classes, key=classes.__getitem__)
            for name, value in classes.items():
                assert row[f"{attribute} {name}"] == pytest.approx(value, abs=1e-6)
    assert len(page.get("download_button")) == 2  # the table, and the report of the run
    page.selectbox(key="detail").set_value("=1+1.png")
    assert bars(check(page.run())) == expected_bars(predictor, files[2][1])


def test_folds_answer_together(workplace: Workplace) -> None:
    changes = {"split": {"type": "KFoldSplit", "args": {"folds": 2}}}
    workplace.train("-c", workplace.write_config(changes)).check_success()
    folds = folds_with_checkpoints(workplace.run).values()
    data = image_bytes(photograph(3))
    each = [Predictor.from_checkpoint(find_checkpoint(fold)).predict_image(decode_rgb(data, "image")) for fold in folds]
    expected = [np.mean([fold[name][answer] for fold in each]) for name in each[0] for answer in each[0][name]]
    shown = [float(bar.rpartition(" ")[2].rstrip("%")) / 100 for bar in bars(upload(open_page(), ("a.png", data)))]
    assert shown == pytest.approx(expected, abs=0.00051)


def test_the_prepared_picture_beside_the_original(workplace: Workplace) -> None:
    """A face crop finds none in noise: the centre is cropped, and the page says so. The numbers are test.py's."""
    crop = [{"type": "FaceCrop", "args": {"detector": "haar", "fallback_share": 0.5}}]
    workplace.train("-c", workplace.write_config({"preparation": crop})).check_success()
    name = EVALUATION_NAMES[0]
    data = (workplace.info_dir / "images" / name).read_bytes()
    page = upload(open_page(), (name, data))
    original, prepared = page.get("image")
    assert words(original.captions[0]) == name
    assert words(prepared.captions[0]) == "Prepared"
    assert any("no face was found" in words(caption) for caption in page.caption)
    predictor = Predictor.from_checkpoint(find_checkpoint(workplace.run))
    assert bars(page) == expected_bars(predictor, data)
    height, width = decode_rgb(data, "image").shape[:2]
    assert predictor.preparation is not None
    cropped, fallbacks = predictor.preparation.preparation(decode_rgb(data, "image"))
    assert max(cropped.shape[:2]) < max(height, width)
    assert len(fallbacks) == 1
    exported = workplace.folder / "exported"
    export.main([str(workplace.run), "--to", "safetensors", "--output", str(exported)])
    page.text_input(key="path").set_value(str(exported))
    assert bars(check(page.run())) == expected_bars(predictor, data)
    assert len(page.get("image")) == 2


@pytest.mark.usefixtures("trained")
def test_what_the_model_looked_at() -> None:
    page = upload(open_page(), ("a.png", image_bytes(photograph(3))))
    assert len(page.get("image")) == 1
    page.toggle(key="look").set_value(True)
    captions = [words(picture.captions[0]) for picture in check(page.run()).get("image")]
    assert len(captions) == 3
    assert captions[1].startswith("Grad-CAM")
    assert "mask = " in captions[1]


@pytest.mark.usefixtures("trained")
def test_a_drawn_sample() -> None:
    page = open_page()
    page.segmented_control(key="source").set_value("sample")
    first = bars(check(page.run()))
    assert len(first) == 8
    assert any(words(caption).startswith("Drawn as: wear, ") for caption in page.caption)
    page.button[0].click()
    assert bars(check(page.run())) != first
    assert any(words(caption).startswith("Drawn as: incorrect, ") for caption in page.caption)


@pytest.mark.usefixtures("trained")
def test_in_korean() -> None:
    """By the browser's language, and by the page's own switch, which changes nothing else."""
    assert open_page(KOREAN).title[0].value == "사진 속성 분류"
    page = open_page()
    assert page.title[0].value == "Attributes of a photograph"
    page.segmented_control(key="source").set_value("sample")
    english = bars(check(page.run()))
    page.segmented_control(key="language").set_value("ko")
    page = check(page.run())
    assert page.title[0].value == "사진 속성 분류"
    assert page.segmented_control(key="source").value == "sample"
    assert bars(page) == english
    page.segmented_control(key="source").set_value("upload")
    (warning,) = upload(check(page.run()), ("사진 😷.jpg", b"")).warning
    assert words(warning).startswith("죄송합니다. 사진 😷.jpg")


HEADER_OF_20000 = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (20000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
NO_PHOTOGRAPHS = {
    "empty.jpg": b"",
    "zeros.jpg": bytes(500),
    "page.jpg": b"<!DOCTYPE html><html>not found</html>",
    "cut.jpg": image_bytes(photograph(1), "JPEG")[:-200],
    "broken.png": image_bytes(photograph(1))[:-100] + bytes(100),
    "huge.png": HEADER_OF_20000,
    "animated.gif": b"GIF89a" + bytes(30),
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    "paper.pdf": b"%PDF-1.7",
    "print.eps": b"%!PS-Adobe-3.0",
    "한글 이름 🙂.jpg": b"no image",
    "[a](b) **c** :red[d] $e$ <f>.jpg": b"no image",
}


@pytest.mark.usefixtures("trained")
def test_what_is_no_photograph_gets_a_sentence() -> None:
    page = upload(open_page(), *NO_PHOTOGRAPHS.items(), ("good.png", image_bytes(photograph(1))))
    warnings = [words(warning) for warning in page.warning]
    assert len(warnings) == len(NO_PHOTOGRAPHS)
    for name, warning in zip(NO_PHOTOGRAPHS, warnings, strict=True):
        assert warning.startswith(f"Sorry, {name} ")
        assert "Traceback" not in warning
    assert len(bars(page)) == 8


@pytest.mark.usefixtures("trained")
def test_odd_photographs_are_predicted() -> None:
    pixels = photograph(1)
    wide = cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = {
        "16 bits.png": wide,
        "cmyk.jpg": image_bytes(pixels, "JPEG", "CMYK"),
        "transparent.png": image_bytes(pixels, "PNG", "RGBA"),
        "palette.png": image_bytes(pixels, "PNG", "P"),
        "grey.png": image_bytes(pixels, "PNG", "L"),
        "one bit.png": image_bytes(pixels, "PNG", "1"),
        "turned.jpg": image_bytes(pixels, "JPEG", exif=exif),
        "long.png": image_bytes(np.zeros((30000, 1, 3), np.uint8)),
        "dot.png": image_bytes(np.zeros((1, 1, 3), np.uint8)),
        "a png.jpg": image_bytes(pixels),
    }
    page = upload(open_page(), *odd.items())
    assert not page.warning
    assert list(page.dataframe[0].value["photograph"]) == list(odd)
    for name in ("long.png", "dot.png"):
        page.selectbox(key="detail").set_value(name)
        assert any("do not rely on the result" in words(caption) for caption in check(page.run()).caption)


def test_a_damaged_checkpoint_gets_a_sentence(trained: Workplace) -> None:
    for file in trained.run.glob("*.pth"):
        file.write_bytes(file.read_bytes()[:-100])
    (error,) = open_page().error
    assert "model_best.pth" in words(error)


def test_the_runs_are_listed_with_what_is_special_about_them(trained: Workplace) -> None:
    trained.train("-c", trained.write_config({}), "--set", "trainer.epochs=2").check_success()
    rows = "".join(f"{name},{number}\n" for number, name in enumerate(EVALUATION_NAMES))
    answers = trained.write("answers.csv", f"ImageID,ans\n{rows}")
    trained.test("--resume", trained.runs[-1], "--answers", answers).check_success()
    trained.test("--resume", trained.runs[-1], "--split", "validation").check_success()
    (trained.runs[0] / "report.html").unlink()
    tested, validated = read_scores(trained.runs[-1])
    page = open_page()
    table = page.dataframe[0].value
    assert sorted(table["run"]) == sorted(f"Tiny/{run.name}" for run in trained.runs)
    assert list(table["val F1"]) == sorted(table["val F1"], reverse=True)
    newest = f"Tiny/{trained.runs[-1].name}"
    (row,) = [row for _, row in table.iterrows() if row["run"] == newest]
    assert row["test F1"] == tested.metrics["test/f1"]
    other = next(f"Tiny/{run.name}" for run in trained.runs[:-1])
    page.selectbox(key="run").set_value(other)
    page = check(page.run())
    assert len(page.dataframe) == 1  # it has no scores of test.py
    assert not page.get("vega_lite_chart")  # nor a curve of one epoch
    assert not page.get("download_button")
    page.selectbox(key="run").set_value(newest)
    page = check(page.run())
    assert "trainer.epochs = 2" in page.code[0].value
    assert len(page.get("vega_lite_chart")) == 2
    assert len(page.get("download_button")) == 1
    for number, scores, prefix in ((1, validated, "val"), (0, tested, "test")):
        page.selectbox(key="call").set_value(number)
        page = check(page.run())
        shown = page.dataframe[1].value
        assert list(shown["F1"])[1:3] == [scores.metrics[f"{prefix}/{name}_f1"] for name in ("mask", "gender")]
        low, high = scores.intervals[f"{prefix}/f1"]
        assert shown["95 % interval"][0] == f"{low:.3f} – {high:.3f}"


def test_it_is_for_this_computer_alone_and_shows_no_traceback() -> None:
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert settings["server"]["address"] == "127.0.0.1"
    assert settings["server"]["maxUploadSize"] <= 50
    assert settings["browser"]["gatherUsageStats"] is False
    assert settings["client"]["showErrorDetails"] == "none"

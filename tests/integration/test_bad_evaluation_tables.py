"""What test.py is given to judge is wrong: info.csv, its images' names and folders, the true answers. The file, the row
and the value are named, with exit code 3, before an image is opened; no submission is written."""

from __future__ import annotations

import shutil

import pytest

from tests.integration.workplace import EVALUATION_NAMES, Lines, TextChange, Workplace, replaced

INFO = "data/eval/info.csv"
IMAGE = EVALUATION_NAMES[0]


INFO_TEXTS: dict[str, tuple[TextChange, Lines]] = {
    "26-one-column": (replaced("ImageID", "image"), [(f'{INFO}: has no column "ImageID"', "image, ans")]),
    "27-no-rows": (lambda _: "ImageID,ans\n", [(f"{INFO}: has no rows under its header",)]),
    "27-nothing": (lambda _: "", [(f"{INFO}: has no rows",)]),
    "28-up": (replaced(IMAGE, "../../x.jpg"), [(f'{INFO} row 2: the path "../../x.jpg" leaves its folder',)]),
    "28-absolute": (replaced(IMAGE, "/etc/passwd"), [(f'{INFO} row 2: the path "/etc/passwd" leaves its folder',)]),
    "29-missing": (
        replaced(IMAGE, "gone.jpg"),
        [(f'{INFO} row 2: image "gone.jpg" is missing in data/eval/images',)],
    ),
    "35-a-formula": (replaced(IMAGE, "=1+1.jpg"), [(f'{INFO} row 2: the name "=1+1.jpg" begins with "="',)]),
    "40-an-id-twice": (
        lambda text: f"{text}{IMAGE},0\n",
        [(f'{INFO} row {len(EVALUATION_NAMES) + 2}: ImageID "{IMAGE}" stands already in row 2',)],
    ),
    "40-another-column": (
        lambda text: text.replace(",0", ",0,1").replace("ans", "ans,x"),
        [(f"{INFO}: has the columns ImageID, ans, x", "expected ImageID,ans")],
    ),
    "40-columns-renamed": (replaced("ans", "answer"), [(f'{INFO}: has no column "ans"', 'did you mean "answer"?')]),
}


@pytest.mark.usefixtures("no_image_is_opened")
@pytest.mark.parametrize("case", INFO_TEXTS)
def test_a_wrong_evaluation_table(trained: Workplace, case: str) -> None:
    change, lines = INFO_TEXTS[case]
    trained.rewrite(trained.info_dir / "info.csv", change)
    outcome = trained.test("--resume", trained.run)
    outcome.check_refusal(3, *lines)
    assert trained.submissions == []


def test_28_a_link_in_the_evaluation_folder(trained: Workplace) -> None:
    image = trained.info_dir / "images" / IMAGE
    shutil.move(image, trained.folder / "elsewhere.jpg")
    image.symlink_to(trained.folder / "elsewhere.jpg")
    outcome = trained.test("--resume", trained.run)
    outcome.check_refusal(3, (f'{INFO} row 2: "{IMAGE}" is a link that leads out of data/eval/images',))


@pytest.mark.parametrize(
    ("info_dir", "line"),
    [
        pytest.param("data/gone", ("data/gone: there is no such folder", "info.csv and images/"), id="39-none"),
        pytest.param("data", ("data: expected info.csv and images/", "in data/eval: set that folder"), id="39-above"),
        pytest.param("data/train", ("data/train: expected info.csv and images/", "train.csv"), id="39-of-training"),
    ],
)
def test_a_wrong_evaluation_folder(trained: Workplace, info_dir: str, line: tuple[str, ...]) -> None:
    trained.test("--resume", trained.run, "--info-dir", info_dir).check_refusal(3, line)
    assert trained.submissions == []


FULL = "".join(f"{name},{number}\n" for number, name in enumerate(EVALUATION_NAMES))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(None, "answers.csv: there is no such file", id="26-no-file"),
        pytest.param(f"ImageID,answer\n{FULL}", 'answers.csv: has no column "ans" (its columns are', id="26-no-column"),
        pytest.param("ImageID,ans\n", "answers.csv: has no rows", id="27-no-rows"),
        pytest.param(f"ImageID,ans\n{FULL[:-15]}", "answers.csv: lacks 1 of the 6 images", id="29-too-few"),
        pytest.param(f"ImageID,ans\n{FULL}{FULL}", f"answers.csv row 8: {IMAGE} stands in row 2", id="30-twice"),
        pytest.param(
            "ImageID,ans\n" + FULL.replace(",0", ",18"), "answers.csv row 2: ans = '18' is not", id="32-class"
        ),
        pytest.param("ImageID,ans\n" + FULL.replace(",0", ",²"), "answers.csv row 2: ans = '²' is not", id="32-digit"),
        pytest.param(
            "ImageID,ans,person\n" + FULL.replace("\n", ",p\n").removesuffix(",p\n"),
            "answers.csv row 7: has 2 cells, the header has 3",
            id="30-short-row",
        ),
    ],
)
def test_wrong_true_answers(trained: Workplace, content: str | None, line: str) -> None:
    if content is not None:
        trained.write("answers.csv", content)
    trained.test("--resume", trained.run, "--answers", "answers.csv").check_refusal(3, line)
    assert trained.submissions == []


def test_33_true_answers_in_utf_16(trained: Workplace) -> None:
    trained.write("answers.csv", f"ImageID,ans\n{FULL}".encode("utf-16"))
    outcome = trained.test("--resume", trained.run, "--answers", "answers.csv")
    outcome.check_refusal(3, "answers.csv: looks like UTF-16; save it as UTF-8")

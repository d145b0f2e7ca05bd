"""What test.py is given to predict is wrong: info.csv, its images' names and folders, the true answers.

The file, the row and the value are named, with exit code 3, before an image is opened; no submission is written."""

from __future__ import annotations

import shutil

import pytest

from tests.integration.test_bad_checkpoints import as_content, spoil_all
from tests.integration.workplace import EVALUATION_NAMES, Lines, TextChange, Workplace, replaced

INFO = "data/eval/info.csv"
IMAGE = EVALUATION_NAMES[0]


INFO_TEXTS: dict[str, tuple[TextChange, Lines]] = {
    "26-one-column": (replaced("ImageID", "image"), [(f"{INFO}: ", '"ImageID"', "image, ans")]),
    "27-nothing": (lambda _: "", [(f"{INFO}: ", "no rows")]),
    "28-up": (replaced(IMAGE, "../../x.jpg"), [(f"{INFO} row 2: ", '"../../x.jpg"')]),
    "28-absolute": (replaced(IMAGE, "/etc/passwd"), [(f"{INFO} row 2: ", '"/etc/passwd"')]),
    "29-missing": (
        replaced(IMAGE, "gone.jpg"),
        [(f"{INFO} row 2: ", '"gone.jpg"', "data/eval/images")],
    ),
    "40-another-column": (
        lambda text: text.replace(",0", ",0,1").replace("ans", "ans,x"),
        [(f"{INFO}: ", "ImageID, ans, x")],
    ),
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
    outcome.check_refusal(3, (f"{INFO} row 2: ", f'"{IMAGE}"', "link", "data/eval/images", "allow_links"))
    spoil_all(trained, as_content(lambda content: content["config"]["data"][0]["args"].update(allow_links=True)))
    trained.test("--resume", trained.run).check_success()


@pytest.mark.parametrize(
    ("info_dir", "line"),
    [
        pytest.param("data/gone", ("data/gone: ", "info.csv and images/"), id="39-none"),
        pytest.param("data", ("data: ", "info.csv and images/", "eval"), id="39-above"),
        pytest.param("data/train", ("data/train: ", "info.csv and images/", "train.csv"), id="39-of-training"),
    ],
)
def test_a_wrong_evaluation_folder(trained: Workplace, info_dir: str, line: tuple[str, ...]) -> None:
    trained.test("--resume", trained.run, "--info-dir", info_dir).check_refusal(3, line)
    assert trained.submissions == []


FULL = "".join(f"{name},{number}\n" for number, name in enumerate(EVALUATION_NAMES))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(f"ImageID,ans\n{FULL}".encode("utf-16"), ("answers.csv row 1: ", "UTF-8"), id="33-utf-16"),
        pytest.param(None, "answers.csv: ", id="26-no-file"),
        pytest.param(f"ImageID,ans\n{FULL[:-15]}", ("answers.csv: lacks", EVALUATION_NAMES[-1]), id="29-too-few"),
        pytest.param(
            "ImageID,ans\n" + FULL.replace(",0", ",18"), ("answers.csv row 2: ans = '18'", "0 to 17"), id="32-class"
        ),
    ],
)
def test_wrong_true_answers(trained: Workplace, content: str | bytes | None, line: str | tuple[str, ...]) -> None:
    if content is not None:
        trained.write("answers.csv", content)
    trained.test("--resume", trained.run, "--answers", "answers.csv").check_refusal(3, line)
    assert trained.submissions == []

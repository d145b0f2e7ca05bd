"""docs/extending.md, followed to the letter; and no link of the docs leads nowhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workplace import ROOT, TINY, Workplace, make_data
from utils.checkpoint import read_checkpoint
from utils.config.json_text import parse_json

SECTIONS = re.split(r"^## ", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
PAGES = [ROOT / "README.md", ROOT / "configs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = (
    "loss",
    "metric",
    "model",
    "augmentation",
    "source",
    "schedule",
    "optimizer",
    "sampler",
    "tracker",
    "callback",
    "trainer",
)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The sum of two examples: as a config over another, but both may add to a list."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def test_what_the_page_adds_trains_together(workplace: Workplace) -> None:
    """Each block of Python is a file of its own, and each block of JSON goes into one config."""
    assert all(any(kind in section.partition("\n")[0] for section in SECTIONS) for kind in KINDS)
    for number, image in enumerate(sorted((workplace.info_dir / "images").iterdir())):
        for state in ("wear", "incorrect", "not_wear"):
            copied = workplace.folder / "data" / "masks" / state / f"{state}{number}.jpg"
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, copied)
    config: dict[str, Any] = {**TINY, "arch": {}, "lr_scheduler": {}}
    files, blocks = [], 0
    for section in SECTIONS:
        pieces = re.split(r"```(python|jsonc)\n(.*?)```", section, flags=re.DOTALL)
        for before, language, text in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=False):
            if language == "python":
                files.append(re.findall(r"In `(\w+\.py)`", before)[-1])
                workplace.write(files[-1], text)
            else:
                config = _merge(config, parse_json(f"{{{text}}}", "docs/extending.md"))
                blocks += 1
    assert len(files) == len(set(files)) == blocks >= len(KINDS)
    config = _merge(config, {"plugins": files, "trainer": {"save_best": [], "epochs": 2}, "metrics": config["metrics"]})
    wrong = _merge(config, {"loss": {"heads": {"age": {"args": {"class_weight": "balanced"}}}}})
    workplace.write("wrong.json", json.dumps(wrong))
    workplace.write("right.json", json.dumps(config))
    workplace.train_and_change_nothing("-c", "wrong.json").check_refusal(
        2, ("wrong.json: loss.heads.age.args.class_weight ",)
    )
    workplace.train("-c", "right.json").check_success()

    log = workplace.only("saved/log/*/*")
    rows = [json.loads(line) for line in (log / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["lr"] for row in rows] == [pytest.approx(0.01), pytest.approx(0.01 / 3**0.5)]
    images = 42 + 18  # of which an epoch has half; a batch has eight
    assert [row["train/updates"] for row in rows] == [2.0 * (images // 2 // 8)] * 2
    assert [row["train/zeroed"] for row in rows] == [images // 2 // 8, 2 * (images // 2 // 8)]
    assert all(0 <= row["val/balanced_error"] <= 1 and row["val/gender_top_2"] == 1 for row in rows)
    assert (log / "lr.txt").read_text().splitlines() == [f"{row['epoch']} {row['lr']}" for row in rows] + [
        "closed with 0"
    ]
    content = read_checkpoint(workplace.run / "last.pth")
    assert set(content["model"]) == {
        f"heads.head_{name}.{kind}" for name in ("mask", "gender", "age") for kind in ("weight", "bias")
    }
    assert [Path(each["path"]).name for each in content["config"]["plugins"]] == files
    workplace.test("--resume", workplace.run, "--split", "validation").check_success()


@pytest.fixture
def workplace(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path)
    return Workplace(tmp_path, capfd)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page}: {target}"

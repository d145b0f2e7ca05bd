"""docs/extending.md, followed to the letter in a copy of the project; and no link of the docs leads nowhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workplace import ROOT, TINY, make_data
from utils.config.json_text import parse_json

CODE = ("base", "data_loader", "experiment", "inference", "logger", "model", "trainer", "utils")
SECTIONS = re.split(r"^## ", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
PAGES = [ROOT / "README.md", ROOT / "configs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_BOTH = """
import train
from utils.errors import run_command

for config in ("wrong.json", "right.json"):
    print("exit code", run_command(lambda: train.main(["--config", config])))
"""


def _blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _add(folder: Path, file: str, code: str) -> None:
    """The code in its file: a new one, or at the end of one that lists it in `__all__`."""
    path = folder / file
    name = re.findall(r"^(?:class|def) (\w+)", code, re.MULTILINE)[0]
    listing = path if path.exists() else path.parent / "__init__.py"
    import_line = "" if path.exists() else f"from {file.removesuffix('.py').replace('/', '.')} import {name}\n"
    text = listing.read_text(encoding="utf-8").replace("__all__ = [", f'__all__ = ["{name}", ', 1)
    listing.write_text(f"{text}\n\n{import_line}", encoding="utf-8")
    with path.open("a", encoding="utf-8") as opened:
        opened.write(code)


def test_what_the_page_adds_trains_together(tmp_path: Path) -> None:
    for name in CODE:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), ROOT / "config.json"]:
        shutil.copy(path, tmp_path)
    make_data(tmp_path)
    for state in ("wear", "incorrect", "not_wear"):
        (tmp_path / "data" / "masks" / state).mkdir(parents=True)
        for number, image in enumerate(sorted((tmp_path / "data" / "eval" / "images").iterdir())):
            shutil.copy(image, tmp_path / "data" / "masks" / state / f"{state}{number}.jpg")

    config: dict[str, Any] = {**TINY, "extends": "config.json", "arch": {}}
    added = []
    for section in SECTIONS:
        if section.startswith("A tracker"):
            continue
        for code in _blocks(section, "python"):
            file = re.findall(r"`([\w/]+\.py)`", section.partition("```python")[0])[-1]
            _add(tmp_path, file, code)
            added.append(file)
        for block in _blocks(section, "jsonc"):
            config = _merge(config, parse_json(f"{{{block}}}", "docs/extending.md"))
    assert len(added) == 5
    wrong = _merge(config, {"loss": {"heads": {"age": {"args": {"class_weight": "balanced"}}}}})
    for file, values in (("wrong.json", wrong), ("right.json", config)):
        (tmp_path / file).write_text(json.dumps(values), encoding="utf-8")

    done = subprocess.run([sys.executable, "-c", RUN_BOTH], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.findall(r"exit code (\d+)", done.stdout) == ["2", "0"], done.stderr
    assert "loss.heads.age.args.class_weight " in done.stderr
    (metrics,) = tmp_path.glob("saved/log/*/*/metrics.jsonl")
    assert "val/balanced_accuracy" in json.loads(metrics.read_text(encoding="utf-8").splitlines()[0])
    (saved,) = tmp_path.glob("saved/models/*/*/config.json")
    assert json.loads(saved.read_text(encoding="utf-8"))["arch"]["type"] == "LinearModel"


def test_the_tracker_of_the_page_tracks(capsys: pytest.CaptureFixture[str]) -> None:
    from logger.tracker import Trackers

    (section,) = (section for section in SECTIONS if section.startswith("A tracker"))
    namespace: dict[str, Any] = {}
    exec(_blocks(section, "python")[0], namespace)
    trackers = Trackers([namespace["PrintTracker"]()])
    trackers.log_metrics(2, {"lr": 0.5})
    trackers.close(0)
    assert capsys.readouterr().out.splitlines() == ["epoch 2: lr 0.5", "closed with 0"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page}: {target}"

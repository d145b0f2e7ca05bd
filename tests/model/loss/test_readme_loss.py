"""The README's "A loss is one file and one line", followed to the letter in a copy of the project."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.integration.workplace import ROOT, TINY, make_data

CODE = ("base", "data_loader", "experiment", "inference", "logger", "model", "trainer", "utils")
RECIPE = re.compile(
    r"\*\*A loss\*\* is one file and one line\. `(?P<path>[^`]+)`:\n+```python\n(?P<code>.*?)```\n+(?P<then>.*?)\n\n",
    re.DOTALL,
)
RUN_BOTH = """
import train
from utils.errors import run_command

for config in ("wrong.json", "right.json"):
    print("exit code", run_command(lambda: train.main(["--config", config, "--dry-run"])))
"""


def test_a_new_loss_trains(tmp_path: Path) -> None:
    for name in CODE:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), ROOT / "config.json"]:
        shutil.copy(path, tmp_path)
    make_data(tmp_path)

    recipe = RECIPE.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert recipe is not None, "the README no longer shows how to add a loss"
    import_line, list_name = re.findall(r"`([^`]+)`", recipe["then"])[:2]
    name = import_line.split()[-1]
    assert list_name == "__all__"
    (tmp_path / recipe["path"]).write_text(recipe["code"], encoding="utf-8")
    listing = tmp_path / "model" / "loss" / "__init__.py"
    text = listing.read_text(encoding="utf-8")
    listing.write_text(text.replace("__all__ = [", f'{import_line}\n\n__all__ = ["{name}", '), encoding="utf-8")

    for file, key in (("wrong.json", "class_weight"), ("right.json", "class_weights")):
        loss = {"heads": {"age": {"type": name, "args": {key: "balanced"}}}}
        text = json.dumps({**TINY, "extends": "config.json", "loss": loss})
        (tmp_path / file).write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", RUN_BOTH], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"loss.heads.age.args.class_weight is not an argument of {name}; did you mean" in done.stderr
    assert re.findall(r"exit code (\d+)", done.stdout) == ["2", "0"], done.stderr

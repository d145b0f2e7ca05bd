"""Whether everything that predicts gives the same numbers: Predictor, test.py, the page, and an ONNX export.

python -m benchmarks.equal_numbers saved/models/<name>/<run> photographs/ [--most 50]

Predictor predicts a photograph at a time, the others as their users call them; printed is how far they are from it."""

from __future__ import annotations

import argparse
import csv
import itertools
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import test
from inference.predictor import Predictor, find_checkpoint
from scripts import export
from scripts.predict import find_images
from utils.images.decoding import read_rgb

PAGE = Path(__file__).parents[1] / "app.py"


def predict_everywhere(run: Path, exported: Path | None, files: Sequence[Path]) -> dict[str, np.ndarray]:
    """By what predicted, the probabilities (N, C) of every attribute's classes.

    exported: the run's ONNX export; None: it is left out"""
    predictor = Predictor.from_checkpoint(find_checkpoint(run))
    by_file = [predictor.predict_image(read_rgb(file)) for file in files]
    found = {"Predictor": np.array([[*itertools.chain(*map(dict.values, each.values()))] for each in by_file])}
    columns = [f"{name} {text}" for name, classes in by_file[0].items() for text in classes]
    names = [f"{number:05}{file.suffix}" for number, file in enumerate(files)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        for name, file in zip(names, files, strict=True):
            shutil.copy(file, Path(folder) / "images" / name)
        (Path(folder) / "info.csv").write_text("ImageID,ans\n" + "".join(f"{name},0\n" for name in names))
        found["test.py"] = _answers(run, Path(folder), columns)
        if exported is not None:
            found["ONNX"] = _answers(exported, Path(folder), columns)
    found["page"] = _page(run, dict(zip(names, files, strict=True)), columns)
    return found


def _answers(run: Path, folder: Path, columns: Sequence[str]) -> np.ndarray:
    output = folder / "answers.csv"
    test.main(["--resume", str(run), "--info-dir", str(folder), "--output", str(output), "--probabilities"])
    with (folder / "answers_probabilities.csv").open(encoding="utf-8", newline="") as file:
        return np.array([[float(row[column]) for column in columns] for row in csv.DictReader(file)])


def _page(run: Path, files: dict[str, Path], columns: Sequence[str]) -> np.ndarray:
    """Those of the table that the page shows of several photographs."""
    from streamlit.testing.v1 import AppTest

    arguments, main = sys.argv, sys.modules["__main__"]
    try:
        sys.argv = [PAGE.name]
        page = AppTest.from_file(str(PAGE), default_timeout=600).run()
        page.text_input(key="path").set_value(str(run)).run()
        uploads = [(name, file.read_bytes(), "image/jpeg") for name, file in files.items()]
        page.file_uploader(key="upload").set_value(uploads).run()
    finally:
        sys.argv, sys.modules["__main__"] = arguments, main
    table = next(each.value for each in page.dataframe if set(columns) <= set(each.value.columns))
    return table[list(columns)].to_numpy()


def differences(found: dict[str, np.ndarray]) -> dict[str, float]:
    """By what predicted, the largest difference of a probability from Predictor's."""
    return {name: float(np.abs(table - found["Predictor"]).max()) for name, table in found.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photographs", type=Path, nargs="+", help="files, and folders of them")
    parser.add_argument("--most", type=int, default=50, help="so many, spread evenly (default: 50)")
    given = parser.parse_args(argv)
    files = find_images(given.photographs)
    files = [files[at] for at in np.linspace(0, len(files) - 1, min(given.most, len(files))).astype(int)]
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "exported"
        export.main([str(given.run), "--to", "onnx", "--output", str(exported)])
        found = predict_everywhere(given.run.absolute(), exported, files)
    print(f"{len(files)} photographs; the largest difference of a probability from Predictor's, one at a time:")
    for name, largest in differences(found).items():
        if name != "Predictor":
            print(f"{name:<8} {largest:.1e}")


if __name__ == "__main__":
    main()

"""A run's folder as training leaves it, with names that would break a careless page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from base.label_space import LabelSpace
from data_loader.records import Record
from experiment.run_record import RunRecord
from experiment.schema import SECTIONS
from inference.out_of_fold import PredictionTable
from parse_config import ConfigParser
from tests.inference.tuning.drawn_predictions import drawn_runs
from utils.run_folders import RunFolders

SCRIPT = "<script>alert(1)</script>"
NASTY = {
    "mask": {"classes": [SCRIPT, '"in"&correct', "안 씀"]},
    "gender": {"classes": ["male", "female"]},
    "age": {"bins": [30, 60]},
}
WARNING = f"a warning of {SCRIPT} and 'quotes\""
NUM_PERSONS = 60


def predictions(num_persons: int = NUM_PERSONS, labels: LabelSpace | None = None) -> PredictionTable:
    """Of a model that is too sure; some genders are unknown."""
    (run,) = drawn_runs(num_persons, 4, confidence=1.8)
    table, labels = run.table, labels or LabelSpace(NASTY)  # type: ignore[arg-type]
    truth = {name: classes.clone() for name, classes in table.truth.items()}
    truth["gender"][::9] = -1
    ids = [f'{row} "quoted" & <b>.png' for row in range(len(table))]
    return PredictionTable(labels, ids, table.persons, table.folds, table.by_head, truth)


def make_run(save_dir: Path, table: PredictionTable | None, **values: Any) -> RunFolders:
    """Without images."""
    config_file = save_dir / "nasty.json"
    demo = str(Path("configs/demo.json").resolve())
    save_dir.mkdir(parents=True, exist_ok=True)
    config_file.write_text(
        json.dumps({"extends": demo, "name": "Nasty & 'so'", "labels": {"attributes": NASTY}, "seed": 7, **values})
    )
    config = ConfigParser.from_file(config_file, SECTIONS)
    folders = RunFolders.in_save_dir(save_dir, "Nasty", "run 1")
    folders.models.mkdir(parents=True)
    folders.log.mkdir(parents=True)
    folders.write_config(config.resolved)
    record = RunRecord(folders.models)
    sides = {"train": {"images": 900, "persons": 150}, "validation": {"images": 420, "persons": 60}}
    machine = {"device": "a & b", "cores": 2, "processes": 1}
    record.begin(folders, config, f"train.py -c '{SCRIPT}'", {"validation": "v"}, config_file, (), sides, machine)
    record.end("finished")
    rows: list[dict[str, Any]] = [
        {"epoch": epoch, "lr": 0.1, "train/loss": 2 / epoch, "val/loss": 2.2 / epoch, "val/f1": 0.1 * epoch}
        | {"val/mask_f1": 0.2 * epoch, f"val_f1_by_class/mask {SCRIPT}": 0.3 * epoch}
        | {"val/gender_f1": None}
        for epoch in (1, 2, 3)
    ]
    (folders.log / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    times = [
        {"epoch": epoch, "time/epoch_seconds": 100 / epoch, "time/train_seconds": 60 / epoch}
        | {"time/waiting_seconds": 15 / epoch, "time/images_per_second": 15 * epoch}
        for epoch in (1, 2, 3)
    ]
    (folders.log / "times.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in times))
    entry = "2026-11-30 10:00:00,123"
    lines = [f"{entry} INFO begins", f"{entry} WARNING {WARNING}", "its second line", f"{entry} WARNING {WARNING}"]
    (folders.log / "info.log").write_text("\n".join([*lines, "its second line", f"{entry} ERROR no more"]) + "\n")
    (folders.models / "duplicates.csv").write_text(
        "pair,group,relation,kind,difference,path,side,person,other_path,other_side,other_person\n"
        f"1,1,between train and test,exact,0.0000,{SCRIPT}.png,train,a,b.png,test,b\n"
    )
    if table is not None:
        table.write(folders.models / "out_of_fold.csv")
    return folders


def records_of(table: PredictionTable, folder: Path) -> list[Record]:
    """Small pictures of one colour, which tells them apart."""
    (folder / "it's <here>").mkdir(parents=True)
    records = []
    for row, (name, person) in enumerate(zip(table.ids, table.persons, strict=True)):
        path = folder / "it's <here>" / f"{row}.png"
        Image.fromarray(np.full((30, 20, 3), row % 256, np.uint8)).save(path)
        records.append(Record(path, name, person, {}, "here"))
    return records


@pytest.fixture(scope="session")
def table() -> PredictionTable:
    torch.manual_seed(0)
    return predictions()

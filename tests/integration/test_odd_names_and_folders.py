"""Names that are too long or odd, folders that cannot be written or have been edited or moved, streams that are closed:
each is one line, and nothing is trained on other values than before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.integration.workplace import ROOT, Workplace, replaced
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint

LONG = "x" * 300
FOLDS = {"split": {"type": "KFoldSplit", "args": {"folds": 2, "stratify": []}}}


def edit(file: Path, key: str, value: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))


def test_folds_are_not_continued_with_an_edited_config(workplace: Workplace) -> None:
    workplace.train("-c", workplace.write_config(FOLDS), "--fold", "0").check_success()
    run = workplace.run
    edit(run / "config.json", "seed", 7)
    before = workplace.files()
    workplace.train("--resume", run).check_refusal(2, (f"run {run}: seed = 7", "42"), "resume without")
    assert workplace.files() == before
    edit(run / "config.json", "seed", 42)
    workplace.train("--resume", run).check_success()


@pytest.mark.parametrize("only_one", [True, False])
def test_another_fold_is_not_trained_on_other_data(only_one: bool, workplace: Workplace) -> None:
    workplace.train("-c", workplace.write_config(FOLDS), "--fold", "0").check_success()
    workplace.rewrite(workplace.train_root / "train.csv", replaced("male,Asian,60", "male,Asian,20", 1))
    outcome = workplace.train_and_change_nothing("--resume", workplace.run, *(["--fold", "1"] if only_one else []))
    outcome.check_refusal(3, (f"{workplace.run}/fold_0", "labels"))


@pytest.mark.parametrize("key", ["config", "run_name", "monitors", "updates", "model", "schedule"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_a_checkpoint_without_a_key_is_refused(key: str, as_folder: bool, trained: Workplace) -> None:
    file = trained.run / "last.pth"
    content = read_checkpoint(file)
    for other in trained.run.glob("*.pth"):
        other.unlink()
    write_checkpoint(file, {name: value for name, value in content.items() if name != key})
    outcome = trained.train("--resume", trained.run if as_folder else file, "--set", "trainer.epochs=2")
    outcome.check_refusal(4, (f"{file}: ", key))


def test_an_edited_config_of_one_model_changes_nothing_and_is_named(trained: Workplace) -> None:
    edit(trained.run / "config.json", "seed", 7)
    outcome = trained.train("--resume", trained.run, "--set", "trainer.epochs=2")
    outcome.check_success()
    assert [line for line in outcome.out.splitlines() if "config.json" in line and "edited" in line and "seed" in line]
    assert json.loads((trained.run / "config.json").read_text())["seed"] == 42


def test_auto_resumes_the_run_that_began_last_whatever_its_name(workplace: Workplace) -> None:
    config = workplace.write_config()
    for name in ("zz", "aa"):
        workplace.train("-c", config, "--run-id", name).check_success()
        record = workplace.only(f"saved/models/Tiny/{name}/run.json")
        began = {"zz": "2026-12-01T10:00:00+00:00", "aa": "2026-12-01T10:00:01+00:00"}[name]
        content = json.loads(record.read_text())
        content["sessions"][0]["began"] = began
        record.write_text(json.dumps(content))
    outcome = workplace.train("-c", config, "--resume", "auto")
    outcome.check_success()
    assert "models/Tiny/aa is finished" in outcome.out


@pytest.mark.parametrize("content", ["{}", '{"split": 3}', "[" * 100_000, '{"config_format": "x"}'])
def test_a_runs_config_that_is_none_is_replaced_by_its_checkpoints(content: str, trained: Workplace) -> None:
    whole = json.loads((trained.run / "config.json").read_text())
    (trained.run / "config.json").write_text(content)
    trained.train("--resume", trained.run, "--set", "trainer.epochs=2").check_success()
    again = json.loads((trained.run / "config.json").read_text())
    assert again == {**whole, "trainer": {**whole["trainer"], "epochs": 2}}


@pytest.mark.parametrize("flag", ["--resume", "--config", "--from"])
def test_a_path_that_is_too_long(flag: str, trained: Workplace) -> None:
    for path in (LONG, f"{LONG}/a.json"):
        config: list[str | Path] = ["-c", trained.write_config()] if flag == "--from" else []
        outcome = trained.train_and_change_nothing(*config, flag, path)
        assert outcome.exit_code in {2, 4}
        assert len(outcome.lines) == 1
        assert LONG[:100] in outcome.err


@pytest.mark.parametrize("flag", ["--resume", "--output", "--answers", "--decision"])
def test_a_path_of_test_py_that_is_too_long(flag: str, trained: Workplace) -> None:
    resume: list[str | Path] = [] if flag == "--resume" else ["--resume", trained.run]
    before = trained.files()
    outcome = trained.test(*resume, flag, f"{LONG}.csv")
    assert outcome.exit_code in {2, 3, 4}
    assert len(outcome.lines) == 1
    assert trained.files() == before


def test_names_of_a_config_and_of_a_run_are_checked_before_anything_is_made(workplace: Workplace) -> None:
    config = workplace.write_config()
    for name in ("y" * 121, "\N{HANGUL SYLLABLE GA}" * 41, "two\nlines"):
        refused = workplace.train_and_change_nothing("-c", workplace.write_config({"name": name}))
        refused.check_refusal(2, ("tiny.json: name",))
    workplace.write_config()
    for name in (LONG, "two\nlines"):
        workplace.train_and_change_nothing("-c", config, "--run-id", name).check_refusal(2, ("--run-id ",))


def test_the_longest_names_have_a_submission(workplace: Workplace) -> None:
    name, run_id = "n" * 120, "r" * 100
    workplace.train("-c", workplace.write_config({"name": name}), "--run-id", run_id).check_success()
    workplace.test("--resume", workplace.run, "--probabilities").check_success()
    assert {path.name for path in workplace.submissions} == {
        f"{name}_{run_id}.csv", f"{name}_{run_id}_probabilities.csv"
    }  # fmt: skip


def test_a_lock_that_is_no_file(trained: Workplace) -> None:
    (trained.run / ".lock").unlink(missing_ok=True)
    (trained.run / ".lock").mkdir()
    outcome = trained.train("--resume", trained.run, "--set", "trainer.epochs=2")
    outcome.check_refusal(2, (f"{trained.run}/.lock: ",))


def test_a_run_whose_folder_is_moved_while_it_trains_says_so(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.trainer import Trainer

    train_epoch = Trainer.train_epoch

    def and_move(self: Trainer, epoch: int) -> dict[str, float]:
        metrics = train_epoch(self, epoch)
        if epoch == 2:
            shutil.move(self.checkpoints.folder, workplace.folder / "moved")
        return metrics

    monkeypatch.setattr(Trainer, "train_epoch", and_move)
    outcome = workplace.train("-c", workplace.write_config({"trainer.epochs": 2}))
    outcome.check_success()
    assert "was moved or removed" in outcome.out
    for folder in (workplace.folder / "moved", workplace.run):
        assert (folder / "last.pth").is_file()
    done = [torch.load(folder / "last.pth", weights_only=True) for folder in (Path("moved"), workplace.run)]
    assert [content["completed_epochs"] for content in done] == [1, 2]


PROGRAM = "from utils.errors import run_and_exit; run_and_exit(lambda: print(chr(0xac00)))"


def test_closed_streams_and_names_that_they_cannot_encode() -> None:
    for closing, printed in {">&-": "", "2>&-": "\N{HANGUL SYLLABLE GA}\n", "<&- >&- 2>&-": ""}.items():
        assert run_in_shell(closing, PYTHONUTF8="1") == (0, printed, "")
    assert run_in_shell("", PYTHONUTF8="0", PYTHONIOENCODING="ascii") == (0, "\\uac00\n", "")


def run_in_shell(redirection: str, **environment: str) -> tuple[int, str, str]:
    command = [f"{sys.executable} -c '{PROGRAM}' {redirection}"]
    done = subprocess.run(
        command, shell=True, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr

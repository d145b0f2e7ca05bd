"""Checkpoints that are damaged, hostile or made for something else, given to train.py --resume and to test.py --resume
as a file and as a run folder: one line that names the file, exit code 4, nothing executed and nothing written."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.integration.workplace import Workplace
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint

MARK = "a hostile file was here"
COMMANDS = ("train-file", "train-folder", "test-file", "test-folder")


class Hostile:
    """Unpickled with full trust, it makes a folder in the working directory."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (MARK,)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :]


def as_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def as_content(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    """A checkpoint with a right checksum, but other content."""

    def spoil(path: Path) -> None:
        content = read_checkpoint(path)
        change(content)
        write_checkpoint(path, content)

    return spoil


def more_age_classes(content: dict[str, Any]) -> None:
    for name in ("weight", "bias"):
        tensor = content["model"][f"heads.head_age.{name}"]
        content["model"][f"heads.head_age.{name}"] = torch.cat([tensor, tensor])


NOTHING_RUN, EARLIER, IMPORT = (
    "nothing was executed",
    "use an earlier checkpoint",
    "python -m scripts.import_checkpoint",
)
BAD_FILES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "55-half": (as_bytes(lambda data: data[: len(data) // 2]), ("truncated", EARLIER)),
    "55-a-zeroed-page": (as_bytes(lambda data: data[:4096] + bytes(4096) + data[8192:]), ("damaged", EARLIER)),
    "56-in-the-weights": (as_bytes(lambda data: flipped(data, len(data) // 2)), ("damaged", EARLIER)),
    "57-empty": (as_bytes(lambda _: b""), ("empty", EARLIER)),
    "58-zip": (lambda path: torch.save({"model": Hostile()}, path), ("posix.mkdir", NOTHING_RUN)),
    "58-raw": (lambda path: path.write_bytes(pickle.dumps(Hostile())), ("posix.mkdir", NOTHING_RUN)),
    "58-right-checksum": (as_content(lambda content: content.update(model=Hostile())), (NOTHING_RUN,)),
    "60-whole-module": (lambda path: torch.save(nn.Linear(2, 2), path), ("nn.Module", NOTHING_RUN, "state_dict")),
    "65-a-newer-format": (as_content(lambda content: content.update(version=99)), ("99", "update the program")),
    "66-a-template's": (
        lambda path: torch.save({"arch": "Net", "epoch": 3, "state_dict": {}, "config": argparse.Namespace()}, path),
        ("pytorch-template", IMPORT),
    ),
    "66-weights-alone": (lambda path: torch.save({"fc.weight": torch.zeros(2)}, path), ("fc.weight", IMPORT)),
    "66-html": (as_bytes(lambda _: b"<!DOCTYPE html>"), ("<!DOCTYPE", "download")),
    "66-without-checksum": (lambda path: torch.save({**read_checkpoint(path)}, path), ("checksum", EARLIER)),
}
"""More kinds of files are in tests/utils/checkpoint."""


def run_command(workplace: Workplace, command: str, *argv: str) -> Any:
    script, _, target = command.partition("-")
    name = "last.pth" if target == "file" else ""
    return getattr(workplace, script)("--resume", workplace.run / name, *argv)


def spoil_all(workplace: Workplace, spoil: Callable[[Path], object]) -> list[str]:
    """Spoils every checkpoint of the run; returns their names as the commands report them."""
    checkpoints = sorted((workplace.folder / workplace.run).glob("*.pth"))
    assert [path.name for path in checkpoints] == ["best_f1.pth", "last.pth", "model_best.pth"]
    for path in checkpoints:
        content = path.read_bytes()
        path.unlink()  # they are one file under several names
        path.write_bytes(content)
        spoil(path)
    return [str(path.relative_to(workplace.folder)) for path in checkpoints]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file(trained: Workplace, case: str, command: str) -> None:
    spoil, fragments = BAD_FILES[case]
    best_f1, last, best = spoil_all(trained, spoil)
    every = [last, best, best_f1]
    named = {"train-file": [last], "train-folder": every, "test-file": [last], "test-folder": [best]}[command]
    before = trained.files()
    run_command(trained, command).check_refusal(4, *((f"{name}: ", *fragments) for name in named))
    assert trained.files() == before
    assert not (trained.folder / MARK).exists()


def change_weight(name: str, change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["model"].update({name: change(content["model"][name])})


MASK_BIAS = "heads.head_mask.bias"
BAD_WEIGHTS: dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "62-more-classes": (more_age_classes, ("heads.head_age.weight", "(6, 32)", "(3, 32)")),
    "62-another-width": (
        lambda content: content["config"]["arch"].update(args={"width": 8}),
        ("features.0.weight", "(4, 3, 3, 3)", "(8, 3, 3, 3)"),
    ),
    "62-weights-in-a-list": (lambda content: content.update(model=[1]), ("weights", EARLIER)),
    "62-no-tensor": (change_weight(MASK_BIAS, lambda _: "zeros"), ("weights", EARLIER)),
    "63-nan": (change_weight(MASK_BIAS, lambda bias: bias * float("nan")), (MASK_BIAS, "finite", EARLIER)),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_do_not_fit(trained: Workplace, case: str, command: str) -> None:
    change, fragments = BAD_WEIGHTS[case]
    spoil_all(trained, as_content(change))
    known_images = str(trained.save_dir / "checked_images.json")
    before = trained.files() | {known_images: 0}
    name = "model_best.pth" if command == "test-folder" else "last.pth"
    run_command(trained, command).check_refusal(4, (f"{trained.run}/{name}: ", *fragments))
    assert trained.files() | {known_images: 0} == before


def set_in_config(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["config"].update(values)


ODD_CONTENT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {  # and what the error names
    "no-weights": (lambda content: content.pop("model"), "'model'"),
    "no-config": (lambda content: content.pop("config"), "'config'"),
    "no-loader": (lambda content: content["config"].pop("data_loader"), "'data_loader'"),
    "a-config-in-a-list": (lambda content: content.update(config=[1]), ""),
    "epochs-in-words": (lambda content: content.update(completed_epochs="one"), "'one'"),
    "one-class": (lambda content: content["labels"]["attributes"]["mask"].update(classes=["x"]), "attributes.mask"),
    "an-unknown-transform": (
        lambda content: content["preprocessing"].update(eval_transforms=[{"type": "os.system"}]),
        '"os.system"',
    ),
    "an-unknown-argument": (set_in_config(arch={"type": "BaselineCNN", "args": {"widht": 4}}), "'widht'"),
    "an-arch-of-a-number": (set_in_config(arch={"type": 5}), ""),
    "preprocessing-in-a-list": (lambda content: content.update(preprocessing=[1]), "preprocessing"),
    "views-of-a-number": (set_in_config(views={"flip": 5}), ""),
    "a-number-for-a-folder": (set_in_config(info_dir=5), "info_dir"),
    "data-in-words": (set_in_config(data="faces"), "data"),
}


@pytest.mark.parametrize("case", ODD_CONTENT)
def test_content_of_another_version_is_refused(trained: Workplace, case: str) -> None:
    change, named = ODD_CONTENT[case]
    spoil_all(trained, as_content(change))
    trained.test("--resume", trained.run / "last.pth").check_refusal(4, (f"{trained.run}/last.pth: ", named))
    assert trained.submissions == []


@pytest.mark.parametrize("choice", [None, {"cpu": None}, {"cpu": {"precision": []}}], ids=repr)
def test_a_wrong_choice_of_what_to_compute_in(trained: Workplace, choice: Any) -> None:
    """test.py does not use it: it predicts in float32."""
    spoil_all(trained, as_content(lambda content: content.update(compute=choice)))
    outcome = run_command(trained, "train-folder", "--set", "trainer.epochs=2")
    outcome.check_refusal(4, (f"{trained.run}/last.pth: compute = ", repr(choice)[:60]))
    run_command(trained, "test-file").check_success()


@pytest.mark.parametrize("command", COMMANDS)
def test_64_half_precision_is_warned_of(trained: Workplace, command: str) -> None:
    def halve(content: dict[str, Any]) -> None:
        model = content["model"]
        model.update({name: tensor.half() for name, tensor in model.items() if tensor.is_floating_point()})

    spoil_all(trained, as_content(halve))
    outcome = run_command(trained, command)
    outcome.check_success()
    lines = [line for line in outcome.out.splitlines() if "half-precision weights" in line]
    assert lines
    assert len(set(lines)) == len(lines)  # once of each checkpoint that is read
    assert all(line.startswith(f"warning: {trained.run}") for line in lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_61_the_names_of_a_wrapped_model_are_stripped(trained: Workplace, command: str) -> None:
    def wrap(content: dict[str, Any]) -> None:
        content["model"] = {f"module.{name}": tensor for name, tensor in content["model"].items()}

    run_command(trained, command).check_success()
    answers = [path.read_bytes() for path in trained.submissions]
    spoil_all(trained, as_content(wrap))
    run_command(trained, command).check_success()
    assert [path.read_bytes() for path in trained.submissions] == answers


def test_a_run_of_a_hostile_name_writes_inside(trained: Workplace) -> None:
    """A checkpoint made by others names its run, and the submission is named after that."""

    def set_name(content: dict[str, Any]) -> None:
        content["config"]["name"] = content["run_name"] = "../../outside"

    spoil_all(trained, as_content(set_name))
    outside = set(trained.folder.parent.rglob("*outside*"))
    trained.test("--resume", trained.run).check_success()
    (submission,) = trained.submissions
    written = {submission, submission.with_name(f"{submission.name}.json")}
    assert set(trained.folder.parent.rglob("*outside*")) - outside == written
    trained.train("--resume", trained.run).check_refusal(4, (str(trained.run), "run_name"))


@pytest.mark.parametrize("case", ["55-half", "56-in-the-weights", "58-zip", "66-html"])
def test_the_run_goes_on_from_the_one_before(trained: Workplace, case: str) -> None:
    """last.pth is bad and model_best.pth is sound: one warning, and the run ends as one that was never damaged."""
    argv = ("--resume", str(trained.run), "--set", "trainer.epochs=2")
    last = trained.folder / trained.run / "last.pth"
    sound = last.read_bytes()
    trained.train(*argv).check_success()
    expected = (last.read_bytes(), trained.only("saved/log/Tiny/*/metrics.jsonl").read_bytes())

    for path in (trained.folder / trained.run).glob("*.pth"):
        path.unlink()
        path.write_bytes(sound)
    spoil, fragments = BAD_FILES[case]
    spoil(last)
    outcome = trained.train(*argv)
    outcome.check_success()
    (line,) = [line for line in outcome.out.splitlines() if line.startswith(f"warning: {trained.run}/last.pth: ")]
    assert all(fragment in line for fragment in fragments)
    assert line.removeprefix("warning: ") in trained.only("saved/log/Tiny/*/info.log").read_text()
    assert outcome.err == ""
    assert (last.read_bytes(), trained.only("saved/log/Tiny/*/metrics.jsonl").read_bytes()) == expected
    assert not (trained.folder / MARK).exists()


def test_resume_auto_refuses_when_all_are_bad(trained: Workplace) -> None:
    trained.write_config()
    spoil_all(trained, as_bytes(lambda data: data[:100]))
    outcome = trained.train_and_change_nothing("--config", "tiny.json", "--resume", "auto")
    outcome.check_refusal(
        4, *((f"{trained.run}/{name}.pth: ", "truncated") for name in ("last", "model_best", "best_f1"))
    )


def test_resume_auto_finds_a_run_whose_config_is_damaged(trained: Workplace) -> None:
    (trained.folder / trained.run / "config.json").write_text("{")
    outcome = trained.train("--config", trained.write_config(), "--resume", "auto")
    outcome.check_success()
    assert f"warning: {trained.run}/config.json: " in outcome.out
    assert len(trained.runs) == 1


@pytest.mark.parametrize(
    ("key_path", "value", "before"),
    [
        ("arch.args.width", 8, "4"),
        ("labels.attributes.age.training_bins", [30, 58], "without"),
        ("seed", 7, "42"),
        ("split.args.validation_share", 0.5, "0.25"),
        ("optimizer.args.lr", 0.5, "0.002"),
        ("lr_scheduler.args.step_size", 2, "5"),
    ],
)
def test_25_resuming_with_what_may_not_change_in_a_run(
    trained: Workplace, key_path: str, value: Any, before: str
) -> None:
    """Each difference is shown, with the file or the flag that makes it; without --resume all of it is fine."""
    config = trained.write_config({key_path: value})
    override = f"{key_path}={json.dumps(value)}"
    for argv, origin in ((["--config", str(config)], "tiny.json"), (["--set", override], f"--set {override}")):
        outcome = trained.train_and_change_nothing("--resume", trained.run, *argv)
        outcome.check_refusal(2, (f"{origin}: {key_path} = {json.dumps(value)}", before), "")


def test_25_all_differences_are_shown_together(trained: Workplace) -> None:
    config = trained.write_config({"arch.args": {"width": 8, "drop_rate": 0.5}, "seed": 1})
    outcome = trained.train_and_change_nothing("--resume", trained.run, "--config", config)
    assert outcome.exit_code == 2
    assert {line.split(" = ")[0] for line in outcome.lines[:-1]} == {
        f"tiny.json: {place}" for place in ("seed", "arch.args.width", "arch.args.drop_rate")
    }


@pytest.mark.parametrize(
    "override",
    ["trainer.epochs=2", "data_loader.args.num_workers=0", "data_loader.args.cache=disk", "trainer.early_stop=9"],
)
def test_25_what_may_change_in_a_run(trained: Workplace, override: str) -> None:
    trained.train("--resume", trained.run, "--set", override).check_success()

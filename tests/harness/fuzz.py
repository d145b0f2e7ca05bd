"""Gives mutated configs, tables, images and checkpoints to what reads them: only success or our own errors may come of
it. python -m tests.harness.fuzz --configs 10000 --files 2000 --seed 1

A config is checked as train.py --print-config does: read, resolved, its model built without memory, its transforms,
optimizer and schedule tried. A file is read as training, prediction and the page read it. Every trial has a limit of
time and of memory, in a process that is forked for a hundred of them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import gzip
import hashlib
import io
import itertools
import json
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

import train
from base.label_space import LabelSpace
from data_loader.records import read_records
from data_loader.records.label_table import LabelTable
from data_loader.records.sources import AttributeTable, CompetitionFolder, PseudoLabels, read_evaluation_folder
from experiment.runs import summarise_runs
from experiment.schema import SECTIONS
from inference.inputs import read_truth
from inference.predictor import Predictor
from parse_config import ConfigParser
from tests.harness.mutations import Bases, Case, mutated_bytes, mutated_configs
from tests.integration.workplace import EVALUATION_NAMES, PEOPLE, STEMS, make_data, person_folder, photograph
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.checkpoint.foreign_checkpoint import read_foreign_checkpoint
from utils.config.json_text import read_json
from utils.errors import DataError, UserError, run_command
from utils.images import decode_rgb, inspect_image, read_rgb

ROOT = Path(__file__).parents[2]
EARLIER_RUN = ROOT / "tests" / "integration" / "earlier_run" / "saved"
TRIALS_OF_A_PROCESS = 100
CPU_SECONDS, SILENT_SECONDS = 20, 300
"""Of one trial: of the processor, which other work does not spend; and by the clock, where even that limit hangs."""
MEMORY_BYTES = 3 * 2**30
"""That a process may take beside what it has when it is forked."""
ALLOWED_EXIT_CODES = (2, 3, 4)
LONGEST_LINE = 2000
LOG = "processes.log"
"""Of what the forked processes print on stderr."""

Trial = Callable[[Case], None]
"""Raises UserError where a case is refused, and nothing where it is fine."""


class TooLong(BaseException):
    """No Exception: nothing may take it for an error of a library."""


@dataclass(frozen=True)
class Failure:
    """What a case did beside being read or refused.

    case: in words
    wrong: the foreign exception and where it was raised, or what else
    file: that holds it
    """

    case: str
    wrong: str
    file: str


# --- configs ---


def base_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """By name: config.json and all of configs/, each as it is and with every default, with a network that is built in
    milliseconds. What they extend is named by absolute paths.

    folder: of the harness, in which all paths of configs lead nowhere"""
    found = {}
    for path in [ROOT / "config.json", *sorted((ROOT / "configs").glob("*.json"))]:
        own = read_json(path)
        parents = own.get("extends", [])
        named = [parents] if isinstance(parents, str) else parents
        written = {**own, **({"extends": [str((path.parent / each).resolve()) for each in named]} if named else {})}
        with contextlib.suppress(UserError):
            resolved = ConfigParser.from_file(path, SECTIONS).resolved
            for name, config in ((path.stem, written), (f"{path.stem} resolved", resolved)):
                config = json.loads(json.dumps(config))
                if resolved["arch"]["type"] == "TimmModelMulti":
                    arch = config.setdefault("arch", {})
                    arch.setdefault("args", {}).update(model_name="test_resnet", pretrained=False)
                config.setdefault("trainer", {})["save_dir"] = str(folder / "saved")
                found[name] = config
                if "arch" not in own:
                    loader = config.setdefault("data_loader", {}).setdefault("args", {})
                    loader["input_size"] = 32
                    small = {**config, "arch": {"type": "BaselineCNN", "args": {"width": 4}}}
                    found[f"{name} small"] = json.loads(json.dumps(small))
    return found


def try_config(folder: Path) -> Trial:
    def trial(case: Case) -> None:
        file = folder / "fuzz.json"
        file.write_bytes(case.data)
        train.main(["--config", str(file), "--print-config", *case.arguments])

    return trial


# --- files ---


@dataclass(frozen=True)
class FileKind:
    """Files that one reader reads.

    samples: by name, the bytes of good ones
    trial: of a mutated one
    """

    samples: Mapping[str, bytes]
    trial: Trial


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def image_samples() -> dict[str, bytes]:
    """Small ones of every format and mode that is read."""
    rgb = Image.fromarray(photograph(1))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey_16 = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(40, 30) * 50)
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.convert("L"))
    return {
        "JPEG": _encoded(rgb, "JPEG", exif=exif),
        "progressive JPEG": _encoded(rgb, "JPEG", progressive=True, comment=b"x" * 50),
        "CMYK JPEG": _encoded(rgb.convert("CMYK"), "JPEG"),
        "grey JPEG": _encoded(rgb.convert("L"), "JPEG"),
        "PNG": _encoded(rgb, "PNG", exif=exif, icc_profile=b"x" * 200),
        "palette PNG": _encoded(rgb.quantize(16), "PNG", transparency=3),
        "16-bit PNG": _encoded(grey_16, "PNG"),
        "1-bit PNG": _encoded(rgb.convert("1"), "PNG"),
        "PNG with alpha": _encoded(alpha, "PNG"),
        "WEBP": _encoded(rgb, "WEBP", exif=exif),
        "lossless WEBP with alpha": _encoded(alpha, "WEBP", lossless=True),
        "BMP": _encoded(rgb, "BMP"),
        "8-bit BMP": _encoded(rgb.quantize(64), "BMP"),
    }


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of their content, so that what is inside reaches the decoder."""
    import zlib

    found, start = data[:8], 8
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            break
        found += data[start:end] + zlib.crc32(data[start + 4 : end]).to_bytes(4, "big")
        start = end + 4
    return found + data[start:]


def try_image(folder: Path) -> Trial:
    def trial(case: Case) -> None:
        data = with_right_checksums(case.data) if "PNG" in case.base and len(case.data) % 2 else case.data
        file = folder / "image.jpg"
        file.write_bytes(data)
        finding = inspect_image(file)
        try:
            image = read_rgb(file)
        except DataError as error:
            if finding.problem is None:
                raise AssertionError("the check takes what reading refuses") from error
            raise
        assert finding.problem is None, f"the check refuses what is read: {finding.problem}"
        assert (image.dtype, image.ndim, image.shape[2], image.flags.writeable) == (np.uint8, 3, 3, True)
        assert np.array_equal(image, decode_rgb(data, "upload")), "training and page decode differently"
        for bits in (8, "own_maximum"):
            assert read_rgb(file, bits).shape == image.shape

    return trial


PHOTOGRAPH = f"{person_folder(*PEOPLE[1])}/normal.jpg"


def table_samples() -> dict[str, bytes]:
    paths = [f"images/{person_folder(*person)}/{stem}.jpg" for person in PEOPLE for stem in STEMS]
    rows = [
        [path, str(number // 7), ("wear", "incorrect", "not_wear")[number % 3], person[1], str(person[2])]
        for number, (path, person) in enumerate(zip(paths, [p for p in PEOPLE for _ in STEMS], strict=True))
    ]
    table = pd.DataFrame(rows, columns=["path", "person", "mask", "gender", "age"])
    train_rows = "".join(
        f"{number},{gender},Asian,{age},{person_folder(number, gender, age)}\n" for number, gender, age in PEOPLE
    )
    classes = ["mask wear", "mask incorrect", "mask not_wear", "gender male", "gender female"]
    probabilities = "".join(f"{name},0.95,0.03,0.02,0.99,0.01\n" for name in EVALUATION_NAMES)
    parquet = io.BytesIO()
    table.to_parquet(parquet)
    csv = table.to_csv(index=False).encode()
    return {
        "train.csv": f"id,gender,race,age,path\n{train_rows}".encode(),
        "labels.csv": csv,
        "labels.tsv": table.to_csv(index=False, sep="\t").encode(),
        "labels.csv.gz": gzip.compress(csv),
        "labels.parquet": parquet.getvalue(),
        "fixes.csv": f"person,path,attribute,value\n000001,,age,31\n,{PHOTOGRAPH},mask,wear\n".encode(),
        "info.csv": b"ImageID,ans\n" + "".join(f"{name},0\n" for name in EVALUATION_NAMES).encode(),
        "answers.csv": b"ImageID,ans\n"
        + "".join(f"{name},{at}\n" for at, name in enumerate(EVALUATION_NAMES)).encode(),
        "classes.csv": b"ImageID,mask,gender,age,person\n"
        + "".join(f"{name},wear,male,33,{name}\n" for name in EVALUATION_NAMES).encode(),
        "probabilities.csv": f"ImageID,{','.join(classes)}\n{probabilities}".encode(),
    }


def labels_of_faces() -> LabelSpace:
    return LabelSpace(**read_json(ROOT / "config.json")["labels"])


def try_table(folder: Path) -> Trial:
    train_root, info_dir, labels = folder / "data" / "train", folder / "data" / "eval", labels_of_faces()
    records = read_evaluation_folder(info_dir)

    def read(name: str, file: Path) -> LabelTable | Any:
        if name == "train.csv":
            return read_records([CompetitionFolder(str(train_root))], labels)
        if name.startswith("labels"):
            return read_records([AttributeTable(str(file), str(train_root))], labels)
        if name == "fixes.csv":
            return read_records([CompetitionFolder(str(train_root))], labels, file)
        if name == "info.csv":
            return read_evaluation_folder(info_dir)
        if name == "probabilities.csv":
            return PseudoLabels(str(file), str(info_dir / "images")).collect([], labels.attributes)
        return read_truth(str(file), labels, records)

    def trial(case: Case) -> None:
        folders = {"train.csv": train_root, "info.csv": info_dir}
        file = folders.get(case.base, folder) / case.base
        before = file.read_bytes() if case.base in folders else b""
        file.write_bytes(case.data)
        try:
            read(case.base, file)
        finally:
            file.write_bytes(before)

    return trial


def run_samples() -> dict[str, bytes]:
    return {
        str(path.relative_to(EARLIER_RUN)): path.read_bytes()
        for path in sorted(EARLIER_RUN.rglob("*.*"))
        if path.is_file() and path.suffix in (".json", ".jsonl")
    }


def try_run_folder(folder: Path) -> Trial:
    """What a run has left, as tables of runs and the page read it."""
    saved = folder / "earlier"
    shutil.copytree(EARLIER_RUN, saved)

    def trial(case: Case) -> None:
        file = saved / case.base
        before = file.read_bytes()
        file.write_bytes(case.data)
        try:
            summarise_runs(saved)
        finally:
            file.write_bytes(before)

    return trial


def try_checkpoint(folder: Path) -> Trial:
    """One whose checksum is right, as of who wants to harm, and one of another program."""
    file = folder / "last.pth"

    def trial(case: Case) -> None:
        archive = case.data[: -len("sha256:") - 64 - 2] + b"\0\0"
        data = archive
        if case.base == "with a checksum":
            comment = b"sha256:" + hashlib.sha256(archive).hexdigest().encode()
            data = archive[:-2] + len(comment).to_bytes(2, "little") + comment
        file.write_bytes(data)
        if case.base != "with a checksum":
            read_foreign_checkpoint(file)
            return
        read_checkpoint(file)
        Predictor.from_checkpoint(file)

    return trial


def file_kinds(folder: Path) -> dict[str, FileKind]:
    """By name; folder: of the harness, with data in it."""
    checkpoint = next(EARLIER_RUN.rglob("last.pth")).read_bytes()
    return {
        "image": FileKind(image_samples(), try_image(folder)),
        "table": FileKind(table_samples(), try_table(folder)),
        "run": FileKind(run_samples(), try_run_folder(folder)),
        "checkpoint": FileKind({"with a checksum": checkpoint, "foreign": checkpoint}, try_checkpoint(folder)),
    }


@st.composite
def mutated_files(draw: st.DrawFn, samples: Bases) -> Case:
    name = draw(st.sampled_from(sorted(samples)))
    data, steps = draw(mutated_bytes(samples[name]))
    return Case(name, data, tuple(steps))


# --- trials ---


def outcome_of(trial: Trial, case: Case) -> str:
    """ "" for a success and for an error of ours; else what is wrong."""
    try:
        with _limited(), contextlib.redirect_stdout(io.StringIO()):
            trial(case)
    except UserError as error:
        text = str(error)
        if error.exit_code not in ALLOWED_EXIT_CODES:
            return f"exit code {error.exit_code}: {text[:300]}"
        if not text.strip():
            return "an error without a word"
        longest = max(text.splitlines(), key=len)
        return f"a line of {len(longest)} characters: {longest[:200]}" if len(longest) > LONGEST_LINE else ""
    except TooLong:
        return f"takes more than {CPU_SECONDS} s of the processor, in {_place(sys.exc_info()[2])}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]!r} in {_place(error.__traceback__)}"
    return ""


def _place(trace: Any) -> str:
    """The last line of ours and the last line at all."""
    frames = traceback.extract_tb(trace)
    ours = [each for each in frames if str(ROOT) in each.filename and "harness" not in each.filename]
    named = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*ours[-1:], *frames[-1:])]
    return ", ".join(dict.fromkeys(named))


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def run_trials(
    strategy: SearchStrategy[Case], trial: Trial, count: int, seed: int, ended: Callable[[Case, str], None]
) -> None:
    """In this process; `ended` is told each case and what is wrong with its outcome."""
    told = itertools.count()

    @with_seed(seed)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(strategy)
    def each(case: Case) -> None:
        if next(told) < count:
            ended(case, outcome_of(trial, case))

    each()


def fuzz(
    name: str, strategy: SearchStrategy[Case], trial: Trial, count: int, seed: int, folder: Path
) -> Iterator[Failure | None]:
    """The trials in processes of their own; None for each that is good.

    folder: cases that fail are kept in it"""
    done = number = 0
    while done < count:
        size = min(TRIALS_OF_A_PROCESS, count - done)
        for case, wrong in _in_a_process(strategy, trial, size, seed * 1_000_003 + number, folder / LOG):
            kept = ""
            if wrong:
                path = folder / f"{name}-{seed}-{done}{Path(case.base).suffix or '.json' if name == 'config' else ''}"
                path.write_bytes(case.data)
                kept = str(path)
            done += 1
            yield Failure(str(case), wrong, kept) if wrong else None
        number += 1


def _in_a_process(
    strategy: SearchStrategy[Case], trial: Trial, count: int, seed: int, log: Path
) -> Iterator[tuple[Case, str]]:
    """As `run_trials`, but a crash, a hang and a lack of memory end a forked process alone."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _be_the_child(strategy, trial, count, seed, writer, log)
    os.close(writer)
    gc.freeze()  # or each collection in the process would copy what the parent holds
    announced, ended = Case("before its first case", b""), 0
    try:
        with os.fdopen(reader, "r", encoding="utf-8") as lines:
            while True:
                signal.alarm(SILENT_SECONDS)
                line = lines.readline()
                signal.alarm(0)
                if not line:
                    break
                content = json.loads(line)
                case = Case(
                    content["base"],
                    bytes.fromhex(content["data"]),
                    tuple(content["steps"]),
                    tuple(content["arguments"]),
                )
                if "wrong" in content:
                    ended += 1
                    yield case, content["wrong"]
                else:
                    announced = case
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        yield announced, f"is silent for {SILENT_SECONDS} s"
        ended = count
    _, status = os.waitpid(child, 0)
    if ended < count and status:
        yield announced, f"ends the process: {os.waitstatus_to_exitcode(status)}"


def _be_the_child(strategy: SearchStrategy[Case], trial: Trial, count: int, seed: int, writer: int, log: Path) -> None:
    try:
        logging.disable(logging.CRITICAL)
        torch.set_num_threads(1)
        data_now = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (data_now + MEMORY_BYTES,) * 2)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
        with os.fdopen(writer, "w", encoding="utf-8") as lines:

            def tell(case: Case, **more: str) -> None:
                data = case.data.hex() if more.get("wrong") != "" else ""
                content = {"base": case.base, "data": data, "steps": case.steps, "arguments": case.arguments, **more}
                print(json.dumps(content), file=lines, flush=True)

            def announced(case: Case) -> None:
                tell(case)
                trial(case)

            run_trials(strategy, announced, count, seed, lambda case, wrong: tell(case, wrong=wrong))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _alarm(*_: Any) -> None:
    raise TimeoutError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.fuzz", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--configs", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=2_000, help="tables and images, and a fifth as many others")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="cases that fail stay there (default: a new one)")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))).absolute()
    folder.mkdir(exist_ok=True)
    signal.signal(signal.SIGALRM, _alarm)
    begin = last = time.monotonic()
    good, total, places = 0, 0, Counter[str]()
    for name, strategy, trial, count in campaigns(folder, arguments.configs, arguments.files):
        well = 0
        for number, failure in enumerate(fuzz(name, strategy, trial, count, arguments.seed, folder)):
            well += failure is None
            now = time.monotonic()
            if failure is not None:
                print(f"{name} {number}: {failure.wrong}\n    {failure.case[:600]}\n    {failure.file}", flush=True)
                places[f"{name}: {failure.wrong.rpartition(' in ')[2]}"] += 1
            if now > last + 60:
                last = now
                print(f"{name}: {number + 1} of {count} [{now - begin:.0f} s]", flush=True)
        print(f"fuzz {name}, seed {arguments.seed}: {well} of {count} [{time.monotonic() - begin:.0f} s]", flush=True)
        good, total = good + well, total + count
    for place, count in places.most_common():
        print(f"{count} times {place}")
    print(f"fuzz, seed {arguments.seed}: {good} of {total}")
    if good < total:
        sys.exit(f"the cases that fail are in {folder}")


def campaigns(folder: Path, configs: int, files: int) -> Iterator[tuple[str, SearchStrategy[Case], Trial, int]]:
    """Name, strategy, trial and count of each."""
    if not (folder / "data").exists():
        make_data(folder)
    shutil.rmtree(folder / "earlier", ignore_errors=True)
    kinds = file_kinds(folder)
    for name, kind in kinds.items():
        count = files // 2 if name in ("image", "table") else files // 10
        yield name, mutated_files(Bases(kind.samples)), kind.trial, count
    yield "config", mutated_configs(Bases(base_configs(folder))), try_config(folder), configs


if __name__ == "__main__":
    sys.exit(run_command(main))

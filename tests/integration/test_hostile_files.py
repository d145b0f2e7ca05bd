"""Files that are made to harm: nothing in a checkpoint is executed wherever one may be named, paths stay in their
folder, and what unpacks to gigabytes is refused before it does."""

from __future__ import annotations

import ast
import functools
import gzip
import hashlib
import io
import os
import pickle
import resource
import shutil
import struct
import subprocess
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from data_loader.records import tables
from data_loader.records.tables import MAX_COLUMNS, read_table
from experiment.runs import summarise_runs
from scripts import import_checkpoint, runs, soup
from tests.integration.test_bad_input import progressive
from tests.integration.workplace import ROOT, Outcome, Workplace
from utils.checkpoint import read_checkpoint, read_foreign_checkpoint, restricted_unpickler
from utils.checkpoint.checkpoint_file import FORMAT, VERSION
from utils.config.json_text import read_json
from utils.errors import CheckpointError, ConfigError, DataError, run_command
from utils.images import read_rgb

CANARY = "executed"


@pytest.fixture(autouse=True)
def _memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file that takes more than 2 GiB fails its test, and harms no other. Limits are lower, for the time of tests."""
    monkeypatch.setattr(restricted_unpickler, "MAX_VALUES", 10_000)
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 4 * 2**20)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    now = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (now + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


class Call:
    """Unpickled with full trust, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


SYSTEM = Call(os.system, f"mkdir {CANARY}")


class Module(nn.Linear):
    """A whole module, whose reading makes the canary."""

    def __reduce__(self) -> Any:
        return os.system, (f"mkdir {CANARY}",)


def saved(content: Any, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def ours(content: dict[str, Any]) -> Callable[[Path], object]:
    """In our own format, with the right checksum."""

    def write(path: Path) -> None:
        data = saved({"format": FORMAT, "version": VERSION, **content})
        comment = b"sha256:" + hashlib.sha256(data).hexdigest().encode()
        path.write_bytes(data[:-2] + len(comment).to_bytes(2, "little") + comment)

    return write


def written(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(path))


def archive(**records: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in records.items():
            file.writestr(f"archive/{name.replace('_', '.')}", data)
    return stream.getvalue()


def doubled(levels: int) -> Any:
    value: Any = [0]
    for _ in range(levels):
        value = [value, value]
    return value


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def tensor_of_terabytes() -> torch.Tensor:
    return torch.zeros(1).expand(2**20, 2**20)


def safetensors_with(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


HOSTILE: dict[str, Callable[[Path], object]] = {
    "zip": written(saved({"state_dict": SYSTEM})),
    "legacy": written(saved({"state_dict": SYSTEM}, zipped=False)),
    "raw": written(pickle.dumps(SYSTEM)),
    "raw-protocol-0": written(pickle.dumps(SYSTEM, 0)),
    "nested": written(saved({"state_dict": {"a": [{"b": (1, SYSTEM)}]}})),
    "reduce-in-reduce": written(saved(Call(functools.partial, Call(os.system, f"mkdir {CANARY}")))),
    "pickle-in-pickle": written(saved(Call(pickle.loads, pickle.dumps(SYSTEM)))),
    "eval": written(saved(Call(eval, f"__import__('os').mkdir('{CANARY}')"))),
    "whole-module": written(saved(Module(2, 2))),
    "torchscript": torchscript,
    "ours": ours({"model": SYSTEM}),
    "ours-of-the-optimizer": ours({"model": {}, "optimizer": {"state": SYSTEM}}),
    "ours-doubled": ours({"model": {}, "config": doubled(60)}),
    "ours-deep": ours({"model": {}, "config": deep(400)}),
    "ours-a-tensor-of-terabytes": ours({"model": {"a": tensor_of_terabytes()}}),
    "zip-bomb": written(archive(data_pkl=bytes(2**26), version=b"3")),
    "doubled": written(saved({"a": doubled(60)})),
    "a-tensor-of-terabytes": written(saved({"a": tensor_of_terabytes()})),
    "memo-of-gigabytes": written(b"\x80\x02N" + b"r\xff\xff\xff\x7f" + b"."),
    "bytes-of-gigabytes": written(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."),
    "safetensors-header": written(safetensors_with(b'{"a":1}', 2**62)),
    "safetensors-shape": written(
        safetensors_with(b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}') + bytes(4)
    ),
    "safetensors-offsets": written(
        safetensors_with(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999]}}') + bytes(4)
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_checkpoint_is_refused_and_nothing_of_it_is_executed(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("last.pth")
    HOSTILE[case](path)
    for read in (read_checkpoint, read_foreign_checkpoint):
        began = time.process_time()
        with pytest.raises(CheckpointError, match=r"^last\.pth: ") as error:
            read(path)
        assert "\n" not in str(error.value)
        assert time.process_time() - began < 20
    assert not Path(CANARY).exists()
    assert len(list(Path().iterdir())) == 1


def command(main: Callable[[list[str]], object], place: Workplace, *arguments: str | Path) -> Outcome:
    place.capfd.readouterr()
    code = run_command(lambda: main([str(each) for each in arguments]))
    captured = place.capfd.readouterr()
    return Outcome(code, captured.out, captured.err)


def test_wherever_a_checkpoint_is_named(trained: Workplace) -> None:
    """--resume of a file, a run and several; initial weights, a backbone's weights, a soup, runs, an import."""
    hostile, run = Path("hostile.pth"), trained.run
    HOSTILE["zip"](trained.folder / hostile)
    config = trained.write_config()
    backbone = {"arch": {"type": "TimmModelMulti", "args": {"model_name": "test_resnet", "weights_file": str(hostile)}}}
    for outcome in (
        trained.train("--resume", hostile),
        trained.test("--resume", hostile),
        trained.test("--resume", run, hostile),
        trained.train("-c", config, "--from", hostile),
        command(import_checkpoint.main, trained, hostile, "-c", config),
    ):
        outcome.check_refusal(4, ("hostile.pth: ", "nothing was executed"))
    outcome = trained.train("-c", trained.write_config(backbone))
    assert outcome.exit_code in (2, 4)
    assert "nothing was executed" in outcome.err
    shutil.copytree(run, other := run.with_name("another"))
    for path in (*run.glob("*.pth"), *other.glob("*.pth")):
        path.unlink()
        HOSTILE["ours"](path)
    for outcome in (
        trained.train("--resume", run),
        trained.test("--resume", run),
        command(soup.main, trained, run, other),
    ):
        assert outcome.exit_code == 4, outcome.err
        assert "Traceback" not in outcome.err
    for argv in (["list"], ["show", run], ["diff", run, run]):
        assert "Traceback" not in command(runs.main, trained, *argv).err
    assert not (trained.folder / CANARY).exists()


LOADERS = {
    "torch.load": {"utils/checkpoint/restricted_unpickler.py"},
    "torch.jit.load": set(),
    "torch.hub.load": set(),
    "torch.export.load": {"inference/export/export.py"},  # of the folder that it has just written
    "pickle.load": set(),
    "pickle.loads": set(),
    "pickle.Unpickler": set(),
    "pickle._Unpickler": {"utils/checkpoint/restricted_unpickler.py"},
    "marshal.loads": set(),
    "shelve.open": set(),
    "joblib.load": set(),
    "yaml.load": set(),
    "pandas.read_pickle": set(),
    "pd.read_pickle": set(),
    "safetensors.torch.load": {"utils/checkpoint/foreign_checkpoint.py"},
    "safetensors.torch.load_file": {"inference/export/exported.py"},
    "onnxruntime.InferenceSession": {"inference/export/exported.py", "data_loader/preparation/person_masks.py"},
    "load_state_dict_from_url": set(),
    # one decoder of images
    "Image.open": {"benchmarks/speed/peers.py"},
    "cv2.imread": set(),
    "cv2.imdecode": {"utils/images/decoding.py"},
    "simplejpeg.decode_jpeg": {"utils/images/decoding.py"},
    "zipfile.ZipFile.extractall": set(),
    "shutil.unpack_archive": set(),
    "tarfile.open": set(),
    "os.system": set(),
}
"""By name, the files that use it."""


def test_one_place_loads_each_kind_of_file() -> None:
    """And none with allow_pickle, or through a shell."""
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {name: set() for name in LOADERS}
    for name in files.split():
        text = "" if name.startswith("tests/") else (ROOT / name).read_text(encoding="utf-8")
        if not any(each in text for each in (*LOADERS, "allow_pickle", "shell=")):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute | ast.Name) and (function := ast.unparse(node)) in found:
                found[function].add(name)
            for keyword in node.keywords if isinstance(node, ast.Call) else ():
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                assert not (keyword.arg in ("allow_pickle", "shell") and value is not False), name
    assert found == LOADERS


# --- tables, configs and images ---


def gzip_bomb(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(5):
            file.write(b"a,b\n" * 2**18)


def parquet_bomb(path: Path) -> None:
    pd.DataFrame({"path": np.zeros(5_000_000, np.bool_)}).to_parquet(path)
    assert path.stat().st_size < 100_000


TABLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a-cell-of-megabytes": (lambda path: path.write_bytes(b"path,mask\n" + b"a" * 2**21 + b",b\n"), "row 2: .*limit"),
    "a-million-columns": (
        lambda path: path.write_bytes(b"a," * 10**6 + b"b\n1" + b"," * 10**6),
        "1,000,001 columns",
    ),
    "many-columns-alike": (
        lambda path: path.write_bytes(b"a," * (MAX_COLUMNS - 1) + b"a\n1" + b"," * (MAX_COLUMNS - 1)),
        '"a" 10000 times',
    ),
    "gigabytes": (lambda path: path.open("wb").truncate(2**33), "bytes, more than"),
    "gzip-bomb": (gzip_bomb, "unpacks to more"),
    "parquet-bomb": (parquet_bomb, "unpacks to more"),
    "parquet-damaged": (lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"), "is damaged"),
    "pipe": (os.mkfifo, "no regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "folder": (Path.mkdir, "Is a directory"),
    "semicolons": (lambda path: path.write_text("path;mask\na;b\n"), "divided by ';'"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_is_read_within_bounds(case: str, tmp_path: Path) -> None:
    make, reason = TABLES[case]
    make(tmp_path / "table.csv")
    with pytest.raises(DataError, match=rf"table\.csv.*{reason}") as error:
        read_table(tmp_path / "table.csv", ["path"])
    assert len(str(error.value)) < 2000


def test_line_ends_in_cells_do_not_break_the_line_of_an_error(workplace: Workplace) -> None:
    workplace.write("data/train/train.csv", 'id,gender,race,age,path\n1,"ma\nle\x1b[2J",Asian,20,"a\r\nb"\n')
    outcome = workplace.train("-c", workplace.write_config())
    outcome.check_refusal(3, ("data/train/train.csv row 2: ", '"a\\r\\nb"'))
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize(
    "table",
    [
        "\ufeffpath,mask\r\na.jpg,wear\r\n\r\n,\r\n",
        'path,mask\n"a.jpg","wear"\n',
        "path , mask\n a.jpg , wear \n\n\n",
    ],
    ids=["bom-crlf-trailing-rows", "quoted", "spaces"],
)
def test_tables_as_spreadsheets_save_them(table: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(table.encode())
    assert read_table(tmp_path / "table.csv", ["path"]) == [(2, {"path": "a.jpg", "mask": "wear"})]


def extended(path: Path, files: int = 60) -> None:
    folder = path.parent
    path.write_text('{"extends": "0.json"}')
    for number in range(files):
        (folder / f"{number}.json").write_text(f'{{"extends": "{number + 1}.json"}}')
    (folder / f"{files}.json").write_text("{}")


CONFIGS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a-list": (lambda path: path.write_text("[1, 2]"), ("must hold an object", "not a list")),
    "a-folder": (Path.mkdir, ("cannot be read", "Is a directory")),
    "a-pipe": (os.mkfifo, ("cannot be read", "no regular file")),
    "a-device": (lambda path: path.symlink_to("/dev/zero"), ("cannot be read", "no regular file")),
    "gigabytes": (lambda path: path.open("wb").truncate(2**33), ("cannot be read", "bytes, more than")),
    "thousands-of-keys-twice": (
        lambda path: path.write_text("{" + ",".join(f'"{number % 10_000}":1' for number in range(20_000)) + "}"),
        ("duplicate key",),
    ),
    "sixty-that-extend": (extended, ("extends", "levels")),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_is_read_within_bounds(case: str, empty_workplace: Workplace) -> None:
    make, fragments = CONFIGS[case]
    make(empty_workplace.folder / "tiny.json")
    empty_workplace.train("-c", "tiny.json").check_refusal(2, ("", ".json:", *fragments))


def test_a_number_of_thousands_of_digits(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"seed": 1' + "0" * 5000 + "}")
    with pytest.raises(ConfigError, match=r"a\.json: "):
        read_json(tmp_path / "a.json")


OVERRIDES = {
    "data.7.args.root=x": "has no",
    "data.-1.args.root=x": "has no",
    "trainer.epochs.x=1": "has no",
    "__class__.__init__=1": "is not a known key",
    "=1": "a.b.c=value is expected",
    "loss.heads.mask.type=logging.os.system": "is not one of",
    "arch.type=__import__": "is not one of",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_that_names_what_is_not_ours(override: str, empty_workplace: Workplace) -> None:
    outcome = empty_workplace.train("-c", empty_workplace.write_config(), "--set", override)
    assert outcome.exit_code == 2
    assert OVERRIDES[override] in outcome.err
    assert "Traceback" not in outcome.err


def test_a_model_larger_than_the_machine_is_refused_before_training(empty_workplace: Workplace) -> None:
    for width, words in ((10**7, "GiB"), (2**64, "cannot be built")):
        outcome = empty_workplace.train("-c", empty_workplace.write_config({"arch.args.width": width}))
        outcome.check_refusal(2, ("tiny.json: arch.args", words, "smaller"))


@pytest.mark.parametrize(
    ("changes", "key_paths"),
    [
        ({"extends": "\0"}, ["extends"]),
        ({"extends": "a" * 300}, ["extends"]),
        ({"sweep": False}, ["sweep"]),
        ({"data_loader.args.input_size": 224_000}, ["data_loader.args.input_size"]),
        # `trainer` is wrong, so what is checked of the sizes and of it together is not
        ({"data_loader.args.progressive_sizes": [[1, 16], [2, 24]], "trainer.epochs": "x"}, ["trainer.epochs"]),
    ],
)
def test_what_the_fuzz_harness_found(changes: dict[str, Any], key_paths: list[str], empty_workplace: Workplace) -> None:
    outcome = empty_workplace.train("-c", empty_workplace.write_config(changes))
    outcome.check_refusal(2, *((f"tiny.json: {key_path}",) for key_path in key_paths))


def test_a_run_whose_files_are_damaged_is_skipped_with_a_warning(
    trained: Workplace, caplog: pytest.LogCaptureFixture
) -> None:
    run = trained.run
    shutil.copytree(run, run.with_name("damaged"))
    (run.with_name("damaged") / "run.json").write_text('{"sessions": [{"ended": 5}]}')
    metrics = trained.only(f"saved/log/Tiny/{run.name}/metrics.jsonl")
    metrics.write_bytes(metrics.read_bytes() + bytes(40) + b"\n")  # a page that a crash left empty
    found = summarise_runs(Path("saved"))
    assert [each.folder.name for each in found] == [run.name]
    assert found[0].epochs == 1
    assert any("damaged" in record.message and "run.json" in record.message for record in caplog.records)
    assert any("metrics.jsonl: line 2 is damaged" in record.message for record in caplog.records)


def test_a_jpeg_of_endless_scans_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(progressive(20_000))
    began = time.process_time()
    with pytest.raises(DataError, match="scans"):
        read_rgb(path)
    assert time.process_time() - began < 2
    # What follows the picture, such as the film of a moving photograph, is not of it.
    path.write_bytes(progressive(3) + b"\xff\xda" * 1000 + b"\xff\xd9")
    assert read_rgb(path).shape == (40, 30, 3)


SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "MLFLOW_TRACKING_PASSWORD": "planted-in-the-environment",
    "MLFLOW_TRACKING_TOKEN": "planted-token",
    "AWS_SECRET_ACCESS_KEY": "planted/aws/key",
    "HF_TOKEN": "hf_plantedplantedplantedplanted",
    "DATABASE_URL": "postgresql://me:planted-password@example.org/db",
}


def test_no_secret_of_the_environment_is_in_what_a_run_writes(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints, logs, records, reports, answers and exports."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    before = set(workplace.folder.rglob("*"))
    workplace.train("-c", workplace.write_config({"trainer.tensorboard": True})).check_success()
    workplace.test("--resume", workplace.run, "--probabilities").check_success()
    written = [path for path in {*workplace.folder.rglob("*")} - before if path.is_file()]
    assert len(written) > 10
    for path in written:
        data = path.read_bytes()
        assert [name for name, secret in SECRETS.items() if secret.encode() in data] == [], path
    refused = workplace.train("-c", workplace.write_config(), "--set", f"name={SECRETS['WANDB_API_KEY']}")
    assert refused.exit_code == 2
    assert SECRETS["WANDB_API_KEY"] not in refused.err

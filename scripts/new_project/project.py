"""A project of one's own, which trains at once:

python -m scripts.new_project ../mine
python -m scripts.new_project ../mine --table labels.csv --image-column file --heads kind,colour --person-column id
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger.log import close_log, open_log
from utils.command_line import CommandLine
from utils.errors import ConfigError, Problem, importing, write_error

if TYPE_CHECKING:
    from scripts.new_project.proposal import Proposal

PROJECT = Path(__file__).parents[2]
FILES = (
    "train.py", "test.py", "app.py", "parse_config.py", "config.json", "MLproject",
    "requirements.txt", "requirements-extras.txt", "requirements.lock", "LICENSE",
)  # fmt: skip
FOLDERS = (
    "base", "data_loader", "model", "trainer", "inference", "experiment", "logger", "utils",
    "scripts", "configs", "docs",
)  # fmt: skip
OUTPUTS = ("saved", "submit")
GITIGNORE = ".venv/\n__pycache__/\n*.pyc\n/data/\n/saved/*\n/submit/*\n/wandb/\n/configs/config.schema.json\n"
README = """# {name}

Trains one image model on several labels per image, from one JSON file.

```sh
pip install torch torchvision && pip install -r requirements.txt
{first}
python test.py --resume saved/models/<name>/<run> --split validation
```

`config.json` says what is trained, and on which data; `configs/` has ideas that extend it, one file each.

`docs/` explains [every key](docs/config.md), [tables, labels and splits](docs/data.md), [runs](docs/runs.md),
[losses, models and more of one's own](docs/extending.md), and [common errors](docs/troubleshooting.md).
"""
TRAIN = "python train.py --config config.json"
DEMO = "python -m scripts.demo"
LINE_LENGTH = 100
LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<target>[^)#]+)(?:#[^)]*)?\)")
"""A link of a page, or a picture, to another file."""


def make_project(target: Path, proposal: Proposal | None = None) -> None:
    """Makes a folder of what trains and predicts: no tests, no benchmarks, no data, no runs; whole, or not at all.

    target: a folder that `refuse_target` takes
    proposal: its config, in the place of config.json; of configs/ only what suits it is kept

    Raises ConfigError where it cannot be written, StorageFullError where the disk is full."""
    target = target.resolve()
    staging = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        for path in _project_files():
            copy = staging / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / path, copy)
        for name in OUTPUTS:
            (staging / name).mkdir()
        (staging / ".gitignore").write_text(GITIGNORE)
        first = f"{TRAIN}\n{DEMO}    # the same on drawn faces, without data or network" if proposal is None else TRAIN
        (staging / "README.md").write_text(README.format(name=target.name, first=first), encoding="utf-8")
        if proposal is not None:
            (staging / "config.json").write_text(config_text(proposal), encoding="utf-8")
            _keep_suitable_ideas(staging)
        _unlink_what_is_not_copied(staging)
        staging.rename(target)
    except OSError as error:
        raise write_error(target, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_target(target: Path) -> None:
    """Raises ConfigError for a folder that is in use, or inside this project."""
    if target.resolve().is_relative_to(PROJECT):
        raise ConfigError(f"{target}: is inside this project; name a folder beside it")
    try:
        is_used = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise ConfigError(f"{target}: cannot be read: {error.strerror}; name another folder") from None
    if is_used:
        raise ConfigError(f"{target}: exists and is not an empty folder; name a new one")


def config_text(proposal: Proposal) -> str:
    """The config as JSON, with the notes as comments."""
    comments = "".join(f"    // {' '.join(note.split())}\n" for note in proposal.notes)
    return f"{{\n{comments}{_json(proposal.config, 0)[2:]}\n"


def _json(value: Any, indent: int) -> str:
    """JSON, in one line where it fits in."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or (indent and indent + len(line) <= LINE_LENGTH):
        return line
    if isinstance(value, dict):
        entries = [f"{json.dumps(key, ensure_ascii=False)}: {_json(each, indent + 4)}" for key, each in value.items()]
    else:
        entries = [_json(each, indent + 4) for each in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    margin = " " * (indent + 4)
    return f"{first}\n{margin}" + f",\n{margin}".join(entries) + f"\n{' ' * indent}{last}"


def _project_files() -> Iterator[Path]:
    """Relative to the project."""
    yield from (Path(name) for name in FILES if (PROJECT / name).is_file())
    for folder in FOLDERS:
        for path in sorted((PROJECT / folder).rglob("*")):
            relative = path.relative_to(PROJECT)
            is_hidden = any(part.startswith((".", "__pycache__")) for part in relative.parts)
            if path.is_file() and not is_hidden and path.suffix != ".pyc" and path.name != "config.schema.json":
                yield relative


def _keep_suitable_ideas(project: Path) -> None:
    """Removes from configs/ what is not for this config's labels, data or images, and what explains all of them."""
    from experiment.checks import cross_checks
    from experiment.schema import SECTIONS
    from parse_config import ConfigParser

    data = ConfigParser.from_file(project / "config.json", SECTIONS)["data"]
    built = Problem(("arch",), "is not built: that takes long, and does not depend on the labels")

    def suits(path: Path) -> bool:
        try:
            config = ConfigParser.from_file(path, SECTIONS)
            problems = cross_checks(config, [built])
        except ConfigError:
            return False
        heads = {loss["head"] for loss in (config["loss"]["metric_learning"] or {}).values()}
        is_resized = any(step["type"] == "Resize" for step in config["transforms"]["eval"])
        own = config["data"] == data and config["label_fixes"] is None
        return own and is_resized and not problems and heads <= config.shared("labels").heads.keys()

    suitable = [path for path in project.glob("configs/*.json") if suits(path)]
    for path in project.glob("configs/*"):
        if path not in suitable:
            path.unlink()


def _unlink_what_is_not_copied(project: Path) -> None:
    """The pages' links to files that are not in this project become their texts."""
    for page in project.rglob("*.md"):

        def live(link: re.Match[str], folder: Path = page.parent) -> str:
            target = link["target"]
            return link[0] if ":" in target or (folder / target).exists() else link["text"]

        text = page.read_text(encoding="utf-8")
        page.write_text(LINK.sub(live, text), encoding="utf-8")


def _propose(table: Path, target: Path, given: Any) -> Proposal:
    with importing():
        from scripts.new_project.proposal import propose_config

    heads = None if given.heads is None else [head.strip() for head in given.heads.split(",") if head.strip()]
    name = re.sub(r'[\s\\:*?"<>|]+', "_", target.resolve().name).lstrip(".") or "mine"
    root = None if given.root is None else given.root.resolve()
    open_log(None, verbosity=0)
    try:
        return propose_config(table.resolve(), name, root, given.image_column, heads, given.person_column)
    finally:
        close_log()


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandLine(
        prog="scripts.new_project", description="Copies this project, with a config for a table of images."
    )
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--table", type=Path, help="a table of images and their attributes, to write a config for")
    parser.add_argument("--root", type=Path, help="what its paths are relative to (default: the table's folder)")
    parser.add_argument("--image-column", help="the column of the images (default: found)")
    parser.add_argument("--person-column", help="what no split may cut (default: found by its header)")
    parser.add_argument("--heads", help="the columns to predict, with commas (default: all that can be)")
    given = parser.parse(argv)
    target: Path = given.target
    for flag in ("root", "image_column", "person_column", "heads"):
        if given.table is None and getattr(given, flag) is not None:
            raise ConfigError(f"--{flag.replace('_', '-')}: goes with --table")
    refuse_target(target)
    proposal = None if given.table is None else _propose(given.table, target, given)
    make_project(target, proposal)
    for note in proposal.notes if proposal is not None else ():
        print(note)
    commands = [f"cd {shlex.quote(str(target))}", TRAIN if proposal is not None else DEMO]
    print(f"{target} is made; to train:", *commands, sep="\n    ")
    if proposal is not None:
        print("It begins with weights from the Hugging Face hub; without a network: --set arch.args.pretrained=false")

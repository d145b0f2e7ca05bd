"""Writes a trained model into a folder of its own, for which see exported.py, and measures what that costs.

The exported graph takes prepared images, uint8 (B, 3, H, W) RGB, for any B; the normalisation is part of it. Its
outputs are the probabilities of each attribute's scored classes, and of each head's training classes as
"head_<name>"."""

from __future__ import annotations

import copy
import errno
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from data_loader.records import LabelTable, Record
from inference.export.exported import (
    FILES,
    HEAD_PREFIX,
    Exported,
    Format,
    Network,
    Precision,
    digest_of,
    digest_of_content,
    load_exported,
)
from inference.export.preparation import is_ours, write_preparation
from inference.export.quantisation import quantise
from inference.predictor import EXPORTED_FILE, Predictor, Probabilities, predict
from inference.scoring.evaluation import SetScores, classifications, evaluate, with_interval
from inference.scoring.scores import SCORES_FILE, TestScores
from inference.tta import PRESETS
from utils.errors import CheckpointError, ConfigError, UserError, write_error
from utils.files import write_atomically
from utils.random_streams import numpy_stream
from utils.run_folders import obstacle_to_writing
from utils.wording import first_line

CARD_FILE, EXAMPLE_FILE = "README.md", "example.py"
OURS = {EXPORTED_FILE, CARD_FILE, EXAMPLE_FILE, SCORES_FILE, *FILES.values()}
"""The files of an export, beside those of its preparation."""
OPSET = 18
TOLERANCE = 1e-4
"""Of float32: by how much a probability may differ from the checkpoint's."""

NUM_DRAWN = 32
"""So many images of noise are compared where there are no photographs."""

PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "safetensors": (),
    "torch": (),
}


class ExportedGraph(nn.Module):
    """From prepared images to probabilities.

    model: logits by head, of normalised images
    half: the network computes in float16, between float32 images and probabilities
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, labels: LabelSpace, preprocessing: Preprocessing, half: bool = False) -> None:
        super().__init__()
        self.model = model.half() if half else model
        self.heads, self.dtype = labels.heads, torch.float16 if half else torch.float32
        mean, std = (
            torch.tensor(each, dtype=torch.float64).view(1, 3, 1, 1) for each in (preprocessing.mean, preprocessing.std)
        )
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())
        # An attribute's probabilities are sums of its head's: the sums are those of each training class by itself.
        each_class = {name: torch.eye(number) for name, number in labels.num_classes.items()}
        for name, sums in labels.attribute_probabilities(each_class).items():
            self.register_buffer(f"sums_{name}", sums)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) uint8 -> the probabilities of each of `output_names`, (B, C)."""
        outputs = self.model((images.float() * self.scale + self.shift).to(self.dtype))
        by_head = {name: outputs[name].float().softmax(dim=1) for name in self.heads}
        by_attribute = [
            (by_head[name][:, :, None] * self.get_buffer(f"sums_{attribute.name}")).sum(dim=1)
            for name, head in self.heads.items()
            for attribute in head.attributes
        ]
        return (*by_attribute, *by_head.values())

    @property
    def output_names(self) -> list[str]:
        attributes = [attribute.name for head in self.heads.values() for attribute in head.attributes]
        return [*attributes, *(f"{HEAD_PREFIX}{name}" for name in self.heads)]


@dataclass(frozen=True)
class Parity:
    """How far an export's predictions are from its checkpoint's.

    largest: the largest difference of a probability
    num_images: so many were compared
    drawn: they are noise, not photographs
    changed: of so many images some attribute's class is another
    before, after: scores of the checkpoint and of the export, where the truth is known
    """

    largest: float
    num_images: int
    drawn: bool
    changed: int
    before: list[SetScores]
    after: list[SetScores]

    def lines(self) -> list[str]:
        """For the log."""
        kind = "images of noise" if self.drawn else "validation images"
        found = f"largest difference of a probability {self.largest:.2g}, {self.changed} with another class"
        lines = [f"{self.num_images} {kind}, one by one and in batches: {found}"]
        for before, after in zip(self.before, self.after, strict=True):
            change = after.macro_f1 - before.macro_f1
            scores = [with_interval(each.macro_f1, each.interval) for each in (before, after)]
            lines.append(f"{before.name:<10} macro F1 {scores[0]} before, {scores[1]} after ({change:+.4f})")
        return lines


def check_packages(kind: Format, precision: Precision) -> None:
    """Raises ConfigError where one is missing, or the precision does not go with the format."""
    if precision != "float32" and kind != "onnx":
        raise ConfigError(f"--{precision}: is for --to onnx; leave it out")
    if missing := [name for name in PACKAGES[kind] if not _is_installed(name)]:
        names = " ".join(missing)
        raise ConfigError(f"--to {kind}: lacks {', '.join(missing)}: pip install {names}")


def check_folder(folder: Path) -> None:
    """Raises ConfigError where the folder cannot be written, or holds anything but an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder}: is a file; name a new folder")
    if obstacle := obstacle_to_writing(folder):
        raise ConfigError(f"--output {folder}: cannot be written: {obstacle}")
    inside = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if inside and (EXPORTED_FILE not in inside or any(not is_ours(name) for name in inside - OURS)):
        raise ConfigError(f"--output {folder}: is not empty, and no earlier export; name a new folder")


def export(
    predictor: Predictor,
    folder: Path,
    kind: Format,
    precision: Precision,
    records: Sequence[Record],
    tested: TestScores | None = None,
    calibration: Sequence[Record] = (),
) -> Parity:
    """Writes the folder, and compares its predictions with the checkpoint's.

    predictor: on the CPU
    kind: "torch" is a program of torch.export
    precision: "half" is float16; "int8": see inference/export/quantisation.py
    records: photographs to compare on; none: noise
    tested: what test.py measured of the checkpoint, for the model card
    calibration: training photographs, which "int8" needs

    Raises ConfigError where the model cannot be exported so; CheckpointError where float32 differs by more than
    TOLERANCE; StorageFullError. Then nothing is left of it."""
    file, is_new = folder / FILES[kind], not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_export(folder)
        _write_model(predictor, file, kind, precision, calibration)
        _write_description(predictor, folder, kind, precision)
        parity = compare(predictor, _predictor_of(folder, kind), records)
        if precision == "float32" and parity.largest > TOLERANCE:
            found = f"differ from the checkpoint's by up to {parity.largest:.2g}, more than {TOLERANCE:g}"
            raise CheckpointError(f"{file}: its probabilities {found}; export to another format")
        write_atomically(folder / CARD_FILE, model_card(predictor, kind, precision, parity, tested).encode())
        if kind in EXAMPLES:
            write_atomically(folder / EXAMPLE_FILE, example(kind, predictor.preparation is not None).encode())
    except BaseException as error:
        with suppress(OSError):
            _remove_export(folder)  # else the same command would take it for files of something else
            if is_new:
                folder.rmdir()
        if isinstance(error, OSError):
            raise write_error(f"--output {folder}", error) from None
        raise
    return parity


def _remove_export(folder: Path) -> None:
    """All files of an export, finished or not."""
    for path in [*folder.iterdir()]:
        if path.name in OURS or is_ours(path.name):
            path.unlink()


def compare(predictor: Predictor, exported: Predictor, records: Sequence[Record]) -> Parity:
    """Both predict the same images, in the config's batches and, the first three, one by one.

    records: photographs; none: noise"""
    if records:
        before, after = predict([predictor, exported], records)
        (single,) = predict([exported], records[:3], batch_size=1, num_workers=0)
    else:
        height, width = predictor.preprocessing.image_hw
        pixels = numpy_stream(0, "noise").integers(0, 256, (NUM_DRAWN, 3, height, width), dtype="uint8")
        images = torch.from_numpy(pixels)
        before, after = predictor.predict_batch([images]), exported.predict_batch([images])
        ones = [exported.predict_batch([image[None]]) for image in images[:3]]
        single = Probabilities.combined(ones, torch.cat)
    largest = 0.0
    for expected, found in ((before, after), (before, single)):
        for name, table in found.by_head.items():
            largest = max(largest, float((table - expected.by_head[name][: len(table)]).abs().max()))
    classes = [torch.stack([table.argmax(dim=1) for table in each.by_attribute.values()]) for each in (before, after)]
    changed = int((classes[0] != classes[1]).any(dim=0).sum())
    labels, number = predictor.labels, classes[0].shape[1]
    scores = [_scores(labels, each, records) if records else [] for each in (before, after)]
    return Parity(largest, number, not records, changed, *scores)


def _scores(labels: LabelSpace, predicted: Probabilities, records: Sequence[Record]) -> list[SetScores]:
    joint = None if predicted.joint is None else predicted.joint.argmax(dim=1)
    classes = {name: table.argmax(dim=1) for name, table in predicted.by_attribute.items()}
    truth = LabelTable.from_records(records, labels).scoring_targets
    return evaluate(labels, classifications(labels, joint, classes, truth), [record.person for record in records])


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # blocked in sys.modules
        return False


def _write_model(
    predictor: Predictor, file: Path, kind: Format, precision: Precision, calibration: Sequence[Record]
) -> None:
    model = copy.deepcopy(predictor.model).to(memory_format=torch.contiguous_format).eval()
    if kind == "safetensors":
        weights = {name: each.clone() for name, each in model.state_dict().items()}
        write_atomically(file, safetensors.torch.save(weights))
        return
    graph = ExportedGraph(model, predictor.labels, predictor.preprocessing, half=precision == "half").eval()
    height, width = predictor.preprocessing.image_hw
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    try:
        with _silence(), torch.no_grad():
            (_write_onnx if kind == "onnx" else _write_program)(graph, images, file)
        if precision == "int8":
            quantise(file, predictor, calibration)
    except (OSError, UserError):
        raise
    except Exception as error:  # an exporter may trip over any operation of a model, and knows no OSError
        if (full := os.strerror(errno.ENOSPC)) in str(error):
            raise OSError(errno.ENOSPC, full, str(file)) from None
        raise ConfigError(f"--to {kind}: {predictor.model.title()} cannot be exported: {first_line(error)}") from None


def _write_onnx(graph: ExportedGraph, images: Tensor, file: Path) -> None:
    torch.onnx.export(
        graph,
        (images,),
        str(file),
        input_names=["images"],
        output_names=graph.output_names,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    import onnx

    size = onnx.load(file).graph.input[0].type.tensor_type.shape.dim[0]
    if not size.dim_param:
        raise ValueError(f"its graph takes batches of {size.dim_value} only")


def _write_program(graph: ExportedGraph, images: Tensor, file: Path) -> None:
    program = torch.export.export(graph, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_atomically(file, buffer.getvalue())


@contextmanager
def _silence() -> Iterator[None]:
    """Exporters advise on the terminal what their users cannot change."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _predictor_of(folder: Path, kind: Format) -> Predictor:
    """Of the folder just written, also of a program of torch.export, which is not read from elsewhere."""
    if kind != "torch":
        return load_exported(folder, "cpu", PRESETS["none"])
    own = Exported.read(folder)
    program, heads = torch.export.load(own.file).module(), list(own.labels.heads)

    def network(images: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return dict(zip(heads, program(images.contiguous())[-len(heads) :], strict=True))

    found: Network = network
    return own.predictor(found, PRESETS["none"])


def _write_description(predictor: Predictor, folder: Path, kind: Format, precision: Precision) -> None:
    graph = ExportedGraph(nn.Identity(), predictor.labels, predictor.preprocessing)
    preprocessing = predictor.preprocessing.to_config()
    if predictor.preparation is not None:
        write_preparation(preprocessing, predictor.preparation.preparation, folder)
    description: dict[str, Any] = {
        "format": kind,
        "precision": precision,
        "sha256": digest_of(folder / FILES[kind]),
        "outputs": graph.output_names,
        "classes": {name: list(each.class_names) for name, each in predictor.labels.predicted_attributes.items()},
        "labels": predictor.labels.to_config(),
        "preprocessing": preprocessing,
        "trained": {
            "config": predictor.config,
            "run_name": predictor.run_name,
            "completed_epochs": predictor.completed_epochs,
            "split_digest": predictor.split_digest,
        },
    }
    description["content_sha256"] = digest_of_content(description)
    write_atomically(folder / EXPORTED_FILE, f"{json.dumps(description, indent=2, ensure_ascii=False)}\n".encode())


def model_card(
    predictor: Predictor, kind: Format, precision: Precision, parity: Parity, tested: TestScores | None
) -> str:
    """README.md of the folder."""
    labels, (height, width) = predictor.labels, predictor.preprocessing.image_hw
    classes = "\n".join(
        f"- {name}: {', '.join(each.class_names)}" for name, each in labels.predicted_attributes.items()
    )
    data = "\n".join(
        f"- {each['type']} {each['args'].get('root') or each['args'].get('path')}" for each in predictor.sources
    )
    split = predictor.config.get("split", {})
    divided = f"{split['type']} {json.dumps(split['args'])}" if split else "not known"
    scores = "\n".join(f"    {each}" for each in parity.after) or "    Not measured: the run's images were not there."
    if tested is None:
        test_scores = "    Not measured: test.py has not scored this checkpoint."
    else:
        lines = (f"    {name.removeprefix('test/'):<16} {tested.with_interval(name)}" for name in tested.metrics)
        test_scores = f"    {tested.images or 'the test side of the split'}, {tested.num_images} images\n" + "\n".join(
            lines
        )
    steps = ", ".join(step["type"] for step in predictor.preprocessing.preparation)
    prepared = f" preparation ({steps}) and the" if steps else ""
    differences = "\n".join(f"    {line}" for line in parity.lines())
    use = "python test.py --resume <this folder>, in the project that it comes from"
    if kind in EXAMPLES:
        use = f"python {EXAMPLE_FILE} photo.jpg, without that project"
    return f"""# {predictor.name}

{predictor.model.title()}, run {predictor.run_name}, {predictor.completed_epochs} epochs; {kind}, {precision}.

{use}

## What it predicts
{classes}

Its input are RGB photographs like those it was trained on, {width} x {height} pixels after the{prepared} transforms in
{EXPORTED_FILE}.

## Data
{data or "- not known"}
- divided into training and validation images by {divided}, seed {predictor.config.get("seed")}

## Scores
Macro F1 and accuracy with 95 % intervals, by persons. Of the checkpoint on test images:

{test_scores}

Of this model on the run's validation images, by which the epoch was chosen, so that of new images a little less is to
be expected:

{scores}

## Against the checkpoint
{differences}

## Limits
It knows the classes above and no others: it gives each photograph one of each attribute, also one that shows none.
How good it is for cameras, ages and origins of people that its data lacks is not known.
"""


_EXAMPLE = """# Classifies photographs: python example.py photo.jpg ...
# pip install $PACKAGE numpy pillow opencv-python-headless; albumentations where model.json has more than Resize
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import $IMPORT
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent
model = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
$LOAD
$PREPARATION

def prepare(path):
    try:
        image = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        sys.exit(f"{path}: cannot be read as a picture: {error}")
$PREPARE    for transform in model["preprocessing"]["eval_transforms"]:
        args = transform["args"]
        if transform["type"] == "Resize":
            size = (args["width"], args["height"])
            image = cv2.resize(image, size, interpolation=args.get("interpolation", cv2.INTER_LINEAR))
        else:
            import albumentations

            image = getattr(albumentations, transform["type"])(**args)(image=image)["image"]
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


if len(sys.argv) < 2:
    sys.exit("name photographs: python example.py photo.jpg ...")
for path in sys.argv[1:]:
    probabilities = dict(zip(model["outputs"], $RUN))
    for attribute, classes in model["classes"].items():
        best = int(probabilities[attribute][0].argmax())
        print(f"{path}: {attribute} {classes[best]} ({probabilities[attribute][0][best]:.3f})")
"""


_PREPARATION = """sys.path.insert(0, str(FOLDER / "preparation.zip"))
from data_loader.preparation.build import saved_preparation  # pip install pydantic

preparation = saved_preparation(model["preprocessing"]["preparation"], FOLDER / "model.json")
"""


def _example(package: str, load: str, run: str) -> str:
    text = _EXAMPLE.replace("$PACKAGE", package).replace("$IMPORT", package)
    return text.replace("$LOAD", load).replace("$RUN", run)


EXAMPLES: dict[Format, str] = {
    "onnx": _example(
        "onnxruntime",
        'session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])',
        'session.run(model["outputs"], {"images": prepare(path)})',
    ),
    "torch": _example(
        "torch",
        'network = torch.export.load(FOLDER / "model.pt2").module()',
        "network(torch.from_numpy(prepare(path)))",
    ),
}
"""By format, example.py without what a preparation adds."""


def example(kind: Format, is_prepared: bool) -> str:
    """example.py.

    is_prepared: whether the model has a preparation"""
    prepare = "    image, _ = preparation(image)\n"
    lines = (_PREPARATION, prepare) if is_prepared else ("", "")
    return EXAMPLES[kind].replace("$PREPARATION", lines[0]).replace("$PREPARE", lines[1])

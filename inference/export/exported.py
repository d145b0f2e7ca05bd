"""An exported folder answers as the run that it was made of.

model.json        labels, preprocessing, the run's config, the checksum of the model's file, and that of all this
model.onnx        or model.safetensors, model.pt2
README.md         the model card
example.py        classifies photographs without this project; not beside model.safetensors
preparation.zip   of a model with a preparation: its code, for example.py; and preparation_0.onnx, ...: its networks
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from base.weights import load_weights
from data_loader.preparation.build import saved_preparation
from data_loader.preparation.preparation import Preparation
from data_loader.transforms import TRANSFORMS
from inference.predictor import EXPORTED_FILE, Predictor, Probabilities, check_types
from inference.tta import Tta
from model.model import build_without_weights
from utils.config.former_defaults import upgraded
from utils.config.plugins import PlugIns, plugins_of_run
from utils.errors import CheckpointError, ConfigError
from utils.wording import first_line

Format = Literal["onnx", "safetensors", "torch"]
Precision = Literal["float32", "half", "int8"]

FILES: dict[Format, str] = {"onnx": "model.onnx", "safetensors": "model.safetensors", "torch": "model.pt2"}
HEAD_PREFIX = "head_"
"""Of the outputs that are a head's probabilities; those of attributes have the attributes' names."""

Network = Callable[[Tensor], dict[str, Tensor]]
"""Prepared images (B, 3, H, W) uint8, on the CPU -> by head, the probabilities (B, C) float32."""


def load_predictor(path: Path, device: torch.device | str = "cpu", tta: Tta | None = None) -> Predictor:
    """The predictor of a checkpoint, or of the exported folder that `path` is a file of.

    Raises CheckpointError; ConfigError where a package is missing."""
    if path.name in (EXPORTED_FILE, *FILES.values()) and (path.parent / EXPORTED_FILE).is_file():
        return load_exported(path.parent, device, tta)
    return Predictor.from_checkpoint(path, device, tta)


def load_exported(folder: Path, device: torch.device | str = "cpu", tta: Tta | None = None) -> Predictor:
    """The predictor of an exported folder. An ONNX graph computes on the CPU, whatever the device.

    Raises CheckpointError where the folder is incomplete, or holds what could run code; ConfigError where onnxruntime
    is missing."""
    exported = Exported.read(folder)
    if exported.kind == "safetensors":
        with plugins_of_run(exported.content["config"], folder).active():
            return exported.predictor_of_weights(torch.device(device), tta)
    if exported.kind == "torch":
        wrong = "is for other programs: reading it could run code, so nothing here does"
        raise CheckpointError(f"{exported.file}: {wrong}; use an export --to onnx or safetensors")
    network = onnx_network(exported.file, list(exported.labels.heads))
    # A graph needs no code of a model: plug-ins are looked for where transforms of theirs are named.
    named = _types_in([exported.preprocessing.eval_transforms, exported.content["config"].get("views")])
    plugins = PlugIns() if named <= TRANSFORMS.keys() else plugins_of_run(exported.content["config"], folder)
    with plugins.active():
        return exported.predictor(network, tta)


def _types_in(value: Any) -> set[str]:
    """All that a "type" in plain data names."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    named = {value["type"]} if isinstance(value, dict) and isinstance(value.get("type"), str) else set()
    return named.union(*map(_types_in, inner))


@dataclass(frozen=True)
class Exported:
    """What model.json says.

    file: of the model
    content: as of a checkpoint: the run's config, its name, the completed epochs, the split's digest
    """

    kind: Format
    file: Path
    labels: LabelSpace
    preprocessing: Preprocessing
    content: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Exported:
        """Raises CheckpointError, also where the model's file is missing or is not that of the export."""
        path = folder / EXPORTED_FILE
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            if description.pop("content_sha256") != digest_of_content(description):
                wrong = "was edited since the export, and might name other classes; export again (scripts.export)"
                raise CheckpointError(f"{path}: {wrong}")
            kind: Format = description["format"]
            file, digest = folder / FILES[kind], description["sha256"]
            trained = description["trained"]
            content = {**trained, "config": upgraded(trained["config"])}
            check_types(content["config"])
            precision = "" if description["precision"] == "float32" else f"-{description['precision']}"
            content["run_name"] = f"{trained['run_name']}-{kind}{precision}"
            labels = LabelSpace(**description["labels"])
            found = cls(kind, file, labels, Preprocessing.from_config(description["preprocessing"]), content)
        except KeyError as error:
            raise CheckpointError(
                f"{path}: lacks {error}, which every export of this program has; export again"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy the whole folder") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be used by this version: {first_line(error)}") from None
        if digest_of(file) != digest:
            raise CheckpointError(f"{file}: is damaged, or not of this {EXPORTED_FILE}; copy the whole folder again")
        return found

    @property
    def preparation(self) -> Preparation | None:
        """Built anew. Raises ConfigError where a package or a file is missing; CheckpointError where it is damaged, or
        a network is another one."""
        origin = self.file.parent / EXPORTED_FILE
        try:
            return saved_preparation(self.preprocessing.preparation, origin)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{origin}: cannot be used by this version: {first_line(error)}") from None

    def predictor(self, network: Network, tta: Tta | None) -> ExportedPredictor:
        """It computes with `network`, of the model's file. Raises ConfigError, CheckpointError."""
        given = network, self.labels, self.preprocessing, self.content, tta, self.preparation
        return ExportedPredictor(*given, folder=self.file.parent)

    def predictor_of_weights(self, device: torch.device, tta: Tta | None) -> Predictor:
        """Of model.safetensors. Raises CheckpointError where the weights do not fit the config."""
        try:
            model = build_without_weights(self.content["config"]["arch"], self.labels.num_classes)
            load_weights(model, safetensors.torch.load_file(self.file), self.file)
            given = model, self.labels, self.preprocessing, device, self.content, tta, self.preparation
            return Predictor(*given, folder=self.file.parent)
        except (KeyError, AttributeError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{self.file}: cannot be used by this version: {first_line(error)}") from None


class ExportedPredictor(Predictor):
    """A predictor that computes with something other than our model. See Predictor for the other arguments."""

    def __init__(
        self,
        network: Network,
        labels: LabelSpace,
        preprocessing: Preprocessing,
        content: dict[str, Any],
        tta: Tta | None = None,
        preparation: Preparation | None = None,
        folder: Path | None = None,
    ) -> None:
        model: Any = nn.Identity()
        super().__init__(model, labels, preprocessing, torch.device("cpu"), content, tta, preparation, folder=folder)
        self.network = network

    def predict_batch(self, variants: Sequence[Tensor]) -> Probabilities:
        """See Predictor."""
        predicted = [Probabilities.from_heads(self.labels, self.network(images.cpu())) for images in variants]
        return Probabilities.combined(predicted, lambda tensors: torch.stack(tensors).mean(dim=0))


def onnx_network(file: Path, heads: Sequence[str]) -> Network:
    """Raises CheckpointError where onnxruntime refuses the graph or it has other outputs; ConfigError without it."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f'{file}: needs the package "onnxruntime": pip install onnxruntime') from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    outputs = [f"{HEAD_PREFIX}{head}" for head in heads]
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise CheckpointError(f"{file}: onnxruntime refuses it: {first_line(error)}") from None
    if missing := set(outputs) - {each.name for each in session.get_outputs()}:
        raise CheckpointError(f"{file}: lacks the outputs {', '.join(sorted(missing))}")

    def network(images: Tensor) -> dict[str, Tensor]:
        tables = session.run(outputs, {"images": images.contiguous().numpy()})
        return dict(zip(heads, map(torch.from_numpy, tables), strict=True))

    return network


def digest_of_content(description: dict[str, Any]) -> str:
    """SHA-256 of what model.json says, whatever its white space."""
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()


def digest_of(file: Path) -> str:
    """SHA-256. Raises CheckpointError."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}); copy the whole folder") from None

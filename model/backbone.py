"""timm's backbones: checked, built with their weights, and divided into stages; every failure is one line."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub.utils import get_session
from timm.models import get_deprecated_models, group_parameters, is_model, is_model_pretrained
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from base.weights import load_weights
from model.depthwise import use_fast_depthwise
from model.pooling import use_gem
from model.weight_matching import match_weights, read_weights
from utils.errors import CheckpointError

logger = logging.getLogger(__name__)

_HUB_ANSWERS_WITHIN_SECONDS = 10


WEIGHTS_ARGUMENTS = ("pretrained", "weights_file")
"""What a model's JSON arguments say of the weights that it begins with."""


def check_backbone(
    model_name: str, pooling: str | None = None, gradient_checkpointing: bool = False, **options: Any
) -> None:
    """Checks the arguments of `build_backbone`, without memory for weights, in a few tenths of a second.

    Raises ValueError if there is no such backbone, or it has no such options."""
    _check_name(model_name)
    try:
        with torch.device("meta"):
            backbone = _create(model_name, pooling, options)
    except Exception as error:  # timm has no exceptions of its own: assertions, TypeErrors and more
        given = ", ".join(
            f"{key} = {value}" for key, value in {"pooling": pooling, **options}.items() if value is not None
        )
        raise ValueError(
            f"model_name = {model_name} cannot be built with {given or 'its defaults'} ({_first_line(error)})"
        ) from error
    _adapt(backbone, model_name, pooling, gradient_checkpointing)


def check_backbone_weights(model_name: str, pretrained: bool = False, weights_file: str | None = None) -> None:
    """Raises ValueError if a known backbone has no weights to fetch, or there is no such file."""
    if weights_file is not None:
        if not Path(weights_file).is_file():
            raise ValueError(f"weights_file = {weights_file} is not a file")
    elif pretrained and not is_model_pretrained(model_name) and model_name not in get_deprecated_models():
        raise ValueError(
            f"pretrained = true: timm has no pretrained weights of {model_name}; set it to false, or give weights_file"
        )


def build_backbone(
    model_name: str,
    pretrained: bool = False,
    weights_file: str | None = None,
    pooling: str | None = None,
    gradient_checkpointing: bool = False,
    **options: Any,
) -> tuple[nn.Module, list[list[str]]]:
    """A timm model without its classifier, images (B, 3, H, W) -> features (B, `head_hidden_size`), and its stages,
    which are names of parameters (see `_stages`).

    model_name: timm's, with or without a tag
    pretrained: fetch timm's weights from the Hugging Face hub
    weights_file: weights of this network, of any program (see model/weight_matching.py), instead of timm's
    pooling: "gem", or a name that timm knows, instead of the backbone's own
    gradient_checkpointing: compute activations again in the backward pass instead of keeping them
    options: what timm's builder takes

    Raises ValueError if weights cannot be had or do not fit, or the backbone cannot do what is asked for."""
    backbone = _load(model_name, pretrained and weights_file is None, pooling, options)
    new = _layers_of(pooling, backbone, model_name, options)
    if weights_file is not None:
        _read_weights(backbone, weights_file, model_name, new)
    stages = _stages(backbone, new)
    _adapt(backbone, model_name, pooling, gradient_checkpointing)
    return backbone, stages


def _load(model_name: str, pretrained: bool, pooling: str | None, options: dict[str, Any]) -> nn.Module:
    if not pretrained:
        return _create(model_name, pooling, options)
    try:
        with _cache_only_if_hub_is_silent():
            return _create(model_name, pooling, options, pretrained=True)
    except Exception as error:  # of the network, the hub, the disk: many libraries' own
        raise ValueError(
            f"pretrained = true: weights of {model_name} could not be fetched ({_first_line(error)}); set it to false, "
            "or weights_file to a file you downloaded"
        ) from error


def _create(model_name: str, pooling: str | None, options: dict[str, Any], pretrained: bool = False) -> nn.Module:
    own_pooling = pooling in (None, "gem")  # GeM takes its place once the weights are there
    options = options if own_pooling else {**options, "global_pool": pooling}
    return timm.create_model(model_name, pretrained=pretrained, num_classes=0, in_chans=3, **options)


def _layers_of(pooling: str | None, backbone: nn.Module, model_name: str, options: dict[str, Any]) -> set[str]:
    """The names of the weights that the backbone has for its `pooling` only: no file has them."""
    if pooling in (None, "gem"):
        return set()
    with torch.device("meta"):
        usual = _create(model_name, None, options)
    return backbone.state_dict().keys() - usual.state_dict().keys()


def _stages(backbone: nn.Module, new: Collection[str]) -> list[list[str]]:
    """The names of the learned parameters but `new` ones in timm's own coarse groups, from the input to the features.

    A group of vectors alone, which is a norm, goes with the layer that it follows: a frozen convolution whose norm
    learns is not frozen. It is all one stage where timm does not group (the MetaFormers and few others)."""
    learned = {
        name: parameter
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad and name not in new
    }
    try:
        groups = group_parameters(backbone, backbone.group_matcher(coarse=True))  # type: ignore[operator]
    except (AttributeError, AssertionError):
        return [list(learned)]
    stages: list[list[str]] = []
    for number in sorted(groups):
        names = [name for name in groups[number] if name in learned]
        if stages and all(learned[name].ndim < 2 for name in names):
            stages[-1] += names
        elif names:
            stages.append(names)
    return stages


def _adapt(backbone: nn.Module, model_name: str, pooling: str | None, gradient_checkpointing: bool) -> None:
    """What is done to a backbone once it has its weights."""
    use_fast_depthwise(backbone)
    if pooling == "gem":
        try:
            use_gem(backbone)
        except ValueError as error:
            raise ValueError(f"pooling = gem: does not suit {model_name}: {error}") from None
    if gradient_checkpointing:
        try:
            backbone.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError):
            raise ValueError(f"gradient_checkpointing = true: timm cannot do it with {model_name}") from None
        for module in backbone.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                module.register_forward_pre_hook(partial(_count_batch_once, momentum=module.momentum))


def _count_batch_once(norm: _BatchNorm, _: tuple[Tensor, ...], momentum: float | None) -> None:
    """Checkpointing computes a block again in the backward pass; its running statistics have seen the batch by then."""
    if torch.compiler.is_compiling():  # the compiler keeps the first pass's
        return
    again = torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint asks whether it is in that pass
    norm.momentum = 0.0 if again else momentum
    if again and norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.sub_(1)


def _check_name(model_name: str) -> None:
    if ":" in model_name or "/" in model_name:
        raise ValueError(
            f'model_name = "{model_name}" is not a name of timm\'s; only its own names are taken, such as '
            "resnet18.a1_in1k: for weights of your own add weights_file"
        )
    architecture, _, tag = model_name.partition(".")
    if not is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"model_name = {model_name} is not a timm model{hint}")
    known = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and model_name not in known:
        raise ValueError(
            f"model_name = {model_name} is not a timm model; {architecture} has {', '.join(known) or 'no weights'}"
        )


@contextmanager
def _cache_only_if_hub_is_silent() -> Iterator[None]:
    """Asks the hub once; where it does not answer, only what was fetched before is used.

    huggingface_hub itself would ask twelve times, which takes 46 s."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    if not before:
        try:
            get_session().head(constants.ENDPOINT, timeout=_HUB_ANSWERS_WITHIN_SECONDS)
        except Exception:  # the client's own kind, which differs between versions
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _read_weights(backbone: nn.Module, weights_file: str, model_name: str, new: Collection[str]) -> None:
    """Loads the weights of a file, which lacks `new` ones; its classifier's are left out."""
    path, own = Path(weights_file), backbone.state_dict()
    try:
        match = match_weights({name: own[name] for name in own if name not in new}, read_weights(path), backbone)
        if not match.is_complete:
            raise CheckpointError(f"{path}: is not of {model_name}: {'; '.join(match.problems(1))}")
        load_weights(backbone, own | match.weights, path)
    except CheckpointError as error:
        raise ValueError(f"weights_file = {error}") from None
    logger.info("%s: weights of %s matched %s; not used: %s", path, model_name, match.how, list(match.unused) or "none")


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."

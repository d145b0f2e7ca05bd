"""timm's backbones: built with their weights, and divided into stages."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub.utils import get_session
from timm.models import group_parameters, is_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from base.weights import load_weights
from model.depthwise import use_fast_depthwise
from model.pooling import use_gem
from model.weight_matching import match_weights, read_weights
from utils.errors import CheckpointError
from utils.wording import nearest

logger = logging.getLogger(__name__)

_HUB_TIMEOUT_SECONDS = 10


def build_backbone(
    model_name: str,
    pretrained: bool = False,
    weights_file: str | None = None,
    pooling: str | None = None,
    gradient_checkpointing: bool = False,
    **options: Any,
) -> tuple[nn.Module, list[list[str]]]:
    """A timm model without its classifier, images (B, 3, H, W) -> features (B, `head_hidden_size`), and the names of
    its parameters by stage (see `_stages`).

    model_name: timm's, with or without a tag
    pretrained: download timm's weights from the Hugging Face hub
    weights_file: weights of this network, of any program (see model/weight_matching.py), instead of timm's
    pooling: "gem", or a name that timm knows; None for the backbone's own
    gradient_checkpointing: recompute activations in the backward pass instead of keeping them
    options: further arguments of timm's builder

    Raises ValueError if the weights cannot be loaded or do not fit, or the backbone has no such option."""
    _check_name(model_name)
    backbone = _create(model_name, pooling, options, pretrained and weights_file is None)
    new = _pooling_weights(backbone, model_name, pooling, options)
    if weights_file is not None:
        _load_weights_file(backbone, Path(weights_file), model_name, new)
    stages = _stages(backbone, new)
    _adapt(backbone, model_name, pooling, gradient_checkpointing)
    return backbone, stages


def _check_name(model_name: str) -> None:
    architecture, _, tag = model_name.partition(".")
    if not is_model(architecture) or (tag and model_name not in timm.list_pretrained(f"{architecture}.*")):
        near = nearest(model_name, [*timm.list_models(), *timm.list_pretrained()], 3)
        hint = f"did you mean {', '.join(near)}?" if near else "for weights of your own add weights_file"
        raise ValueError(f"model_name = {model_name} is not a timm model; {hint}")


def _create(model_name: str, pooling: str | None, options: dict[str, Any], pretrained: bool = False) -> nn.Module:
    if pooling not in (None, "gem"):  # GeM replaces timm's pooling later
        options = {**options, "global_pool": pooling}
    try:
        with _offline_if_the_hub_does_not_answer() if pretrained else nullcontext():
            return timm.create_model(model_name, pretrained=pretrained, num_classes=0, in_chans=3, **options)
    except Exception as error:  # many libraries' own; timm has none: assertions, TypeErrors and more
        reason = textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
        if pretrained:
            raise ValueError(
                f"pretrained = true: weights of {model_name} could not be downloaded ({reason}); name a file of them "
                "(weights_file; --models NAME=FILE), or begin with random ones (false)"
            ) from error
        given = ", ".join(f"{key} = {value}" for key, value in options.items() if value is not None)
        given = given.replace("global_pool", "pooling") or "its defaults"
        raise ValueError(f"model_name = {model_name} cannot be built with {given} ({reason})") from error


@contextmanager
def _offline_if_the_hub_does_not_answer() -> Iterator[None]:
    """Uses only the local cache if one request fails: huggingface_hub itself would try twelve times, for 46 s."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    if not before:
        try:
            get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_SECONDS)
        except Exception:  # the HTTP client's own, which differs between versions
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _pooling_weights(backbone: nn.Module, model_name: str, pooling: str | None, options: dict[str, Any]) -> set[str]:
    """The names of the weights that another pooling of timm's adds: weights_file does not have them."""
    if pooling in (None, "gem"):
        return set()
    with torch.device("meta"):
        return backbone.state_dict().keys() - _create(model_name, None, options).state_dict().keys()


def _load_weights_file(backbone: nn.Module, path: Path, model_name: str, new: Collection[str]) -> None:
    """Loads all weights but the `new` ones from the file; its classifier is left out."""
    own = backbone.state_dict()
    try:
        match = match_weights({name: own[name] for name in own if name not in new}, read_weights(path), backbone)
        if not match.is_complete:
            raise CheckpointError(f"{path}: is not of {model_name}: {'; '.join(match.problems(1))}")
        load_weights(backbone, own | match.weights, path)
    except CheckpointError as error:
        raise ValueError(f"weights_file = {error}") from None
    logger.info("%s: weights of %s matched %s; not used: %s", path, model_name, match.how, list(match.unused) or "none")


def _stages(backbone: nn.Module, new: Collection[str]) -> list[list[str]]:
    """The names of the trained parameters, without the `new` ones, in timm's coarse groups from input to features.

    A group of vectors alone, which is a norm, joins the layer before it: a frozen convolution whose norm is trained is
    not frozen. There is one stage where timm has no groups (MetaFormer and a few others)."""
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
    """The changes to a backbone that do not concern its weights."""
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
                module.register_forward_pre_hook(partial(_update_statistics_once, momentum=module.momentum))


def _update_statistics_once(norm: _BatchNorm, _: tuple[Tensor, ...], momentum: float | None) -> None:
    """Keeps the running statistics as they are when checkpointing runs a block again in the backward pass."""
    if torch.compiler.is_compiling():  # the compiler keeps the first pass's
        return
    again = torch._C._current_graph_task_id() != -1  # the test that torch.utils.checkpoint uses
    norm.momentum = 0.0 if again else momentum
    if again and norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.sub_(1)

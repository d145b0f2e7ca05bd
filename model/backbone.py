"""timm's backbones: their names checked, their weights fetched or read, every failure told in a line."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub.utils import get_session
from timm.models import get_deprecated_models, is_model, is_model_pretrained, load_pretrained
from torch import nn

from utils.errors import ConfigError

_HUB_ANSWERS_WITHIN_SECONDS = 10


def check_backbone(model_name: str, pretrained: bool, weights_file: str | None, **options: Any) -> None:
    """Raises ValueError if there is no such backbone, it has no such options, or has no weights to fetch or read.

    The backbone is built without memory for its weights, which takes a few tenths of a second."""
    _check_name(model_name)
    if weights_file is not None:
        if not Path(weights_file).is_file():
            raise ValueError(f"weights_file = {weights_file} is not a file")
    elif pretrained and not is_model_pretrained(model_name) and model_name not in get_deprecated_models():
        raise ValueError(
            f"timm has no pretrained weights of {model_name}; set pretrained to false, or give weights_file"
        )
    try:
        with torch.device("meta"):
            _create(model_name, options)
    except Exception as error:  # timm has no exceptions of its own: assertions, TypeErrors and more
        given = ", ".join(f"{key} = {value}" for key, value in options.items() if value is not None)
        raise ValueError(
            f"{model_name} cannot be built with {given or 'its defaults'} ({_first_line(error)})"
        ) from error


def build_backbone(model_name: str, pretrained: bool, weights_file: str | None, **options: Any) -> nn.Module:
    """A timm model without its classifier: images (B, 3, H, W) -> features (B, `head_hidden_size`).

    weights_file: timm's weights of this model, .safetensors or .pth, read instead of fetching them. Raises ConfigError
    if weights cannot be had or do not fit."""
    if weights_file is not None:
        backbone = _create(model_name, options)
        _read_weights(backbone, weights_file, model_name)
        return backbone
    if not pretrained:
        return _create(model_name, options)
    try:
        with _cache_only_if_hub_is_silent():
            return _create(model_name, options, pretrained=True)
    except Exception as error:  # of the network, the hub, the disk: many libraries' own
        raise ConfigError(
            f"arch.args: weights of {model_name} could not be fetched ({_first_line(error)}); set arch.args.pretrained "
            "to false, or arch.args.weights_file to a file you downloaded"
        ) from error


def _create(model_name: str, options: dict[str, Any], pretrained: bool = False) -> nn.Module:
    return timm.create_model(model_name, pretrained=pretrained, num_classes=0, in_chans=3, **options)


def _check_name(model_name: str) -> None:
    if ":" in model_name or "/" in model_name:
        raise ValueError(
            f'"{model_name}" is not a name of timm\'s; only its own names are taken, such as resnet18.a1_in1k: for '
            "weights of your own add weights_file"
        )
    architecture, _, tag = model_name.partition(".")
    if not is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"{model_name} is not a timm model{hint}")
    known = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and model_name not in known:
        raise ValueError(f"{model_name} is not a timm model; {architecture} has {', '.join(known) or 'no weights'}")


@contextmanager
def _cache_only_if_hub_is_silent() -> Iterator[None]:
    """Where nothing answers at the hub, huggingface_hub asks twelve times and takes 46 s; here it is asked once, and
    then only what has been fetched before is used."""
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


def _read_weights(backbone: nn.Module, weights_file: str, model_name: str) -> None:
    """Reads timm's weights from a file (never running what a pickle may hold); the classifier's are left out."""
    missing: list[str] = []
    hook = backbone.register_load_state_dict_post_hook(lambda _, keys: missing.extend(keys.missing_keys))
    source = {**backbone.pretrained_cfg, "file": weights_file, "custom_load": False}  # type: ignore[dict-item]
    # Weights in an earlier layout of timm's are turned into today's by a function beside the model's class.
    try:
        load_pretrained(
            backbone,
            source,
            num_classes=0,
            filter_fn=getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None),
            strict=False,
        )
    except Exception as error:  # any reader's or unpickler's own
        raise ConfigError(f"arch.args.weights_file = {weights_file} cannot be read ({_first_line(error)})") from error
    finally:
        hook.remove()
    if missing:
        raise ConfigError(
            f"arch.args.weights_file = {weights_file} is not of {model_name}: it lacks {len(missing)} of the model's "
            f"weights, the first {missing[0]}"
        )


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."

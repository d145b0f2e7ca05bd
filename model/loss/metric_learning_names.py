"""What a config may name of pytorch-metric-learning: its losses and miners, with the arguments that JSON can hold.

The library's constructors pass `**kwargs` on to their parents, take any number for any argument, and want distances,
reducers and regularisers as objects. Here each is a function whose signature has the arguments that are numbers, names
or truth values, with their ranges, so that the config check refuses all others.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from torch import Tensor, nn

from utils.config.signatures import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt

LossName = Literal[
    "AngularLoss", "ArcFaceLoss", "CircleLoss", "ContrastiveLoss", "CosFaceLoss", "FastAPLoss",
    "GeneralizedLiftedStructureLoss", "HistogramLoss", "IntraPairVarianceLoss", "LargeMarginSoftmaxLoss",
    "LiftedStructureLoss", "MarginLoss", "MultiSimilarityLoss", "NCALoss", "NPairsLoss", "NTXentLoss",
    "NormalizedSoftmaxLoss", "P2SGradLoss", "PNPLoss", "ProxyAnchorLoss", "ProxyNCALoss", "RankedListLoss",
    "SignalToNoiseRatioContrastiveLoss", "SoftTripleLoss", "SphereFaceLoss", "SubCenterArcFaceLoss", "SupConLoss",
    "ThresholdConsistentMarginLoss", "TripletMarginLoss", "TupletMarginLoss",
]  # fmt: skip
"""All of the library's but those that wrap other losses, those that know no labels, and four that cannot train here:
DynamicSoftMarginLoss (its second step fails), InstanceLoss (it takes a class for the number of an image), ManifoldLoss
(it draws classes of its own) and SmoothAPLoss (it needs equally many images of each class in every batch)."""

MinerName = Literal[
    "AngularMiner", "BatchEasyHardMiner", "BatchHardMiner", "DistanceWeightedMiner", "HDCMiner",
    "MultiSimilarityMiner", "PairMarginMiner", "TripletMarginMiner", "UniformHistogramMiner",
]  # fmt: skip

WITHOUT_MINER = ("P2SGradLoss", "PNPLoss", "RankedListLoss")
"""The losses that take no miner's choice."""

_Degrees = Annotated[float, Field(gt=0, lt=90)]
_Strategy = Literal["hard", "semihard", "easy", "all"]
_Triplets = Literal["all"] | PositiveInt
_ANNOTATIONS: dict[str, Any] = {
    "num_classes": int, "embedding_size": int, "alpha": PositiveFloat, "anneal": PositiveFloat, "b": PositiveFloat,
    "base": float, "beta": PositiveFloat, "centers_per_class": PositiveInt, "gamma": PositiveFloat,
    "imbalance": Fraction, "la": PositiveFloat, "lambda_minus": NonNegativeFloat, "lambda_plus": NonNegativeFloat,
    "learn_beta": bool, "m": float, "margin": float, "margin_minus": float, "margin_plus": float,
    "n_bins": PositiveInt, "neg_eps": NonNegativeFloat, "neg_margin": float, "nu": NonNegativeFloat,
    "num_bins": PositiveInt, "pos_eps": NonNegativeFloat, "pos_margin": float, "scale": PositiveFloat,
    "smooth_loss": bool, "softmax_scale": PositiveFloat, "sub_centers": PositiveInt, "swap": bool,
    "temperature": PositiveFloat, "Tn": NonNegativeFloat, "Tp": NonNegativeFloat, "triplets_per_anchor": _Triplets,
    "variant": Literal["Ds", "Dq", "Iu", "Ib", "O"],
    # of miners
    "allowed_neg_range": tuple[float, float], "allowed_pos_range": tuple[float, float], "angle": _Degrees,
    "cutoff": PositiveFloat, "epsilon": float, "filter_percentage": Annotated[float, Field(gt=0, le=1)],
    "neg_per_bin": PositiveInt, "neg_strategy": _Strategy, "nonzero_loss_cutoff": PositiveFloat,
    "pos_per_bin": PositiveInt, "pos_strategy": _Strategy,
    "type_of_triplets": Literal["all", "hard", "semihard", "easy"],
}  # fmt: skip
"""By name, of all constructors alike; a parameter that is not here is not the config's."""
_ANNOTATIONS_OF: dict[str, dict[str, Any]] = {
    "AngularLoss": {"alpha": _Degrees},
    "LargeMarginSoftmaxLoss": {"margin": PositiveInt},
    "SphereFaceLoss": {"margin": PositiveInt},
    "BatchHardMiner": {"pos_strategy": None, "neg_strategy": None},  # set by itself
}
"""Where one class means something else by a name; None: it does not take its parent's parameter."""


_BOUNDED = ("ArcFaceLoss", "HistogramLoss", "SubCenterArcFaceLoss", "TupletMarginLoss")


@functools.cache
def _offered(library_module: str, name: str) -> Callable[..., nn.Module]:
    """The class as a function whose signature says which arguments a config may give, and the program gives."""
    made: type[nn.Module] = getattr(importlib.import_module(library_module), name)
    embedding_size = "descriptors_dim" if name == "P2SGradLoss" else "embedding_size"

    def build(**arguments: Any) -> nn.Module:
        if "embedding_size" in arguments:
            arguments[embedding_size] = arguments.pop("embedding_size")
        if name in _BOUNDED:
            from model.loss.bounded_cosine import BoundedCosineSimilarity

            arguments["distance"] = BoundedCosineSimilarity()
        module = made(**arguments)
        for attribute, value in [*vars(module).items()]:
            if isinstance(value, Tensor):  # a constant that `.to(device)` would pass over
                delattr(module, attribute)
                module.register_buffer(attribute, value, persistent=False)
        return module

    annotations = {**_ANNOTATIONS, **_ANNOTATIONS_OF.get(name, {})}
    parameters: dict[str, inspect.Parameter] = {}
    for owner in made.__mro__:
        constructor = vars(owner).get("__init__")
        for parameter in inspect.signature(constructor).parameters.values() if constructor else ():
            taken = "embedding_size" if parameter.name == embedding_size else parameter.name
            if annotations.get(taken) is not None and taken not in parameters:
                parameters[taken] = parameter.replace(
                    name=taken, kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotations[taken]
                )
    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name} of pytorch-metric-learning."
    build.__signature__ = inspect.Signature([*parameters.values()])  # type: ignore[attr-defined]
    return build


class _Offers(Mapping[str, Callable[..., nn.Module]]):
    """What is offered of a module of the library, by name.

    The library is imported when one is asked for: it imports scipy.stats, a tenth of what all of train.py imports."""

    def __init__(self, module: str, names: tuple[str, ...]) -> None:
        self.module, self.names = module, names

    def __getitem__(self, name: str) -> Callable[..., nn.Module]:
        if name not in self.names:
            raise KeyError(name)
        return _offered(self.module, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


LOSSES = _Offers("pytorch_metric_learning.losses", get_args(LossName))
"""What `type` may say. The program gives `num_classes` and `embedding_size` to those that have them."""
MINERS = _Offers("pytorch_metric_learning.miners", get_args(MinerName))

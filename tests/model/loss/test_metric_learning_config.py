"""What a config may say of losses on the embedding, and what it is told where it is wrong."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest

from model.loss.metric_learning import MetricLearningSettings
from model.loss.metric_learning_names import LOSSES, MINERS, WITHOUT_MINER
from parse_config import ByName, ConfigParser, Group, One
from utils.config.signatures import argument_names, argument_problems
from utils.errors import ConfigError

PROGRAMS = ("num_classes", "embedding_size")
SIZES = {"num_classes": 3, "embedding_size": 5}
SECTIONS = Group({"losses": ByName(One(LOSSES, PROGRAMS, extra=MetricLearningSettings), optional=True)})
ENTRY: dict[str, Any] = {
    "type": "TripletMarginLoss",
    "args": {"margin": 0.1},
    "head": "age",
    "miner": {"type": "MultiSimilarityMiner", "args": {"epsilon": 0.2}},
    "weight": 0.5,
}
HEADS = ("mask", "age")
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of the library
each_name = pytest.mark.parametrize("name", [*LOSSES, *MINERS])


def read(**changes: Any) -> ConfigParser:
    entry = {**copy.deepcopy(ENTRY), **changes}
    return ConfigParser.from_dict({"losses": {"triplet": entry}}, SECTIONS, "test")


def told(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(**changes)
    return str(caught.value)


def test_an_entry_is_built() -> None:
    config = read()
    loss = config.build("losses.triplet", **SIZES)
    assert type(loss).__name__ == "TripletMarginLoss"
    assert loss.margin == 0.1
    settings = config.extra("losses.triplet")
    assert (settings.head, settings.weight) == ("age", 0.5)
    miner = settings.build_miner()
    assert type(miner).__name__ == "MultiSimilarityMiner"
    assert miner.epsilon == 0.2
    assert settings.problems("TripletMarginLoss", HEADS) == []


def test_sizes_go_to_those_that_have_them() -> None:
    assert read(type="ArcFaceLoss", args={}).build("losses.triplet", **SIZES).W.shape == (5, 3)
    assert read(type="P2SGradLoss", args={}).build("losses.triplet", **SIZES).weight.shape == (5, 3)
    assert read(type="ProxyAnchorLoss", args={}).build("losses.triplet", **SIZES).proxies.shape == (3, 5)


def test_the_section_may_be_absent() -> None:
    assert ConfigParser.from_dict({}, SECTIONS, "test").build("losses") == {}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-argument": ({"args": {"margn": 1}}, "triplet.args.margn is not an argument of TripletMarginLoss; did you"),
    "wrong-kind": ({"args": {"margin": "wide"}}, 'triplet.args.margin = "wide" is text; a number is expected'),
    "choice": ({"args": {"triplets_per_anchor": "some"}}, "triplet.args.triplets_per_anchor"),
    "an-object": ({"args": {"distance": "cosine"}}, "triplet.args.distance is not an argument of TripletMarginLoss"),
    "range": ({"type": "NTXentLoss", "args": {"temperature": 0}}, "triplet.args.temperature = 0: must be above 0"),
    "programs": ({"type": "ArcFaceLoss", "args": {"num_classes": 3}}, "num_classes is set by the program; remove it"),
    "missing": ({"type": "RankedListLoss", "args": {"margin": 1}}, "args.Tn is missing"),
    "unknown-loss": ({"type": "TripletLoss"}, 'triplet.type = "TripletLoss" is not one of'),
    "left-out": ({"type": "SmoothAPLoss"}, 'triplet.type = "SmoothAPLoss" is not one of'),
    "unknown-miner": (
        {"miner": {"type": "HardMiner"}},
        'triplet.miner.type = "HardMiner" is not one of "AngularMiner"',
    ),
    "miner-key": ({"miner": {"type": "HDCMiner", "arg": {}}}, "triplet.miner.arg is not a known key; did you mean"),
    "weight": ({"weight": -1}, "triplet.weight = -1: must be at least 0"),
    "unknown-key": ({"heads": "age"}, 'triplet.heads is not a known key; did you mean "head"?'),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    assert message in told(**changes)


def test_a_head_must_be_named() -> None:
    entry = {key: value for key, value in ENTRY.items() if key != "head"}
    with pytest.raises(ConfigError, match=r"losses\.triplet\.head is missing"):
        ConfigParser.from_dict({"losses": {"triplet": entry}}, SECTIONS, "test")


@pytest.mark.parametrize(
    ("settings", "loss", "message"),
    [
        (MetricLearningSettings("aeg"), "NCALoss", 'head = "aeg" is not one of mask, age; did you mean "age"?'),
        (
            MetricLearningSettings("age", miner={"type": "HDCMiner", "args": {"filter_percentage": 2}}),
            "NCALoss",
            "miner.args.filter_percentage = 2: must be at most 1",
        ),
        (
            MetricLearningSettings("age", miner={"type": "BatchHardMiner", "args": {"pos_strategy": "easy"}}),
            "NCALoss",
            "miner.args.pos_strategy is not an argument of BatchHardMiner",
        ),
        (
            MetricLearningSettings("age", miner={"type": "BatchEasyHardMiner", "args": {"pos_strategy": "semihard"}}),
            "NCALoss",
            'miner.args.pos_strategy and neg_strategy cannot both be "semihard"',
        ),
        (
            MetricLearningSettings("age", miner={"type": "HDCMiner"}),
            "PNPLoss",
            'miner = "HDCMiner": PNPLoss takes no miner; remove it',
        ),
    ],
)
def test_problems_beyond_the_signature(settings: MetricLearningSettings, loss: str, message: str) -> None:
    (problem,) = settings.problems(loss, HEADS)
    assert str(problem).startswith(message)


@each_name
def test_every_argument_reaches_its_constructor(name: str) -> None:
    """The signatures are put together from the parents': each parameter must be one that the class itself takes."""
    made = {**LOSSES, **MINERS}[name]
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(made).parameters.items()
        if parameter.default is not parameter.empty and key not in PROGRAMS
    }
    needed = {"margin": 0.4, "Tn": 1.0} if name == "RankedListLoss" else {}
    sizes = {key: size for key, size in SIZES.items() if key in argument_names(made)}
    for key, default in defaults.items():
        assert argument_problems(made, {**needed, key: default}, (), PROGRAMS) == []
        made(**sizes, **needed, **{key: default})
    made(**sizes, **needed, **defaults)


@each_name
def test_other_arguments_are_refused(name: str) -> None:
    made = {**LOSSES, **MINERS}[name]
    assert made.__name__ == name
    assert not any(p.kind == p.VAR_KEYWORD for p in inspect.signature(made).parameters.values())
    assert argument_problems(made, {"no_such": 1}, (), PROGRAMS)[0].key_path == ("no_such",)


def test_what_takes_no_miner_is_a_loss() -> None:
    assert set(WITHOUT_MINER) < set(LOSSES)

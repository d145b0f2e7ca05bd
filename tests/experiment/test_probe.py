"""A probe tells features that know the classes from those that do not, and is not fooled by who is in a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record
from experiment.probe import PROBES, Probe, run_probe

LABELS = LabelSpace({"mask": {"classes": ["on", "wrong", "off"]}, "gender": {"classes": ["male", "female"]}})
IMAGES_OF_A_PERSON = 4


def side(name: str, num_persons: int, stream: np.random.Generator, known: float = 1.0) -> LabelTable:
    """A person has one gender and images of any mask; a share of the masks is known."""
    records = []
    for person in range(num_persons):
        gender = str(stream.choice(["male", "female"]))
        for number in range(IMAGES_OF_A_PERSON):
            mask = str(stream.choice(["on", "wrong", "off"])) if stream.random() < known else None
            path = Path(f"/{name}{person}_{number}.png")
            records.append(Record(path, path.name, f"{name}{person}", {"mask": mask, "gender": gender}, name))
    return LabelTable.from_records(records, LABELS)


def features_of(table: LabelTable, stream: np.random.Generator, signal: float, of_person: float) -> np.ndarray:
    """(N, 24): two columns for each class, a direction for each person, noise; the second column is constant."""
    found = stream.normal(size=(len(table), 24)).astype(np.float32)
    for row, record in enumerate(table.records):
        own = np.random.default_rng([ord(each) for each in record.person])
        found[row, 8:] += of_person * own.normal(size=16)
    found[:, 1] = 7
    for column, name in ((2, "mask"), (5, "gender")):
        for number in range(len(LABELS.attributes[name].class_names)):
            found[:, column + number] += signal * (table.scoring_classes[name].numpy() == number)
    return found


@pytest.mark.parametrize("probe", PROBES)
def test_what_features_know_is_scored(probe: Probe) -> None:
    """As scikit-learn's own classifier does with the chosen setting, on the images whose mask is known."""
    stream = np.random.default_rng(5)
    train, validation = side("t", 40, stream, 0.7), side("v", 25, stream, 0.8)
    own, others = (features_of(each, stream, 3, 0) for each in (train, validation))
    result = run_probe(probe, train, own, validation, others)
    by_name = {score.name: score for score in result.scores}
    assert list(by_name) == ["answer", "mask", "gender"]
    assert result.unfinished == 0
    targets = train.targets["mask"].numpy()
    known, setting = targets >= 0, result.chosen["mask"]
    assert setting is not None
    if probe == "linear":
        mean, std = own[known].mean(axis=0), own[known].std(axis=0)
        std[1] = 1
        fitted = LogisticRegression(C=setting / known.sum(), class_weight="balanced", max_iter=1000, tol=1e-6)
        predicted = fitted.fit((own[known] - mean) / std, targets[known]).predict((others - mean) / std)
    else:
        voting = KNeighborsClassifier(int(setting), weights="distance", metric="cosine")
        predicted = voting.fit(own[known], targets[known]).predict(others)
    truth = validation.scoring_classes["mask"].numpy()
    expected = f1_score(truth[truth >= 0], predicted[truth >= 0], average="macro")
    assert by_name["mask"].num_images == (truth >= 0).sum() < len(truth)
    assert by_name["mask"].macro_f1 == pytest.approx(expected, abs=0.02 if probe == "linear" else 1e-6)
    assert by_name["mask"].macro_f1 > (0.85 if probe == "linear" else 0.4)
    low, high = by_name["mask"].interval
    assert low < by_name["mask"].macro_f1 < high


@pytest.mark.parametrize("probe", PROBES)
def test_features_that_know_nothing_are_worth_nothing(probe: Probe) -> None:
    stream = np.random.default_rng(6)
    train, validation = side("t", 30, stream), side("v", 30, stream)
    own, others = (features_of(each, stream, 0, 3) for each in (train, validation))
    for score in run_probe(probe, train, own, validation, others).scores[1:]:
        low, high = score.interval
        assert low < score.chance_f1 < high


def test_the_setting_is_chosen_among_other_persons() -> None:
    """Each picture is nearest to others of its person, whose gender is the same: one neighbour would be best, were it
    asked for pictures of the same people."""
    stream = np.random.default_rng(7)
    train, validation = side("t", 60, stream), side("v", 30, stream)
    own, others = (features_of(each, stream, 1.5, 1.5) for each in (train, validation))
    chosen = run_probe("kNN", train, own, validation, others).chosen["gender"]
    targets = train.targets["gender"].numpy()
    nearest = KNeighborsClassifier(2, metric="cosine").fit(own, targets).kneighbors(own, return_distance=False)[:, 1]
    assert (targets[nearest] == targets).mean() > 0.85
    assert chosen is not None
    assert chosen > 1


@pytest.mark.parametrize("probe", PROBES)
def test_heads_without_two_known_classes(probe: Probe) -> None:
    """Of one class, that class is answered; of none, anything: neither is an error."""
    stream = np.random.default_rng(8)
    train, validation = side("t", 3, stream, 0), side("v", 4, stream)
    men = [Record(r.path, r.name, r.person, {**r.attributes, "gender": "male"}, r.origin) for r in train.records]
    train = LabelTable.from_records(men, LABELS)
    own, others = (features_of(each, stream, 3, 0) for each in (train, validation))
    result = run_probe(probe, train, own, validation, others)
    assert result.chosen == {"mask": None, "gender": None}
    gender = next(score for score in result.scores if score.name == "gender")
    assert gender.accuracy == pytest.approx((validation.scoring_classes["gender"] == 0).float().mean().item())

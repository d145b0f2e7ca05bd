"""Imagined people for the drawn faces: a gender, an age and a look whose cues overlap between the classes.

What tells gender or age is drawn from overlapping distributions, several cues each with noise of its own; all the rest
(skin tone, hair colour, glasses, colour of the clothes) is drawn without regard to either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.random_streams import numpy_stream

GENDERS = ("male", "female")
FEMALE_SHARE = 0.55
# (lowest, highest age, share): most are in their twenties or fifties as in the competition; 60 stands for 60 or more.
AGE_SHARES = ((18, 29, 0.45), (30, 39, 0.05), (40, 49, 0.12), (50, 59, 0.28), (60, 60, 0.10))
# i -> frac(i * STEP) fills [0, 1) evenly for any number of people, so that a small data set has its share of every
# gender and age too (the golden ratio's sequence; Weyl 1916).
STEP = 0.6180339887498949

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Person:
    """Whom to draw. Lengths are in face units (half the height from crown to chin); strengths run from 0 to 1."""

    seed: int
    part: str
    index: int
    gender: str
    age: int
    skin: Colour
    hair: Colour
    grey: float
    brow_grey: float
    hair_style: str  # short, bob, long, tied
    hair_length: float
    hair_volume: float
    fringe: float  # how far it comes down the forehead; 0 = none
    parting: float
    hairline: float  # y of the hairline's middle
    recession: float
    cheek: float
    jaw: float
    chin: float
    brow_thickness: float
    brow_height: float
    eye_size: float
    iris: Colour
    eye_gap: float
    lashes: float
    nose: float
    lip: float
    lip_colour: Colour
    stubble: float
    neck: float
    shoulders: float
    earring: float
    forehead_lines: float
    crows_feet: float
    bags: float
    folds: float
    sag: float
    droop: float
    blotches: float
    spots: float
    glasses: str  # none, round, square, half
    glasses_colour: Colour
    clothes: str  # crew, v_neck, collar, hood
    clothes_colour: Colour


def imagine_person(seed: int, part: str, index: int, gender: str | None = None, age: int | None = None) -> Person:
    """The person number `index` of `part` ("train" or "eval"); gender and age are drawn too where they are not given.

    The same arguments give the same person, however many others there are.
    """
    offset = numpy_stream(seed, f"drawn people {part}").random()
    random = numpy_stream(seed, f"drawn person {part}", index)
    own_gender, own_age = _gender_and_age((offset + index * STEP) % 1.0, random)
    gender, age = gender or own_gender, own_age if age is None else age
    look = {**_nuisances(random), **_gender_cues(gender == "female", random)}
    look.update(_age_cues(age, gender == "female", random))
    return Person(seed=seed, part=part, index=index, gender=gender, age=age, **look)


def _gender_and_age(place: float, random: np.random.Generator) -> tuple[str, int]:
    """The gender and the range of ages at a place in [0, 1); the age within its range is drawn."""
    within = random.random()
    number = 0
    while place >= AGE_SHARES[number][2] and number < len(AGE_SHARES) - 1:
        place -= AGE_SHARES[number][2]
        number += 1
    lowest, highest, share = AGE_SHARES[number]
    # Of those under 30 most are under 25.
    age = lowest + int((within**1.5 if highest < 30 else within) * (highest + 1 - lowest))
    return "female" if place < share * FEMALE_SHARE else "male", age


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` of `second` in it."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """`colour` made darker (factor < 1) or lighter."""
    red, green, blue = (min(255.0, value * factor) for value in colour)
    return red, green, blue


def any_colour(random: np.random.Generator, saturation: float = 0.6) -> Colour:
    """A colour of any hue and brightness."""
    grey = random.uniform(25, 240)
    red, green, blue = np.clip(grey + random.uniform(-130, 130, 3) * saturation, 0, 255)
    return float(red), float(green), float(blue)


def _nuisances(random: np.random.Generator) -> dict[str, Any]:
    skin = mix((250, 222, 200), (132, 88, 64), float(random.beta(1.1, 2.4)))
    red, green, blue = np.clip(np.array(skin) * random.normal(1, 0.025, 3), 60, 252)
    hair = mix((24, 20, 20), (118, 78, 48), float(random.beta(0.9, 1.6)))
    if random.random() < 0.08:
        hair = mix(hair, any_colour(random, 1.0), 0.6)
    return {
        "skin": (float(red), float(green), float(blue)),
        "hair": hair,
        "parting": float(random.uniform(-0.4, 0.4)),
        "hair_volume": float(random.uniform(0.08, 0.22)),
        "cheek": float(random.normal(0.72, 0.03)),
        "iris": mix((38, 24, 18), (104, 74, 44), float(random.random())),
        "eye_gap": float(random.normal(0.31, 0.015)),
        "nose": float(np.clip(random.normal(0.125, 0.016), 0.09, 0.17)),
        "glasses": str(random.choice(["none", "round", "square", "half"], p=[0.68, 0.13, 0.12, 0.07])),
        "glasses_colour": any_colour(random, 0.3) if random.random() < 0.4 else (35.0, 32.0, 34.0),
        "clothes_colour": any_colour(random),
    }


def _gender_cues(female: bool, random: np.random.Generator) -> dict[str, Any]:
    """Each cue alone is often wrong; all together they seldom are."""

    def normal(for_female: float, for_male: float, spread: float) -> float:
        return float(random.normal(for_female if female else for_male, spread))

    def chance(for_female: float, for_male: float) -> bool:
        return bool(random.random() < (for_female if female else for_male))

    shares = [0.17, 0.25, 0.38, 0.20] if female else [0.84, 0.05, 0.05, 0.06]
    style = str(random.choice(["short", "bob", "long", "tied"], p=shares))
    lips = mix((196, 120, 112), (158, 92, 84), float(random.random()))
    lipstick = chance(0.4, 0.01)
    painted = mix(lips, (190, 38, 58), float(random.uniform(0.35, 0.9)))
    return {
        "hair_style": style,
        "hair_length": float(random.uniform(0.75, 1.15) if style == "bob" else random.uniform(1.3, 2.1)),
        "fringe": float(random.uniform(0.08, 0.3)) if chance(0.45, 0.4) else 0.0,
        "jaw": float(np.clip(normal(0.665, 0.80, 0.06), 0.54, 0.92)),
        "chin": float(np.clip(normal(0.22, 0.31, 0.04), 0.14, 0.42)),
        "brow_thickness": float(np.clip(normal(0.045, 0.078, 0.015), 0.02, 0.12)),
        "brow_height": float(np.clip(normal(0.245, 0.205, 0.02), 0.16, 0.3)),
        "eye_size": float(np.clip(normal(1.08, 0.93, 0.09), 0.75, 1.35)),
        "lashes": float(random.uniform(0.5, 1.0)) if chance(0.75, 0.08) else float(random.uniform(0, 0.3)),
        "lip": float(np.clip(normal(1.08, 0.88, 0.14), 0.55, 1.5)),
        "lip_colour": painted if lipstick else lips,
        "stubble": float(random.uniform(0.3, 1.0)) if chance(0.0, 0.55) else 0.0,
        "neck": float(np.clip(normal(0.36, 0.47, 0.04), 0.28, 0.58)),
        "shoulders": float(np.clip(normal(1.32, 1.58, 0.11), 1.05, 1.9)),
        "earring": float(random.uniform(0.5, 1.0)) if chance(0.4, 0.05) else 0.0,
        "clothes": str(
            random.choice(
                ["crew", "v_neck", "collar", "hood"], p=[0.3, 0.4, 0.15, 0.15] if female else [0.3, 0.12, 0.36, 0.22]
            )
        ),
    }


def _age_cues(age: int, female: bool, random: np.random.Generator) -> dict[str, Any]:
    """Strengths that grow with the years, smoothly: nothing happens at 30 or at 60.

    Some people look older or younger than they are in all of their cues, and each cue has noise of its own."""
    years = age + random.random() if age < 60 else 60 + 18 * random.random() ** 0.8
    looks = (years - 18) / 50 + random.normal(0, 0.025)

    def strength(start: float, full: float, spread: float = 0.05) -> float:
        """0 before `start`, 1 from `full` on (on the scale where 18 years is 0 and 68 is 1)."""
        return float(np.clip((looks + random.normal(0, spread) - start) / (full - start), 0, 1))

    greying = strength(0.4, 0.95, 0.1)
    dyed = random.random() < (0.35 if female else 0.25)
    thinning = strength(0.15, 0.95, 0.15) * float(random.random() < (0.1 if female else 0.6))
    return {
        "forehead_lines": strength(0.1, 0.95),
        "crows_feet": strength(0.15, 0.95),
        "bags": strength(0.05, 1.0, 0.07),
        "folds": strength(0.1, 0.9),
        "sag": strength(0.4, 1.0, 0.07),
        "droop": strength(0.3, 1.0, 0.07),
        "blotches": strength(0.1, 1.0, 0.1),
        "spots": strength(0.55, 1.0, 0.08),
        "grey": greying * (0.1 if dyed else 1.0),
        "brow_grey": greying * float(random.uniform(0.3, 0.9)) * (0.5 if dyed else 1.0),
        "hairline": float(random.normal(-0.6, 0.04)) - 0.08 * thinning,
        "recession": thinning,
    }

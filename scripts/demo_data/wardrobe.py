"""What a drawn person wears: hair, clothes and glasses."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.demo_data.people import Person, mix, shade
from scripts.demo_data.shapes import (
    HEIGHT,
    WIDTH,
    Image,
    Points,
    Shading,
    View,
    fill,
    mirrored,
    paste,
    smooth,
    strands,
    stroke,
)

SIDES = (-1.0, 1.0)


def draw_body(image: Image, person: Person, body: View, head: View, random: np.random.Generator) -> None:
    """Neck, shoulders and clothes; the neck follows the head."""
    neck, shoulders = person.neck, person.shoulders
    colour = person.clothes_colour
    torso = [(0, 1.42), (neck * 1.1, 1.36), (shoulders * 0.8, 1.62), (shoulders, 2.0), (shoulders * 1.1, 3.2), (0, 3.4)]
    fill(image, body(smooth(mirrored(torso))), colour)
    deep = {"v_neck": 2.05, "collar": 1.75, "crew": 1.58, "hood": 1.55}[person.clothes] + random.normal(0, 0.03)
    top = [
        (0, 1.2),
        (neck * 1.18, 1.38),
        (neck * (0.5 if person.clothes in ("v_neck", "collar") else 0.8), deep - 0.13),
        (0, deep),
    ]
    fill(image, body(mirrored(top)), shade(person.skin, 0.93))
    column = np.concatenate([head([(-neck, 0.4), (neck, 0.4)]), body([(neck * 1.05, 1.5), (-neck * 1.05, 1.5)])])
    fill(image, column, shade(person.skin, 0.95))
    shading = Shading()
    shading.area(
        np.concatenate([head([(-0.7, 0.5), (0.7, 0.5)]), body([(neck * 1.1, 1.24), (-neck * 1.1, 1.24)])]), 0.36
    )
    for side in SIDES:
        shading.line(body([(side * neck * 1.1, 1.4), (side * neck, 1.9), (side * shoulders * 0.7, 3)]), 0.06, 8)
        shading.line(body([(side * neck * 0.9, 1.38), (side * 0.1, deep - 0.04)]), 0.14 + 0.16 * person.sag, 4)
    for place in (0.12, 0.24):
        shading.line(body([(-neck, 1.1 + place), (0, 1.16 + place), (neck, 1.1 + place)]), 0.22 * person.folds, 4)
    shading.apply(image)
    edge = shade(colour, 0.72) if sum(colour) > 300 else shade((colour[0] + 30, colour[1] + 30, colour[2] + 30), 1.1)
    if person.clothes == "collar":
        for side in SIDES:
            collar = [
                (side * neck * 1.02, 1.3),
                (side * neck * 1.3, 1.42),
                (side * neck * 0.95, 1.86),
                (side * 0.06, 1.72),
            ]
            fill(image, body(collar), mix(colour, (255, 255, 255), 0.25))
            stroke(image, body(collar[1:]), edge, 2)
    elif person.clothes == "hood":
        for side in SIDES:
            fold = smooth(
                [(side * neck, 1.25), (side * neck * 1.6, 1.45), (side * 0.7, 1.75), (0, 1.68), (side * 0.4, 1.5)]
            )
            fill(image, body(fold), shade(colour, 0.88))
            stroke(image, body([(side * 0.2, 1.66), (side * 0.22, 2.1)]), edge, 3)
    else:
        stroke(
            image,
            body(
                smooth(
                    [
                        (-neck * 1.18, 1.38),
                        (-neck * 0.7, deep - 0.11),
                        (0, deep),
                        (neck * 0.7, deep - 0.11),
                        (neck * 1.18, 1.38),
                    ],
                    False,
                )
            ),
            edge,
            4,
        )


def _hair_layer(person: Person, shift: int, darkness: float) -> Image:
    """Hair as wide as the picture: streaks of the hair's colour and, where it greys, of grey."""
    tone = np.arange(256)[:, None] / 255.0
    grey = np.clip(0.5 + 1.6 * (person.grey - 1 + tone), 0, 1) * min(1.0, person.grey * 1.4)
    colour = np.array(person.hair) * (0.65 + 0.8 * tone)
    colours = colour * (1 - grey) + np.array((186, 184, 182)) * (0.72 + 0.4 * tone) * grey
    table = np.clip(colours * darkness, 0, 255).astype(np.uint8).reshape(1, 256, 3)
    streaks = strands()[shift : shift + HEIGHT, (person.index * 97) % 600 : (person.index * 97) % 600 + WIDTH]
    return np.asarray(cv2.LUT(cv2.cvtColor(np.ascontiguousarray(streaks), cv2.COLOR_GRAY2RGB), table))


def _lay_hair(image: Image, person: Person, outlines: list[Points], shift: int, darkness: float) -> None:
    cover = np.zeros((HEIGHT, WIDTH), np.uint8)
    for outline in outlines:
        fill(cover, outline, (255,))
    paste(image, _hair_layer(person, shift, darkness), cover)


def draw_back_hair(image: Image, person: Person, view: View) -> None:
    """The hair behind the head, to be drawn before it."""
    volume, cheek = person.hair_volume, person.cheek
    if person.hair_style in ("long", "bob"):
        bottom = person.hair_length
        right = [
            (0, -1.05 - volume),
            (0.6, -0.9 - volume),
            (cheek + 0.12 + volume, -0.3),
            (cheek + 0.14 + volume, 0.5),
            (cheek + 0.1 + volume, bottom * 0.85),
            (cheek - 0.1, bottom),
            (0, bottom),
        ]
        outlines = [view(smooth(mirrored(right)), -0.3)]
    elif person.hair_style == "tied":
        side = 1.0 if person.parting > 0 else -1.0
        tail = [(0.2, -0.9), (0.75, -0.7), (0.95 + volume, 0.0), (0.9 + volume, 0.7), (0.72, 1.0), (0.7, 0.2)]
        bun = [(0.32 * np.cos(a), -1.12 - volume + 0.28 * np.sin(a)) for a in np.linspace(0, 5.6, 9)]
        outlines = [view(smooth(bun if person.hair_length > 1.7 else [(side * x, y) for x, y in tail]), -0.3)]
    else:
        outlines = [
            view(smooth(mirrored([(0, -1.0), (0.6, -0.7), (cheek + 0.03, -0.1), (cheek - 0.05, 0.3), (0, 0.4)])), -0.2)
        ]
    _lay_hair(image, person, outlines, 300, 0.72)


def draw_front_hair(image: Image, person: Person, view: View) -> None:
    """The hair over forehead and cheeks, to be drawn over face and mask."""
    volume, cheek, part = person.hair_volume, person.cheek, person.parting
    line, back = person.hairline, person.recession
    thin = 1 - 0.6 * back
    crown = [
        (-cheek - 0.03 - volume * 0.5 * thin, -0.45),
        (-0.6 - volume * 0.45, -0.82),
        (-0.35, -1.03 - volume * 0.85 * thin),
        (part * 0.3, -1.07 - volume * thin),
        (0.35, -1.03 - volume * 0.85 * thin),
        (0.6 + volume * 0.45, -0.82),
        (cheek + 0.03 + volume * 0.5 * thin, -0.45),
    ]
    ears = {"short": 0.08, "tied": 0.0}.get(person.hair_style, 0.15)
    temple = 0.36 * back
    fringe = person.fringe * (1 - back)
    if fringe > 0.02:
        low = line + fringe
        front = [
            (cheek - 0.06, low - 0.06),
            (0.35, low),
            (part * 0.6 + 0.1, low - 0.05),
            (part * 0.6, low - 0.1),
            (part * 0.6 - 0.1, low - 0.04),
            (-0.35, low),
            (-cheek + 0.06, low - 0.06),
        ]
    else:
        front = [
            (cheek - 0.07, line + 0.2),
            (0.52, line + 0.02 - temple * 0.6),
            (0.36, line - temple),
            (part, line - 0.06 + 0.02 * back),
            (-0.36, line - temple),
            (-0.52, line + 0.02 - temple * 0.6),
            (-cheek + 0.07, line + 0.2),
        ]
    cap = [
        (-cheek - 0.02, ears),
        *crown,
        (cheek + 0.02, ears),
        (cheek - 0.06, ears - 0.05),
        *front,
        (-cheek + 0.06, ears - 0.05),
    ]
    outlines = [view(smooth(cap, samples=5), -0.02)]
    if person.hair_style in ("long", "bob"):
        for side in SIDES:
            bottom = person.hair_length
            lock = [
                (0.4, line - 0.25),
                (cheek + 0.02, -0.5),
                (cheek + 0.1 + volume, 0.1),
                (cheek + 0.06 + volume, bottom * 0.8),
                (cheek - 0.12, bottom),
                (cheek - 0.06, bottom * 0.5),
                (cheek - 0.07, 0.0),
                (cheek - 0.12, -0.4),
            ]
            outlines.append(view(smooth([(side * x, y) for x, y in lock], samples=4), -0.05))
    _lay_hair(image, person, outlines, 0, 1.0)


def draw_glasses(image: Image, person: Person, view: View) -> None:
    """Glasses, if the person has any; they sit on the mask."""
    if person.glasses == "none":
        return
    for side in SIDES:
        angle = np.linspace(0, 2 * np.pi, 25)
        power = 1.0 if person.glasses == "round" else 0.55
        x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power * 0.235
        y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power * (0.2 if person.glasses == "round" else 0.165)
        rim = np.stack([side * person.eye_gap + x, 0.02 + y], axis=1)
        if person.glasses == "half":
            rim = rim[12:]
        stroke(image, view(rim, 0.08), person.glasses_colour, 4 * view.scale / 120)
        stroke(
            image,
            view([(side * (person.eye_gap + 0.235), -0.03), (side * person.cheek * 1.05, -0.08)], 0.0),
            person.glasses_colour,
            4,
        )
    stroke(image, view(smooth([(-0.08, 0.0), (0, -0.03), (0.08, 0.0)], False), 0.12), person.glasses_colour, 4)

"""Drawn faces: seven photographs of an imagined person, the same pixels for the same person whatever else is drawn."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.demo_data.people import Person, imagine_person, mix, shade
from scripts.demo_data.scenes import WRONG_WAYS, draw_background, draw_mask, own_masks, take_photograph
from scripts.demo_data.shapes import (
    HEIGHT,
    WIDTH,
    Image,
    Points,
    Shading,
    View,
    clouds,
    fill,
    mirrored,
    smooth,
    stroke,
)
from scripts.demo_data.wardrobe import SIDES, draw_back_hair, draw_body, draw_front_hair, draw_glasses
from utils.random_streams import numpy_stream

STEMS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
MASK_STATES = ("wear", "incorrect", "not_wear")


def mask_state_of(stem: str) -> str:
    """How the mask is worn on the photograph `stem`."""
    return {"incorrect_mask": "incorrect", "normal": "not_wear"}.get(stem, "wear")


def draw_person(person: Person) -> dict[str, Image]:
    """The person's seven photographs by stem, each (512, 384, 3) uint8, RGB."""
    return {stem: draw_photograph(person, stem) for stem in STEMS}


def draw_photograph(person: Person, stem: str, mask_state: str | None = None) -> Image:
    """One photograph, (512, 384, 3) uint8, RGB.

    stem: one of STEMS, which photograph it is; mask_state: one of MASK_STATES where it is not what the stem says."""
    number = STEMS.index(stem)
    mask_state = mask_state or mask_state_of(stem)
    random = numpy_stream(person.seed, f"drawn photograph {person.part}", person.index, number)
    scale = HEIGHT * random.uniform(0.22, 0.28)
    centre = (WIDTH * (0.5 + random.normal(0, 0.03)), HEIGHT * (0.47 + random.normal(0, 0.025)))
    roll, yaw, pitch = random.normal(0, 0.05), random.normal(0, 0.14), random.normal(0, 0.07)
    view = View(scale, centre, roll, yaw, pitch)
    body = View(scale, centre, roll * 0.2, yaw * 0.2, 0.0)
    image = draw_background(random)
    draw_back_hair(image, person, view)
    draw_body(image, person, body, view, random)
    outline = _draw_head(image, person, view, random)
    _draw_features(image, person, view, random)
    ways, shares = list(WRONG_WAYS), list(WRONG_WAYS.values())
    way = str(random.choice(ways, p=shares)) if mask_state == "incorrect" else "right"
    if way == "forehead":
        draw_front_hair(image, person, view)
    if mask_state != "not_wear":
        masks = own_masks(numpy_stream(person.seed, f"drawn masks {person.part}", person.index), len(STEMS))
        draw_mask(image, person, view, masks[number], way, random, outline)
    if way != "forehead":
        draw_front_hair(image, person, view)
    draw_glasses(image, person, view)
    return take_photograph(image, random)


def contact_sheet(seed: int, people: int = 6) -> Image:
    """Small pictures of the first `people` of the seed, a row each, the seven photographs side by side."""
    rows = []
    for index in range(people):
        pictures = draw_person(imagine_person(seed, "train", index))
        tiles = [cv2.resize(picture, (96, 128), interpolation=cv2.INTER_AREA) for picture in pictures.values()]
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def _face_right(person: Person) -> Points:
    """The right half of the face's outline, crown to chin."""
    jaw, chin = person.jaw * person.cheek / 0.72, person.chin
    return np.array(
        [
            (0, -1.0),
            (0.40, -0.93),
            (0.62, -0.68),
            (person.cheek * 0.98, -0.3),
            (person.cheek, 0.02),
            (person.cheek * 0.96, 0.28),
            (jaw * 0.84, 0.6 + 0.02 * person.sag),
            (jaw * 0.64 + 0.07 * person.sag, 0.79),
            (chin, 0.95),
            (0, 1.0),
        ]
    )


def _draw_head(image: Image, person: Person, view: View, random: np.random.Generator) -> np.ndarray:
    """Ears, face and its shading; returns (2, N): y and the half width of the face there."""
    for side in SIDES:
        ear = [(0.97, -0.14), (1.1, -0.16), (1.13, 0.0), (1.07, 0.2), (0.96, 0.24)]
        points = view(smooth([(side * person.cheek * x, y) for x, y in ear]), depth=-0.15)
        fill(image, points, shade(person.skin, 0.88))
        stroke(
            image,
            view([(side * person.cheek * 1.07, -0.1), (side * person.cheek * 1.06, 0.1)], -0.15),
            shade(person.skin, 0.68),
            3,
        )
        if person.earring:
            x, y = view([(side * person.cheek * 1.07, 0.25)], depth=-0.15)[0]
            cv2.circle(image, (round(x), round(y)), round(3 + 4 * person.earring), (226, 206, 130), -1, cv2.LINE_AA)
    right = smooth(_face_right(person), closed=False)
    outline = mirrored(right)
    pixels = view(outline)
    skin = np.zeros((HEIGHT, WIDTH), np.uint8)
    fill(skin, pixels, (255,))
    fill(image, pixels, person.skin)
    shading = Shading()
    _shade_shape(shading, person, view)
    _shade_age(shading, person, view, random)
    texture = 0.012 + 0.055 * person.blotches
    patches = clouds(random, 16, 12, (HEIGHT // 8, WIDTH // 8)) * texture
    redness = np.array([0.4, 1.0, 1.0], np.float32)
    if person.stubble:
        _shade_stubble(shading, person, view)
    shading.apply(image, skin, patches[..., None] * redness)
    return right[:, ::-1].T


def _shade_shape(shading: Shading, person: Person, view: View) -> None:
    """The roundness of a face: its sides, sockets, nose and cheeks."""
    cheek = person.cheek
    for side in SIDES:
        rim = [
            (side * 1.1, -0.8),
            (side * cheek * 0.84, -0.5),
            (side * cheek * 0.87, 0.1),
            (side * person.jaw * 0.74, 0.55),
            (side * 0.25, 1.1),
        ]
        shading.area(view([*rim, (side * 1.3, 1.2)]), 0.22)
        shading.area(
            view([(side * (person.eye_gap + 0.17 * np.cos(a)), -0.07 + 0.1 * np.sin(a)) for a in np.linspace(0, 6, 8)]),
            0.13,
        )
        shading.area(
            view([(side * (0.4 + 0.14 * np.cos(a)), 0.32 + 0.12 * np.sin(a)) for a in np.linspace(0, 6, 8)]), -0.07
        )
    shading.area(view([(-0.35, -0.6), (0.35, -0.6), (0.3, -0.35), (-0.3, -0.35)]), -0.06)
    shading.area(view([(-0.1, 0.78), (0.1, 0.78), (0.12, 0.9), (-0.12, 0.9)]), -0.06)
    nose = person.nose
    shading.line(view(smooth([(nose * 0.55, -0.12), (nose * 0.5, 0.15), (nose * 1.0, 0.3)], False), 0.12), 0.16, 7)
    shading.line(view([(-nose * 0.2, -0.05), (-nose * 0.1, 0.27)], 0.15), -0.1, 7)
    shading.area(view([(-nose, 0.37), (nose, 0.37), (nose * 0.7, 0.5), (-nose * 0.7, 0.5)]), 0.14)


def _shade_age(shading: Shading, person: Person, view: View, random: np.random.Generator) -> None:
    """Lines, bags and spots, each as deep as its strength says."""
    if person.forehead_lines > 0.05:
        for number in range(3):
            y = -0.36 - 0.1 * number + random.normal(0, 0.008)
            half = 0.4 - 0.03 * number
            line = smooth(
                [(-half, y + 0.02), (-half / 2, y - 0.015), (0, y + 0.01), (half / 2, y - 0.015), (half, y + 0.02)],
                False,
            )
            shading.line(view(line), 0.3 * person.forehead_lines, 5)
    for side in SIDES:
        outer = person.eye_gap + 0.19
        for tilt in (-0.1, 0.0, 0.1):
            feet = [(side * outer, -0.03 + tilt * 0.35), (side * (outer + 0.13), -0.03 + tilt)]
            shading.line(view(feet), 0.36 * person.crows_feet, 4.5)
        gap, deep = person.eye_gap, 0.15 + 0.04 * person.bags
        bag = smooth(
            [
                (side * (gap - 0.15), 0.03),
                (side * (gap - 0.04), deep - 0.02),
                (side * (gap + 0.08), deep - 0.02),
                (side * (gap + 0.15), 0.05),
            ],
            False,
        )
        shading.patch(view(bag), 0.1 * person.bags)
        shading.line(view(bag), 0.32 * person.bags, 5)
        fold = smooth([(side * 0.16, 0.3), (side * 0.27, 0.45), (side * (0.31 + 0.04 * person.sag), 0.64)], False)
        shading.line(view(fold), 0.06 + 0.32 * person.folds, 6)
        marionette = [(side * 0.25, 0.68), (side * 0.29, 0.86)]
        shading.line(view(marionette), 0.3 * person.sag, 5)
        shading.line(view([(side * 0.045, -0.32), (side * 0.05, -0.2)]), 0.35 * person.folds * person.forehead_lines, 5)
    where = numpy_stream(person.seed, f"drawn spots {person.part}", person.index)
    for x, y, size, strong in where.uniform((-0.62, -0.7, 0.012, 0.3), (0.62, 0.75, 0.04, 1), (16, 4)):
        shade_of = 0.5 * strong * person.spots
        if shade_of > 0.03:
            shading.patch(
                view([(x + size * np.cos(a), y + size * np.sin(a)) for a in np.linspace(0, 5.5, 7)]), shade_of
            )


def _shade_stubble(shading: Shading, person: Person, view: View) -> None:
    jaw = person.jaw
    beard = [
        (0, 0.47),
        (0.24, 0.5),
        (0.36, 0.62),
        (jaw * 0.84, 0.36),
        (jaw * 0.9, 0.6),
        (jaw * 0.64, 0.84),
        (0.25, 1.0),
        (0, 1.04),
    ]
    shading.area(view(mirrored(beard)), 0.34 * person.stubble)


def _draw_features(image: Image, person: Person, view: View, random: np.random.Generator) -> None:
    """Eyes, brows, nostrils and mouth, with an expression of the moment."""
    open_eyes, gaze = random.uniform(0.75, 1.05) * (1 - 0.3 * person.droop), random.normal(0, 0.02)
    lash_colour = (28.0, 20.0, 20.0)
    brow_colour = mix(shade(person.hair, 0.9), (196, 194, 190), person.brow_grey * 0.8)
    raised = random.normal(0, 0.012)
    for side in SIDES:
        gap, wide, high = person.eye_gap, 0.155 * person.eye_size, 0.075 * person.eye_size * open_eyes
        outer_drop = 0.045 * person.droop
        lid = [
            (gap - wide, 0.02),
            (gap - wide * 0.4, -high * 0.85),
            (gap + wide * 0.3, -high),
            (gap + wide, -0.01 + outer_drop),
        ]
        lower = [(gap + wide * 0.4, high * 0.62 + outer_drop / 2), (gap - wide * 0.4, high * 0.6)]
        upper_line = view(smooth([(side * x, y) for x, y in lid], False))
        eye = np.concatenate([upper_line, view([(side * x, y) for x, y in lower])])
        fill(image, eye, (238, 233, 228))
        white = np.zeros((HEIGHT, WIDTH), np.uint8)
        fill(white, eye, (255,))
        x, y, width, height = cv2.boundingRect(white)
        box = np.s_[y : y + height, x : x + width]
        iris = view([(side * gap + gaze, -0.005)], 0.03)[0]
        ball = image[box].copy()
        at = np.array([[iris[0] - x, iris[1] - y]])
        radius = 0.072 * view.scale
        ring = np.stack([np.cos(np.linspace(0, 6, 14)), np.sin(np.linspace(0, 6, 14))], axis=1)
        fill(ball, at + ring * radius, person.iris)
        fill(ball, at + ring * radius * 0.5, (12, 9, 9))
        fill(ball, at + ring * radius * 0.22 + (-radius * 0.35, -radius * 0.35), (250, 250, 250))
        cv2.copyTo(ball, white[box], image[box])
        lash = 1.2 + 3.8 * person.lashes
        stroke(image, upper_line, lash_colour, lash * view.scale / 120)
        if person.lashes > 0.45:
            wing = view(
                [(side * (gap + wide * 0.85), -0.015 + outer_drop), (side * (gap + wide * 1.28), -0.06 + outer_drop)]
            )
            stroke(image, wing, lash_colour, lash * 0.8 * view.scale / 120)
        crease = view(smooth([(side * x, y - 0.035 - 0.012 * person.eye_size) for x, y in lid], False))
        stroke(image, crease, shade(person.skin, 0.68 - 0.12 * person.droop), 1.5 + 1.5 * person.droop)
        thick, height_of = person.brow_thickness, -person.brow_height + raised - 0.0
        upper = [
            (0.13, height_of - 0.01),
            (0.29, height_of - 0.04),
            (0.42, height_of - 0.045),
            (0.55, height_of + 0.015 + 0.02 * person.droop),
        ]
        under = [(x, y + thick * share) for (x, y), share in zip(upper[::-1], (0.2, 0.75, 1.0, 0.95), strict=True)]
        fill(image, view(smooth([(side * x, y) for x, y in upper + under], samples=4)), brow_colour)
        nostril = [
            (side * person.nose * (0.55 + 0.3 * np.cos(a)), 0.345 + 0.022 * np.sin(a)) for a in np.linspace(0, 6, 9)
        ]
        fill(image, view(nostril, 0.1), shade(person.skin, 0.45))
        wing_line = smooth(
            [(side * person.nose * 0.9, 0.25), (side * person.nose * 1.2, 0.31), (side * person.nose * 0.95, 0.365)],
            False,
        )
        stroke(image, view(wing_line, 0.08), shade(person.skin, 0.68), 2.5)
    _draw_mouth(image, person, view, random)


def _draw_mouth(image: Image, person: Person, view: View, random: np.random.Generator) -> None:
    smile, half = random.normal(0.015, 0.025) - 0.02 * person.sag, random.uniform(0.22, 0.28)
    gap = max(0.0, float(random.normal(-0.02, 0.04)))
    full = person.lip * (1 - 0.2 * person.sag)
    y = 0.615
    corner_right, corner_left = (half, y - smile), (-half, y - smile)
    middle = [(half * 0.5, y + 0.004), (0, y + 0.01), (-half * 0.5, y + 0.004)]
    upper = [
        corner_left,
        (-half * 0.45, y - 0.045 * full),
        (-0.035, y - 0.06 * full),
        (0, y - 0.045 * full),
        (0.035, y - 0.06 * full),
        (half * 0.45, y - 0.045 * full),
        corner_right,
    ]
    fill(image, view(smooth([*upper, *middle], samples=3)), shade(person.lip_colour, 0.9))
    low = [(half * 0.5, y + 0.065 * full + gap), (0, y + 0.085 * full + gap), (-half * 0.5, y + 0.065 * full + gap)]
    fill(image, view(smooth([corner_left, *middle[::-1], corner_right, *low], samples=3)), person.lip_colour)
    if gap > 0.01:
        teeth = [corner_left, *middle[::-1], corner_right, *((x, min(y + gap + 0.012, y + gap)) for x, _ in middle)]
        fill(image, view(smooth(teeth, samples=3)), (232, 226, 216) if smile > 0 else (92, 40, 40))
    stroke(image, view(smooth([corner_left, *middle[::-1], corner_right], False)), shade(person.lip_colour, 0.55), 2.5)

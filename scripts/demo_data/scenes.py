"""What is around a drawn face: the background behind it, the mask over it, the camera in front of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scripts.demo_data.people import Colour, Person, any_colour, shade
from scripts.demo_data.shapes import HEIGHT, WIDTH, Image, Shading, View, clouds, fill, grain, paste, smooth, stroke

MASK_KINDS = ("surgical", "kf94", "cloth", "cup")
PATTERNS = ("plain", "dots", "stripes", "checks", "flowers", "blots")
PLAIN_COLOURS: tuple[Colour, ...] = (
    (243, 244, 246),
    (243, 244, 246),
    (150, 196, 224),
    (28, 28, 32),
    (28, 28, 32),
    (233, 178, 188),
    (128, 132, 140),
    (44, 62, 104),
    (214, 202, 178),
)
# How a mask is worn wrongly, and how often.
WRONG_WAYS = {"nose_out": 0.45, "under_chin": 0.3, "mouth_out": 0.06, "forehead": 0.06, "one_ear": 0.09, "eyes": 0.04}


@dataclass(frozen=True)
class Mask:
    """A mask that a person owns."""

    kind: str
    pattern: str
    colour: Colour
    second: Colour
    fit: float


def own_masks(random: np.random.Generator, count: int) -> list[Mask]:
    """`count` masks of which no two neighbours look alike."""
    kinds = [*random.permutation(len(MASK_KINDS)), *random.permutation(len(MASK_KINDS))]
    colours = random.permutation(len(PLAIN_COLOURS))
    masks = []
    for number in range(count):
        kind = MASK_KINDS[kinds[number]]
        printed = random.random() < (0.6 if kind == "cloth" else 0.12)
        colour = PLAIN_COLOURS[colours[number]]
        if kind in ("cloth", "cup") and random.random() < 0.5:
            colour = any_colour(random, 0.7)
        pattern = PATTERNS[1 + random.integers(len(PATTERNS) - 1)] if printed else "plain"
        masks.append(Mask(kind, pattern, colour, any_colour(random, 1.0), float(random.uniform(0.95, 1.05))))
    return masks


def draw_background(random: np.random.Generator) -> Image:
    """A wall, shelves, lights out of focus, tiles or a landscape: (HEIGHT, WIDTH, 3)."""
    height, width = HEIGHT // 4, WIDTH // 4
    first, second = np.array(any_colour(random, 0.4)), np.array(any_colour(random, 0.4))
    rows = np.linspace(0, 1, height)[:, None, None]
    columns = np.linspace(0, 1, width)[None, :, None]
    slope = random.uniform(-1, 1, 2)
    share = np.clip(0.5 + slope[0] * (rows - 0.5) + slope[1] * (columns - 0.5), 0, 1)
    nearness = random.uniform(0.2, 1.0)
    small = (first + (second - first) * share * nearness).astype(np.float32)
    kind = random.choice(["wall", "shelves", "lights", "tiles", "clouds", "panels"])
    if kind == "clouds":
        small += clouds(random, 5, 4, (height, width))[..., None] * random.uniform(10, 40, 3).astype(np.float32)
    image = np.clip(small, 0, 255).astype(np.uint8)
    if kind == "shelves":
        _draw_shelves(image, random)
    elif kind == "lights":
        for _ in range(random.integers(6, 22)):
            centre = (int(random.integers(width)), int(random.integers(height)))
            glow = image.copy()
            cv2.circle(glow, centre, int(random.integers(3, 13)), any_colour(random, 0.8), -1, cv2.LINE_AA)
            image = cv2.addWeighted(image, 0.5, glow, 0.5, 0)
    elif kind == "tiles":
        step = int(random.integers(9, 26))
        tone = [float(value) for value in np.clip(first + random.normal(0, 40), 0, 255)]
        for x in range(int(random.integers(step)), width, step):
            cv2.line(image, (x, 0), (x, height), tone, 1)
        for y in range(int(random.integers(step)), height, step):
            cv2.line(image, (0, y), (width, y), tone, 1)
    elif kind == "panels":
        for _ in range(random.integers(2, 6)):
            x, y = int(random.integers(-20, width)), int(random.integers(-20, height))
            far = (x + int(random.integers(12, 60)), y + int(random.integers(20, 100)))
            cv2.rectangle(image, (x, y), far, any_colour(random), -1)
    if kind != "wall":
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.5, 2.5))
    return np.asarray(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))


def _draw_shelves(image: Image, random: np.random.Generator) -> None:
    height, width = image.shape[:2]
    y = int(random.integers(4, 20))
    while y < height + 20:
        gap = int(random.integers(16, 30))
        x = 0
        while x < width:
            book = int(random.integers(3, 9))
            top = y - int(gap * random.uniform(0.5, 0.9))
            if random.random() < 0.85:
                cv2.rectangle(image, (x, top), (x + book - 1, y), any_colour(random, 0.5), -1)
            x += book
        cv2.rectangle(image, (0, y), (width, y + 2), any_colour(random, 0.2), -1)
        y += gap


def cloth_tile(mask: Mask, random: np.random.Generator) -> Image:
    """The mask's cloth: (256, 256, 3), which may be repeated."""
    tile = np.full((256, 256, 3), mask.colour, np.uint8)
    if mask.pattern == "plain":
        return tile
    step = int(random.integers(16, 40))
    if mask.pattern == "blots":
        tile[clouds(random, 14, 14, (256, 256)) > 0.3] = mask.second
    for x in range(step // 2, 256, step):
        if mask.pattern in ("stripes", "checks"):
            cv2.line(tile, (x, 0), (x, 255), mask.second, step // 3)
        if mask.pattern == "checks":
            cv2.line(tile, (0, x), (255, x), shade(mask.second, 0.8), step // 4)
        for y in range(step // 2, 256, step):
            if mask.pattern == "dots":
                cv2.circle(tile, (x + (y // step % 2) * step // 2, y), step // 5, mask.second, -1, cv2.LINE_AA)
            elif mask.pattern == "flowers":
                centre = np.add((x, y), random.integers(-step // 4, step // 4 + 1, 2))
                for angle in range(0, 360, 72):
                    petal = centre + np.round(
                        step / 5 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
                    )
                    cv2.circle(tile, (int(petal[0]), int(petal[1])), step // 7, mask.second, -1, cv2.LINE_AA)
    return tile


def _cloth_layer(mask: Mask, view: View, random: np.random.Generator) -> Image:
    """The mask's cloth as wide as the picture, its pattern turned with the head."""
    tile = cloth_tile(mask, random)
    if mask.pattern == "plain":
        return np.full((HEIGHT, WIDTH, 3), mask.colour, np.uint8)
    turn = np.hstack([view.rotation / 128, (view.centre - view.rotation @ (1, 0) + (20 * view.yaw, 0))[:, None]])
    return np.asarray(cv2.warpAffine(tile, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_WRAP))


def draw_mask(
    image: Image, person: Person, view: View, mask: Mask, way: str, random: np.random.Generator, half_width: np.ndarray
) -> None:
    """Draws a mask, worn rightly (way "right") or in one of WRONG_WAYS.

    half_width: (2, N), rising y and the face's half width there."""
    top, bottom = 0.1 + random.normal(0, 0.02), 1.07 + random.normal(0, 0.02)
    if way == "nose_out":
        top, bottom = random.uniform(0.42, 0.52), 1.1 + random.uniform(0, 0.1)
    elif way == "under_chin":
        top, bottom = random.uniform(0.78, 0.92), 1.22 + random.uniform(0, 0.12)
    elif way == "mouth_out":
        top, bottom = 0.02, random.uniform(0.42, 0.5)
    elif way == "forehead":
        top, bottom = random.uniform(-0.9, -0.75), random.uniform(-0.4, -0.32)
    elif way == "eyes":
        top, bottom = random.uniform(-0.36, -0.28), random.uniform(0.3, 0.45)
    # (u, v): across the face's half width, and down the mask.
    if mask.kind == "surgical":
        right = [(0, -0.03), (0.25, 0.0), (0.6, 0.06), (0.93, 0.13), (0.97, 0.45), (0.9, 0.75), (0.55, 0.96), (0, 1.0)]
    elif mask.kind == "kf94":
        right = [(0, -0.12), (0.18, -0.04), (0.5, 0.1), (0.98, 0.3), (1.0, 0.42), (0.8, 0.75), (0.42, 0.97), (0, 1.03)]
    elif mask.kind == "cloth":
        right = [(0, -0.08), (0.2, -0.03), (0.55, 0.08), (0.97, 0.2), (1.0, 0.5), (0.85, 0.78), (0.45, 0.98), (0, 1.0)]
    else:
        right = [(0, -0.1), (0.2, -0.02), (0.5, 0.08), (0.88, 0.22), (0.92, 0.45), (0.78, 0.76), (0.4, 0.98), (0, 1.02)]

    hanging = way == "one_ear"
    side = 1.0 if random.random() < 0.5 else -1.0
    swing = side * random.uniform(0.9, 1.35)
    turn = np.array([[np.cos(swing), np.sin(swing)], [-np.sin(swing), np.cos(swing)]])

    def place(points: list[tuple[float, float]] | np.ndarray) -> np.ndarray:
        """(u, v) -> pixels."""
        u, v = np.asarray(points, dtype=np.float64).T
        if hanging:
            flat = np.stack([u * 0.5, (v - 0.5) * 0.62], axis=1) @ turn + (side * 0.72, 0.62)
            return view(flat, depth=0.05)
        y = top + v * (bottom - top)
        # Off the chin the cloth keeps some width instead of following the outline to a point.
        width = np.maximum(np.interp(y, *half_width), 0.45) * np.minimum(1.0, 1.6 - 0.6 * np.abs(y - 0.5))
        x = u * width * mask.fit
        return view(np.stack([x, y], axis=1), depth=0.06 * (1 - u.mean() ** 2))

    loop = shade(mask.colour, 0.86) if sum(mask.colour) > 240 else (60.0, 60.0, 66.0)
    for ear_side in (side,) if hanging else (-1.0, 1.0):
        ear = (ear_side * person.cheek * 1.03, -0.02)
        if hanging:
            corners = [(-0.9, 0.1), (-0.9, 0.9)] if side * np.sin(swing) > 0 else [(0.9, 0.1), (0.9, 0.9)]
        else:
            corners = [(ear_side * 0.93, 0.2), (ear_side * 0.88, 0.72)]
        for number, corner in enumerate(corners):
            line = np.concatenate([place([corner]), view([(ear[0], ear[1] + 0.22 * number)])])
            stroke(image, line, loop, 2.5)
    outline = np.zeros((HEIGHT, WIDTH), np.uint8)
    edge = place(smooth([*right, *((-u, v) for u, v in right[-2:0:-1])], samples=4))
    fill(outline, edge, (255,))
    paste(image, _cloth_layer(mask, view, random), outline)
    shading = Shading()
    shading.area(place([(-1.1, 0), (-0.72, 0.1), (-0.6, 0.7), (-0.7, 1.1), (-1.2, 1)]), 0.25)
    shading.area(place([(1.1, 0), (0.72, 0.1), (0.6, 0.7), (0.7, 1.1), (1.2, 1)]), 0.25)
    shading.area(place([(-0.9, 0.8), (0, 0.86), (0.9, 0.8), (0.6, 1.2), (-0.6, 1.2)]), 0.2)
    shading.line(np.concatenate([edge, edge[:1]]), 0.22, 4)
    seams: list[list[tuple[float, float]]]
    if mask.kind == "surgical":
        seams = [[(-0.95, v), (-0.5, v + 0.04), (0, v + 0.06), (0.5, v + 0.04), (0.95, v)] for v in (0.3, 0.48, 0.66)]
    elif mask.kind == "kf94":
        seams = [
            [(-0.97, 0.36), (-0.5, 0.3), (0, 0.27), (0.5, 0.3), (0.97, 0.36)],
            [(-0.9, 0.5), (-0.5, 0.63), (0, 0.68), (0.5, 0.63), (0.9, 0.5)],
        ]
    elif mask.kind == "cloth":
        seams = [[(0, -0.05), (0.02, 0.4), (0, 0.98)]]
    else:
        seams = [[(-0.7, 0.2), (-0.35, 0.5), (-0.25, 0.95)], [(0.7, 0.2), (0.35, 0.5), (0.25, 0.95)]]
    for seam in seams:
        shading.line(place(seam), 0.28, 3.5)
    shading.apply(image, outline)


def take_photograph(image: Image, random: np.random.Generator) -> Image:
    """Light from one side, its warmth and strength, the lens and the sensor's noise."""
    rows, columns = np.linspace(-1, 1, 16)[:, None], np.linspace(-1, 1, 12)[None, :]
    angle = random.uniform(0, 2 * np.pi)
    light = 1 + random.uniform(0, 0.3) * (np.cos(angle) * columns + np.sin(angle) * rows)
    light -= random.uniform(0, 0.15) * (rows**2 + columns**2)
    warmth = random.normal(0, 0.05)
    tint = np.array([1 + warmth, 1 + random.normal(0, 0.015), 1 - warmth]) * random.uniform(0.78, 1.2)
    field = cv2.resize((light[..., None] * tint).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    lit = cv2.multiply(image, field, dtype=cv2.CV_8U)
    if random.random() < 0.7:
        lit = cv2.GaussianBlur(lit, (0, 0), random.uniform(0.5, 1.2))
    x, y = random.integers(1024 - WIDTH), random.integers(1024 - HEIGHT)
    noise = grain()[y : y + HEIGHT, x : x + WIDTH]
    return np.asarray(cv2.addWeighted(lit, 1, noise, random.uniform(0.01, 0.07), 0, dtype=cv2.CV_8U))

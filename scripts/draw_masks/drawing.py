"""Draws a mask on a photograph: cloth laid over a head, lit as the face is lit."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scripts.demo_data.people import Colour, any_colour
from scripts.demo_data.scenes import PATTERNS, PLAIN_COLOURS, Mask, cloth_tile
from scripts.demo_data.shapes import clouds
from scripts.draw_masks.head import DEPTH, Head, face_depth, half_width

KINDS = ("surgical", "kf94", "cup", "cloth", "sponge")
WRONG_WAYS = ("below_nose", "on_chin")


@dataclass(frozen=True)
class Cut:
    """The outline of a kind of mask, as it is worn, in face units, from the middle (0) to its side (1).

    top, bottom: heights of the edges at 0, 1/4, 1/2, 3/4 and 1
    width: half of it, in shares of the face's
    dome: how far its middle stands out
    """

    top: tuple[float, float, float, float, float]
    bottom: tuple[float, float, float, float, float]
    width: float
    dome: float


CUTS = {
    "surgical": Cut((0.13, 0.165, 0.215, 0.25, 0.27), (1.07, 1.04, 0.95, 0.84, 0.74), 0.93, 0.02),
    "kf94": Cut((0.08, 0.16, 0.25, 0.34, 0.40), (1.07, 1.02, 0.90, 0.76, 0.60), 0.96, 0.09),
    "cup": Cut((0.11, 0.15, 0.23, 0.33, 0.50), (1.06, 1.04, 0.97, 0.84, 0.62), 0.84, 0.11),
    "cloth": Cut((0.11, 0.155, 0.22, 0.28, 0.32), (1.07, 1.03, 0.93, 0.80, 0.66), 0.94, 0.04),
    "sponge": Cut((0.10, 0.16, 0.22, 0.25, 0.22), (1.06, 1.03, 0.93, 0.72, 0.40), 1.0, 0.03),
}


def draw_mask(image: np.ndarray, head: Head, kind: str, way: str | None, random: np.random.Generator) -> np.ndarray:
    """The picture (H, W, 3) uint8, RGB, with a mask on the head.

    kind: one of KINDS
    way: None, or one of WRONG_WAYS that it is worn in
    random: decides colours, pattern, fit and folds
    """
    cut, mask = CUTS[kind], choose_mask(kind, random)
    scene = _Scene(image, head)
    sheet = _lay(cut, mask, way, head, scene, random)
    light = _Light(image, scene)
    _draw_loops(scene, mask, sheet, light, random)
    colours = light.colours_of(sheet.colours) * light.on(sheet.normals) * sheet.occlusion[..., None]
    scene.splat(sheet.placed, sheet.normals[..., 2] > 0.03, colours)
    return scene.composed(image, light, random)


def choose_mask(kind: str, random: np.random.Generator) -> Mask:
    """A mask of a kind, of a colour and pattern that this kind is sold in."""
    white, black, blue, pink = (243.0, 244.0, 246.0), (34.0, 34.0, 38.0), (158.0, 200.0, 226.0), (232.0, 186.0, 196.0)
    colours: list[Colour] = {
        "surgical": [blue, blue, (176.0, 214.0, 208.0), white, black, pink],
        "kf94": [white, white, white, black, (214.0, 202.0, 178.0), (128.0, 132.0, 140.0)],
        "cup": [white, white, (224.0, 222.0, 214.0), (196.0, 208.0, 218.0), black],
        "cloth": [*PLAIN_COLOURS],
        "sponge": [black, black, (92.0, 94.0, 100.0), (206.0, 178.0, 160.0), pink, (52.0, 66.0, 100.0)],
    }[kind]  # fmt: skip
    colour = colours[random.integers(len(colours))]
    printed = random.random() < {"cloth": 0.65, "surgical": 0.06}.get(kind, 0.0)
    if kind == "cloth" and random.random() < 0.5:
        colour = any_colour(random, 0.6)
    pattern = PATTERNS[1 + random.integers(len(PATTERNS) - 1)] if printed else "plain"
    return Mask(kind, pattern, colour, any_colour(random, 0.9), float(random.uniform(0.97, 1.03)))


@dataclass
class _Sheet:
    """The cloth as a grid of points, (rows, columns, ...): from its upper edge down, from the left to the right."""

    points: np.ndarray
    placed: np.ndarray
    normals: np.ndarray
    colours: np.ndarray
    occlusion: np.ndarray


def _lay(cut: Cut, mask: Mask, way: str | None, head: Head, scene: _Scene, random: np.random.Generator) -> _Sheet:
    unit = float(head.scale.max()) * scene.zoom
    rows, columns = (int(np.clip(unit * size * 1.3, 60, 1400)) for size in (1.1, 1.5))
    u = np.linspace(-1, 1, columns, dtype=np.float32)[None, :]
    v = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    across = np.abs(u)
    top, bottom = (_curve(edge, across) for edge in (cut.top, cut.bottom))
    top, bottom = top + random.normal(0, 0.012), bottom + random.normal(0, 0.02)
    lean = random.normal(0, 0.012) * u
    if way == "below_nose":
        top = random.uniform(0.46, 0.54) + 0.45 * (top - cut.top[0])
        bottom = bottom + random.uniform(0.04, 0.1)
    elif way == "on_chin":
        top = random.uniform(0.78, 0.85) - 0.12 * (top - cut.top[0])
        bottom = np.maximum(bottom + random.uniform(0.16, 0.24), top + 0.14)
    y = top + (bottom - top) * v + lean
    side_at = np.interp(np.minimum(y, 0.72 if way is None else 0.8), [0, 2], [0, 2])
    x = u * half_width(side_at) * cut.width * mask.fit
    z = _stretched(face_depth(x, y), rows, columns)
    low = np.clip((y - 0.98) / 0.15, 0, 1)  # below the chin the cloth hangs, it does not follow the neck
    z = np.maximum(z, (1 - low) * -9 + low * (-0.08 - 0.75 * (1 - np.sqrt(1 - np.clip(across * 0.96, 0, 1) ** 2.2))))
    squeezed = {None: 1.0, "below_nose": 0.6, "on_chin": 0.25}[way]
    inner = np.clip(np.sin(np.pi * v), 0, 1) ** 0.8 * np.clip(1 - across**2, 0, 1) ** 0.8
    z = z + 0.015 + cut.dome * squeezed * inner
    relief, occlusion = _relief(mask, u, v, way, random)
    z = z + relief
    points = np.stack(np.broadcast_arrays(x, y, z), axis=-1)
    placed = head.place(points)
    placed = placed.astype(np.float32)
    return _Sheet(points, placed, _normals(placed), _cloth(mask, x, y, u, v, random), occlusion)


def _curve(edge: tuple[float, ...], across: np.ndarray) -> np.ndarray:
    """A smooth line through five heights, even at the middle."""
    knots = np.linspace(0, 1, 5)
    return np.polynomial.Polynomial.fit(np.r_[-knots[:0:-1], knots], np.r_[edge[:0:-1], edge], 8)(across)


def _stretched(z: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Cloth over a surface: it spans the hollows, from the tip of the nose to lips, chin and cheeks."""
    small = cv2.resize(z.astype(np.float32), (48, 36), interpolation=cv2.INTER_AREA)
    # Each point is at least as high as the line between any two others of its row or column.
    for _ in range(2):
        for axis in (0, 1):
            for reach in (1, 2, 3, 5, 8):
                ahead, behind = np.roll(small, reach, axis), np.roll(small, -reach, axis)
                middle = (ahead + behind) / 2
                index = np.arange(small.shape[axis])
                inside = (index >= reach) & (index < small.shape[axis] - reach)
                inside = inside[:, None] if axis == 0 else inside[None, :]
                small = np.where(inside, np.maximum(small, middle), small)
    small = cv2.GaussianBlur(small, (0, 0), 1.2, borderType=cv2.BORDER_REFLECT_101)
    return cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC)


def _bump(x: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * (x / width) ** 2)


def _relief(
    mask: Mask, u: np.ndarray, v: np.ndarray, way: str | None, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pleats, seams, hems and folds: height in face units, and how much light reaches the cloth beside them."""
    across = np.abs(u)
    height: np.ndarray = np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)
    light: np.ndarray = np.ones_like(height)

    def crease(distance: np.ndarray, depth: float, width: float = 0.012) -> None:
        nonlocal height, light
        height = height - depth * _bump(distance, width)
        light = light * (1 - 14 * depth * _bump(distance, width * 1.2))

    def ridge(distance: np.ndarray, high: float, width: float) -> None:
        nonlocal height
        height = height + high * _bump(distance, width)

    if mask.kind == "surgical":
        opened = 0.5 + 0.5 * (1 - across**2)
        for number, at in enumerate((0.27, 0.46, 0.64)):
            line = v - at - 0.035 * (1 - across**2) * (1 - number) + random.normal(0, 0.006)
            step = np.clip(line / 0.10, 0, 1) - np.clip(line / 0.012, 0, 1)
            height = height + 0.03 * opened * step
            light = light * (1 - 0.26 * _bump(line - 0.008, 0.011))
        crease(v - 0.075, 0.005, 0.008)
        crease(v - 0.94, 0.005, 0.008)
        crease(across - 0.93, 0.006, 0.010)
        ridge(v - 0.04, 0.006, 0.012)
    elif mask.kind == "kf94":
        upper = 0.36 - 0.10 * (1 - across**1.5) + 0.02
        lower = 0.56 + 0.16 * (1 - across**1.5)
        ridge(v - upper, 0.035, 0.05)
        ridge(v - lower, 0.028, 0.05)
        crease(v - upper - 0.012, 0.008, 0.009)
        crease(v - lower - 0.012, 0.008, 0.009)
        crease(v - 0.045, 0.004, 0.008)
        crease(across - 0.93, 0.006, 0.009)
        ridge(v - 0.02, 0.005, 0.012)
    elif mask.kind == "cup":
        rim = np.maximum(across / 0.90, np.abs(v - 0.5) / 0.45)
        crease(np.maximum(rim - 1.0, -0.2), 0.010, 0.02)
        height = height - 0.03 * np.clip((rim - 1) / 0.1, 0, 1)
        ridge(v - 0.06, 0.012, 0.02)
    elif mask.kind == "cloth":
        ridge(u, 0.030, 0.05)
        crease(u - 0.012, 0.006, 0.010)
        crease(v - 0.045, 0.004, 0.008)
        crease(v - 0.955, 0.004, 0.008)
        crease(across - 0.93, 0.006, 0.010)
    else:
        ridge(u, 0.018, 0.03)
        crease(u, 0.003, 0.008)
    soft = {"surgical": 0.010, "kf94": 0.006, "cup": 0.002, "cloth": 0.014, "sponge": 0.004}[mask.kind]
    soft *= 1.0 if way is None else 1.6
    shape = (v.shape[0], u.shape[1])
    height = height + soft * clouds(random, 9, 5, shape) + 0.5 * soft * clouds(random, 14, 14, shape)
    for _ in range(random.integers(2, 5) if mask.kind in ("surgical", "cloth", "kf94") else 0):
        # Folds that run from the loops towards the middle.
        side, start, slope = random.choice([-1.0, 1.0]), random.uniform(0.15, 0.85), random.uniform(-0.25, 0.25)
        line = v - start - slope * (1 - u * side) * np.sign(0.5 - start)
        fade = np.clip((u * side - random.uniform(0.2, 0.55)) / 0.35, 0, 1)
        height = height + 0.012 * fade * _bump(line, 0.025)
        light = light * (1 - 0.10 * fade * _bump(line - 0.03, 0.02))
    if way == "on_chin":
        for _ in range(3):
            line = v - random.uniform(0.1, 0.9) - 0.08 * u * random.normal()
            height = height + 0.010 * _bump(line, 0.05)
            light = light * (1 - 0.18 * _bump(line - 0.07, 0.04))
    rim = np.minimum(np.minimum(v, 1 - v) / 0.10, (1 - across) / 0.08)
    light = light * (0.90 + 0.10 * np.clip(rim, 0, 1))
    return height, np.clip(light, 0.35, 1)


def _cloth(
    mask: Mask, x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Colours, 0 to 1, of the cloth's points."""
    tile = cloth_tile(mask, random).astype(np.float32)
    start = random.uniform(0, 256, 2)
    zoom = random.uniform(170, 260)
    xs = ((x * zoom + start[0]) % 256).astype(np.float32)
    ys = ((y * zoom + start[1]) % 256).astype(np.float32)
    xs, ys = np.broadcast_arrays(xs, ys)
    colours = cv2.remap(
        tile, np.ascontiguousarray(xs), np.ascontiguousarray(ys), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    colours = colours.reshape(*xs.shape, 3) / 255
    grain = clouds(random, 90, 120, xs.shape) * {"cloth": 0.025, "sponge": 0.012}.get(mask.kind, 0.014)
    colours = np.clip(colours * (1 + grain[..., None]), 0, 1)
    if mask.kind == "surgical" and random.random() < 0.5:  # the hems of many are white
        hem = (np.minimum(v, 1 - v) < 0.03) | (np.abs(u) > 0.955)
        colours = np.where(hem[..., None], 0.35 * colours + 0.65 * 0.95, colours)
    if mask.kind == "cup" and random.random() < 0.35:  # a valve
        radius = np.hypot(u * 1.25, (v - 0.56)) / 0.11
        colours = np.where(
            (radius < 1)[..., None], 0.82 - 0.12 * np.clip((radius - 0.75) / 0.1, 0, 1)[..., None], colours
        )
    return colours


class _Scene:
    """A part of the picture around a head, at several times its size, on which surfaces are drawn.

    zoom: sub-pixels a pixel, each way
    """

    def __init__(self, image: np.ndarray, head: Head) -> None:
        height, width = image.shape[:2]
        corners = head.place(np.array([(x, y, z) for x in (-0.85, 0.85) for y in (-0.5, 1.5) for z in (-0.9, 0.4)]))
        low, high = corners[:, :2].min(axis=0), corners[:, :2].max(axis=0)
        self.left, self.top = (int(max(0, np.floor(value))) for value in low)
        self.right, self.bottom = (
            int(min(limit, np.ceil(value))) for value, limit in zip(high, (width, height), strict=True)
        )
        unit = float(head.scale.max())
        self.zoom = 3 if unit < 100 else 2 if unit < 300 else 1
        self.head = head
        self.shape = (max(1, self.bottom - self.top) * self.zoom, max(1, self.right - self.left) * self.zoom)
        self.colours = np.zeros((*self.shape, 3), np.float32)
        self.cover = np.zeros(self.shape, np.uint8)
        self.face_normals, self.face_cover = self._face()

    @property
    def box(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def pixels(self, placed: np.ndarray) -> np.ndarray:
        """Sub-pixels (..., 2) of placed points."""
        return (placed[..., :2] + 0.5 - (self.left, self.top)) * self.zoom

    def splat(self, placed: np.ndarray, visible: np.ndarray, colours: np.ndarray) -> None:
        """Draws a grid of points that is finer than the sub-pixels; what is nearer hides what is behind it."""
        layer, cover = _splat(self.pixels(placed), placed[..., 2], visible, colours, self.shape)
        kernel = np.ones((3, 3), np.uint8)
        closed = cv2.morphologyEx(cover, cv2.MORPH_CLOSE, kernel)
        gaps = (closed > 0) & (cover == 0)
        if gaps.any():
            weight = cv2.blur(cover.astype(np.float32), (3, 3))[..., None] + 1e-6
            layer = np.where(gaps[..., None], cv2.blur(layer, (3, 3)) / weight, layer)
        self.colours = np.where(closed[..., None] > 0, layer, self.colours)
        self.cover = np.maximum(self.cover, closed)

    def line(self, placed: np.ndarray, colour: np.ndarray, width_units: float) -> None:
        """Draws a line through placed points (N, 3)."""
        points = np.round(self.pixels(placed) * 16).astype(np.int32)
        width = max(1, round(width_units * float(self.head.scale.max()) * self.zoom))
        stroke = np.zeros(self.shape, np.uint8)
        cv2.polylines(stroke, [points], False, 1, width, cv2.LINE_8, 4)
        self.colours[stroke > 0] = colour
        self.cover = np.maximum(self.cover, stroke)

    def composed(self, image: np.ndarray, light: _Light, random: np.random.Generator) -> np.ndarray:
        """The picture with what was drawn, its shadow on the face, and the photograph's own blur and grain."""
        size = (self.right - self.left, self.bottom - self.top)
        unit = float(self.head.scale.max())
        cover = cv2.resize(self.cover.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        layer = cv2.resize(self.colours * self.cover[..., None], size, interpolation=cv2.INTER_AREA)
        sigma = light.blur
        cover, layer = cv2.GaussianBlur(cover, (0, 0), sigma), cv2.GaussianBlur(layer, (0, 0), sigma)
        face = self.face_cover.astype(np.float32)
        drop = np.array([[1, 0, 0], [0, 1, 0.02 * unit]], np.float32)
        wide = cv2.GaussianBlur(cv2.warpAffine(cover, drop, size), (0, 0), max(0.6, 0.03 * unit))
        near = cv2.GaussianBlur(cover, (0, 0), max(0.5, 0.012 * unit))
        shadow = np.clip(0.28 * wide + 0.22 * near, 0, 1) * cv2.GaussianBlur(face, (0, 0), 1.0)
        part = image[self.box].astype(np.float32) / 255
        part = part * (1 - shadow[..., None] * (1, 0.95, 0.92))
        noise = random.normal(0, light.noise, (*size[::-1], 1)).astype(np.float32)
        layer = layer + cover[..., None] * noise
        result = image.copy()
        result[self.box] = np.clip((part * (1 - cover[..., None]) + layer) * 255 + 0.5, 0, 255).astype(np.uint8)
        return result

    def _face(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the part's own pixels: the normals of the bare face (h, w, 3), and whether it is there (h, w)."""
        rows = int(np.clip(self.head.scale.max() * 1.9, 30, 900))
        y, u = np.linspace(-0.3, 1.02, rows)[:, None], np.linspace(-0.97, 0.97, rows)[None, :]
        x = u * half_width(y)
        placed = self.head.place(np.stack(np.broadcast_arrays(x, y, face_depth(x, y)), axis=-1))
        normals = _normals(placed)
        pixels = placed[..., :2] + 0.5 - (self.left, self.top)
        shape = (self.bottom - self.top, self.right - self.left)
        layer, cover = _splat(pixels, placed[..., 2], normals[..., 2] > 0, normals, shape)
        return layer, cv2.morphologyEx(cover, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))


def _normals(placed: np.ndarray) -> np.ndarray:
    """Unit normals of a grid of placed points, towards the camera where the grid's front is."""
    normals = np.cross(np.gradient(placed, axis=1), np.gradient(placed, axis=0))
    return normals / (np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9)


def _splat(
    pixels: np.ndarray, depth: np.ndarray, visible: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    column, row = (np.floor(pixels[..., n]).astype(np.int64) for n in (0, 1))
    inside = visible & (column >= 0) & (row >= 0) & (column < shape[1]) & (row < shape[0])
    index, near = (row * shape[1] + column)[inside], depth[inside]
    steps = np.round((near - near.min(initial=0)) / max(np.ptp(near) if len(near) else 1.0, 1e-6) * 60000)
    order = np.argsort(steps.astype(np.uint16), kind="stable")  # two bytes are sorted by counting, which is fast
    layer = np.zeros((shape[0] * shape[1], 3), np.float32)
    layer[index[order]] = values[inside][order]  # the last one stays: the nearest
    cover = np.zeros(shape[0] * shape[1], np.uint8)
    cover[index] = 1
    return layer.reshape(*shape, 3), cover.reshape(shape)


class _Light:
    """How the photograph is lit, as its face and its brightest places show it.

    slope: (3,) how much brighter a surface is that faces to the right, down, or the camera
    white: (3,) the colour that white cloth has
    saturation: of the cloth's colours; 0 for a photograph in black and white
    blur, noise: of the photograph: sigma in pixels, and share of full brightness
    """

    def __init__(self, image: np.ndarray, scene: _Scene) -> None:
        part = image[scene.box]
        grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        face = scene.face_cover > 0
        normals = scene.face_normals[face]
        slope = np.zeros(3)
        level = 0.6
        if face.sum() > 50:
            seen = cv2.GaussianBlur(grey, (0, 0), 2)[face]
            level = float(np.median(seen))
            usable = np.abs(seen - level) < 0.35
            design = np.c_[np.ones(usable.sum()), normals[usable][:, 0], normals[usable][:, 1]]
            solved = np.linalg.lstsq(design.T @ design + np.eye(3) * 5, design.T @ seen[usable], rcond=None)[0]
            slope[:2] = np.clip(0.8 * solved[1:] / max(level, 0.1), -0.45, 0.45)
        slope += (0.0, -0.22, 0.40)
        self.slope = slope
        bright = image.reshape(-1, 3)[:: max(1, image.shape[0] * image.shape[1] // 20000)].astype(np.float64) / 255
        luminance = bright @ (0.299, 0.587, 0.114)
        white = 0.16 + 0.55 * float(np.percentile(luminance, 95)) + 0.35 * level
        white = float(np.clip(white, 1.25 * level, 2.6 * level + 0.06).clip(0.12, 1.0))  # as far as skin is from white
        tint = bright[luminance >= np.percentile(luminance, 80)].mean(axis=0)
        tint = (tint / max(tint.mean(), 0.05)) ** 0.5
        self.white = white * tint / tint.max()
        opposed = cv2.cvtColor(part, cv2.COLOR_RGB2LAB).reshape(-1, 3)[:, 1:].astype(np.float32)
        self.saturation = float(np.clip(opposed.std(axis=0).sum() / 8 - 0.25, 0, 1))
        fine = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
        sharp = float(np.percentile(fine[face], 98)) if face.any() else 0.3
        self.blur = float(np.clip(0.14 / max(sharp, 0.02), 0.45, 1.6))
        self.noise = float(np.clip(np.median(fine) / 4, 0.002, 0.02))

    def on(self, normals: np.ndarray) -> np.ndarray:
        """(..., 3) what reaches surfaces with these normals, by channel."""
        reached = 1 + normals[..., :2] @ self.slope[:2] + self.slope[2] * (normals[..., 2] - 1)
        return np.clip(reached, 0.3, 1.2)[..., None] * self.white

    def colours_of(self, colours: np.ndarray) -> np.ndarray:
        """Colours (..., 3) as the photograph shows them."""
        grey = colours @ np.array((0.299, 0.587, 0.114))
        return grey[..., None] + self.saturation * (colours - grey[..., None])


def _draw_loops(scene: _Scene, mask: Mask, sheet: _Sheet, light: _Light, random: np.random.Generator) -> None:
    """Loops from the corners of the mask to the ears, or bands around the head."""
    rows = sheet.points.shape[0]
    white = np.array((0.93, 0.93, 0.92))
    loop = np.array((0.12, 0.12, 0.13)) if sum(mask.colour) < 200 and random.random() < 0.8 else white
    if mask.kind == "sponge":
        loop = np.array(mask.colour) / 255
    banded = mask.kind == "cup" and random.random() < 0.6
    if banded:
        loop = np.array((0.93, 0.86, 0.62)) if random.random() < 0.4 else white
    # Where they end: height, and angle around the head from the face's front; the ear is at a quarter turn.
    ends = ((-0.32, 2.5), (0.50, 2.3)) if banded else ((0.04, 1.52), (0.36, 1.50))
    along = np.linspace(0, 1, 32)
    for side, column in ((-1.0, 0), (1.0, -1)):
        for (end_y, end_angle), share in zip(ends, (0.10, 0.90), strict=True):
            x, y, z = sheet.points[int(share * (rows - 1)), column] * (side, 1, 1)
            start_angle, start_radius = (
                np.arctan2(x / 0.67, (z + DEPTH) / DEPTH),
                np.hypot(x / 0.67, (z + DEPTH) / DEPTH),
            )
            angle = start_angle + along * (end_angle - start_angle)
            radius = start_radius + (1.03 - start_radius) * np.minimum(1, along * (1.2 if banded else 1.0))
            heights = y + (end_y - y) * along
            points = np.stack(
                [side * radius * 0.67 * np.sin(angle), heights, DEPTH * (radius * np.cos(angle) - 1)], axis=1
            )
            normals = np.stack([side * np.sin(angle), 0 * angle, np.cos(angle)], axis=1) @ scene.head.rotation.T
            hidden = normals[:, 2] < -0.05
            count = int(np.argmax(hidden)) if hidden.any() else len(hidden)
            if count > 1:
                lit = light.on(normals[count // 2])
                scene.line(scene.head.place(points[:count]), light.colours_of(loop) * lit, 0.036 if banded else 0.02)

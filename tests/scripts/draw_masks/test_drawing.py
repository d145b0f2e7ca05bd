"""A mask follows the head that the landmarks show, covers what its way of being worn covers, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.draw_masks import KINDS, WRONG_WAYS, Head, draw_mask

# A frontal face by hand, in pixels of a picture of 200 x 240: eyes, nose, corners of the mouth.
EYES_NOSE_MOUTH = np.array([(82.0, 100.0), (118.0, 100.0), (100.0, 120.0), (85.0, 140.0), (115.0, 140.0)])
CHIN = (100.0, 163.0)
POSES = {"upright": (0, 0), "tilted": (25, 0), "turned": (0, 9), "tilted and turned": (-20, -9)}
"""Degrees of tilt, and by how many pixels the nose is beside the middle."""


def posed(points: np.ndarray, degrees: float) -> np.ndarray:
    """Points turned around the middle of the picture, clockwise as it is seen."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - (100, 120)) @ turn.T + (100, 120)


def landmarks_of(pose: str) -> np.ndarray:
    degrees, aside = POSES[pose]
    points = EYES_NOSE_MOUTH.copy()
    points[2, 0] += aside
    return posed(points, degrees)


def picture() -> np.ndarray:
    """An evenly lit wall of skin."""
    return np.full((240, 200, 3), (214, 170, 146), np.uint8)


@pytest.mark.parametrize("pose", POSES)
def test_a_heads_own_landmarks_give_the_head_again(pose: str) -> None:
    head = Head.from_landmarks(landmarks_of(pose))
    eye = head.place(np.array([[-0.281, 0, 0], [0.281, 0, 0], [0, 0, 0], [0, 0.635, 0]]))[:, :2]
    np.testing.assert_allclose(eye[2], landmarks_of(pose)[:2].mean(axis=0), atol=1e-9)
    assert np.abs(eye[:2] - landmarks_of(pose)[:2]).max() < 2.5
    assert np.abs(eye[3] - landmarks_of(pose)[3:].mean(axis=0)).max() < 3.5
    nose = head.place(np.array([[0, 0.32, 0.29]]))[0]
    assert np.abs(nose[:2] - landmarks_of(pose)[2]).max() < 4  # half of the nod is the face's own shape


@pytest.mark.parametrize("way", [None, *WRONG_WAYS])
@pytest.mark.parametrize("pose", POSES)
def test_what_is_covered(pose: str, way: str | None) -> None:
    """Nose, mouth and chin as the way says; the eyes and the picture's edges never. No cloth is as green as this."""
    landmarks = landmarks_of(pose)
    chin = posed(np.array([CHIN]), POSES[pose][0])[0] + (POSES[pose][1] / 2, 0)
    spots = {
        "nose": landmarks[2:3],
        "mouth": landmarks[3:].mean(axis=0)[None],
        "chin": chin[None],
        "eyes": landmarks[:2],
    }
    covered = {None: {"nose", "mouth", "chin"}, "below_nose": {"mouth", "chin"}, "on_chin": {"chin"}}[way]
    before = np.full((240, 200, 3), (40, 210, 40), np.uint8)
    before[:40] = 240  # by which the light is seen to be white
    for number, kind in enumerate(KINDS):
        after = draw_mask(before, Head.from_landmarks(landmarks), kind, way, np.random.default_rng(number))
        assert after.dtype == np.uint8
        changed = after[..., 1] < 2.5 * after[..., ::2].max(axis=2)
        for name, points in spots.items():
            is_covered = [bool(changed[round(y), round(x)]) for x, y in points]
            assert is_covered == [name in covered] * len(points), (kind, name)
        assert not changed[40:, [0, -1]].any()


def test_the_same_draws_give_the_same_picture_and_others_another() -> None:
    head, before = Head.from_landmarks(landmarks_of("turned")), picture()
    first, again, other = (draw_mask(before, head, "cloth", None, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(before, picture())


def test_kinds_and_seeds_differ_and_are_lit_as_the_face() -> None:
    """A dark photograph has dark masks; light from the right is seen on the mask too."""
    head = Head.from_landmarks(landmarks_of("upright"))
    bright, dark = picture(), picture() // 4
    side_lit = np.clip(picture() * np.linspace(0.5, 1.2, 200)[None, :, None], 0, 255).astype(np.uint8)
    for kind in KINDS:
        masks = [draw_mask(image, head, kind, None, np.random.default_rng(5)) for image in (bright, dark, side_lit)]
        middle = [mask[122:150, 75:125].astype(float) for mask in masks]
        assert middle[1].mean() < 0.75 * middle[0].mean()
        assert middle[2][:, 30:].mean() > 1.1 * middle[2][:, :20].mean()


def test_a_face_that_leaves_the_picture_is_drawn_as_far_as_it_is_seen() -> None:
    for shift in ((-90, 0), (90, 0), (0, 110), (0, -90)):
        before = picture()
        after = draw_mask(before, Head.from_landmarks(EYES_NOSE_MOUTH + shift), "kf94", None, np.random.default_rng(0))
        assert after.shape == before.shape

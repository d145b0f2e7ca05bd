"""A head in space: the shape of a face, and its pose in a photograph as five landmarks show it.

Face units: x to the right of the picture, y down, z towards the camera; the eyes are at y = 0, the chin is at y = 1.
A unit is about 11 cm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EYE_X, MOUTH_Y = 0.281, 0.635
NOSE_Y, NOSE_Z = 0.32, 0.29
"""The tip of the nose; its height is that over the plane of eyes and mouth."""

# Along the middle of the face: y, z without the nose, and what the nose adds.
MIDLINE = np.array(
    [
        (-0.40, 0.05, 0.00), (0.00, 0.05, 0.05), (0.12, 0.06, 0.09), (0.22, 0.08, 0.13), (0.32, 0.10, 0.17),
        (0.38, 0.11, 0.11), (0.43, 0.13, 0.02), (0.50, 0.14, 0.00), (0.62, 0.13, 0.00), (0.70, 0.10, 0.00),
        (0.78, 0.06, 0.00), (0.90, 0.07, 0.00), (1.00, 0.03, 0.00), (1.08, -0.08, 0.00), (1.18, -0.26, 0.00),
        (1.40, -0.45, 0.00),
    ]
)  # fmt: skip
# Half the width of the face, as it is seen from the front: y, x.
HALF_WIDTH = np.array(
    [(-0.4, 0.66), (0.0, 0.67), (0.3, 0.65), (0.5, 0.635), (0.7, 0.58), (0.85, 0.49), (0.95, 0.41), (1.05, 0.36),
     (1.4, 0.4)]
)  # fmt: skip
DEPTH = 0.75
"""From the middle of the face to its side, along z."""


def half_width(y: np.ndarray) -> np.ndarray:
    """Half the width of the face at heights `y`."""
    return np.interp(y, *HALF_WIDTH.T)


def face_depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the face's surface."""
    middle, nose = np.interp(y, MIDLINE[:, 0], MIDLINE[:, 1]), np.interp(y, MIDLINE[:, 0], MIDLINE[:, 2])
    nose_width = np.interp(y, [0.0, 0.2, 0.36], [0.05, 0.06, 0.1])
    side = np.clip(np.abs(x) / half_width(y), 0, 1)
    return middle + nose * np.exp(-0.5 * (x / nose_width) ** 2) - DEPTH * (1 - np.sqrt(1 - side**2.2))


@dataclass(frozen=True)
class Head:
    """Where a head is in a picture.

    origin: (2,) pixels, between the eyes
    scale: (3,) pixels a unit along the head's own axes, which differ as faces do
    rotation: (3, 3) from the head's axes to the picture's
    """

    origin: np.ndarray
    scale: np.ndarray
    rotation: np.ndarray

    @classmethod
    def from_landmarks(cls, landmarks: np.ndarray) -> Head:
        """The head whose landmarks (see Face) these are.

        The tilt follows from eyes and mouth, the turn from how far the nose is from the line between them, and the
        nod, which the face's own proportions hide, in half from the height of the nose."""
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        across = (landmarks[1] - landmarks[0]) + 0.5 * (landmarks[4] - landmarks[3])
        roll = float(np.arctan2(across[1], across[0]))
        upright = _turn(-roll)[:2, :2]
        points = (landmarks - eyes) @ upright.T
        eye_distance = max(float(points[1, 0] - points[0, 0]), 1e-3)
        down = upright @ (mouth - eyes)
        eye_to_mouth = max(float(down[1]), 0.4 * eye_distance)
        nose_share = float(np.clip(points[2, 1] / eye_to_mouth, 0.2, 0.85))
        off_line = float(points[2, 0] - down[0] * nose_share)
        yaw = float(np.clip(np.arctan(off_line / eye_distance * 2 * EYE_X / NOSE_Z), -1.1, 1.1))
        tangent = (nose_share - NOSE_Y / MOUTH_Y) * MOUTH_Y / NOSE_Z
        pitch = float(np.clip(0.5 * np.arctan(tangent), -0.35, 0.35))
        high = eye_to_mouth / (MOUTH_Y * np.cos(pitch))
        wide = float(np.clip(eye_distance / (2 * EYE_X * np.cos(yaw)), 0.8 * high, 1.3 * high))
        scale = np.array([wide, high, np.sqrt(wide * high)])
        rotation = _turn(roll) @ _nod(pitch) @ _look(yaw)
        return cls(eyes, scale, rotation)

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in face units -> (..., 3): pixels x, y, and the height towards the camera."""
        placed = (points * self.scale) @ self.rotation.T
        placed[..., :2] += self.origin
        return placed


def _turn(angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def _nod(angle: float) -> np.ndarray:
    """What is nearer moves down."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])


def _look(angle: float) -> np.ndarray:
    """What is nearer moves to the right."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])

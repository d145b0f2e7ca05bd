"""Masks drawn on photographs of bare faces: a head in space from five landmarks, and cloth laid over it."""

from scripts.drawn_masks.drawing import KINDS, WRONG_WAYS, draw_mask
from scripts.drawn_masks.head import Head

__all__ = ["KINDS", "WRONG_WAYS", "Head", "draw_mask"]

"""Masks drawn on photographs of bare faces: a head in space from five landmarks (head.py), cloth laid over it
(drawing.py), and from a table of faces one with all kinds of masks (table.py)."""

from scripts.draw_masks.drawing import KINDS, WRONG_WAYS, draw_mask
from scripts.draw_masks.head import Head
from scripts.draw_masks.table import draw_masks, main

__all__ = ["KINDS", "WRONG_WAYS", "Head", "draw_mask", "draw_masks", "main"]

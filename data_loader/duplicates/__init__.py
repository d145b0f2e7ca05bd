"""Duplicates: photographs that are one picture, found among tens of thousands, reported, and joined to one person.

A search goes from cheap to dear: fingerprints, which the image check keeps, give candidates (search.py); these are
aligned and compared at every place (comparison.py)."""

from data_loader.duplicates.finding import DuplicatePair, find_duplicates, groups
from data_loader.duplicates.leaks import Leak, joined_persons, leaks_of
from data_loader.duplicates.search import nearest_pairs

__all__ = ["DuplicatePair", "Leak", "find_duplicates", "groups", "joined_persons", "leaks_of", "nearest_pairs"]

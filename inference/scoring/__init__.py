"""How good answers are: counts, F1 and accuracy (evaluation.py), their intervals by persons (intervals.py), and what
test.py keeps of them in the run (scores.py)."""

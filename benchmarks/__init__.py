"""What is fast and what brings scores, beside what people do today; each file is a command, `python -m benchmarks.X`.

speed       run.py, with what it measures with in speed/; its table is README.md
accuracy    accuracy.py (recipes), real_faces.py, drawn_masks.py, effects.py, tuned_claims.py (what tuning claims comes
            true?), coverage.py (do the intervals cover the truth?), equal_numbers.py (does all that predicts agree?)

No commands, but what they share: trainings.py (recipes and seeds compared), report.py (tables and JSON), machine.py.
"""

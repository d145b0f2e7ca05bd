"""Harnesses that break runs at seeded points, and compare what comes of them with a run that nothing disturbed.

python -m tests.harness.kill --trials 200 --seed 1     # SIGKILL and SIGTERM while a run trains, saves and prepares
"""

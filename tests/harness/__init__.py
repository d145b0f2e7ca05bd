"""Harnesses that break runs at seeded points, and compare what comes of them with a run that nothing disturbed.

python -m tests.harness.kill --trials 200 --seed 1     # SIGKILL and SIGTERM while a run trains, saves and prepares
python -m tests.harness.signals --trials 30 --seed 1   # SIGTERM, SIGUSR1 and Ctrl-C in all long work
python -m tests.harness.disk_full --trials 20 --seed 1 # a disk that fills up at any write
"""

"""Search: trials of a config whose values Optuna chooses, each a run of train.py that resumes exactly after a kill.

A worker is a process that asks the study for a trial, trains it in a process of its own, reports its metric after each
epoch, and tells the study the result. Any number of workers, on any number of machines, share a study."""

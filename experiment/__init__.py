"""A run as a config describes it: what the config may say, whether it makes sense, and the objects made of it.

the config      schema.py, checks.py (what goes together), builders.py (the objects), cli.py (train.py's command line)
a run           run.py (from config to result), folds.py, resume.py, initial_weights.py, batch_size.py,
                pseudo_labels.py, duplicates.py (in the data); run_record.py is what it keeps of itself
before one      lr_range_test.py (a learning rate), probe.py (what backbones are worth)
after some      runs.py (lists them), comparison.py (which is better), soup.py (one model of several), report/
many            search/ (Optuna's trials); monitored.py: which metrics a config may monitor
"""

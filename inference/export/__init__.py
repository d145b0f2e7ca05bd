"""A trained model in a folder of its own: written and compared with its run (export.py), read and answering
(exported.py), its preparation with it (preparation.py)."""

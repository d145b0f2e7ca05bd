"""From a checkpoint to answers and their scores.

Predictor and predict (predictor.py): the probabilities of images; Ensemble (ensemble.py): several models as one;
the steps of test.py (inputs.py, run.py); what a backbone sees (embeddings.py); scoring/: how good answers are;
tuning/ and export/ of what was trained.
"""

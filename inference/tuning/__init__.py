"""What a run's out-of-fold predictions teach beyond the arg max, estimated with nested folds of persons.

calibration.py: temperatures of heads, shifts between classes; weights.py: of several runs; macro_f1_rule.py: which
class to answer; decision.py: all of it applied, as test.py --decision does; nested.py: what is worth keeping.
"""

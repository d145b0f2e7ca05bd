"""What `python -m benchmarks.run` measures with: the rows, the peers beside them, and how contenders take turns."""

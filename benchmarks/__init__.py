"""What is fast (run.py, speed/) and what brings scores (the other commands), beside what people do today."""

"""The log of a run, and the trackers that keep its numbers and pictures."""

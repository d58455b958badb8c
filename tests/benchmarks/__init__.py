"""Measured ratios: ours beside what a user would use instead, in one run. `python -m tests.benchmarks`."""

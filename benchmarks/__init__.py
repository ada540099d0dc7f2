"""What the code costs and what it is worth, measured: `python -m benchmarks` runs all that is about speed."""

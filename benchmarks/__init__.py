"""Measurements, each run by `python -m benchmarks.NAME`; docs/performance.md records the results."""

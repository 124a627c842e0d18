"""Benchmarks: ratios against a peer or a floor, both taken in the same run.

`python -m benchmarks` runs all of them; `python -m benchmarks.NAME` one.
"""

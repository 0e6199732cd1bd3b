"""Tests, and what they share: a package, so that proofs started with `python -m` use the same helpers."""

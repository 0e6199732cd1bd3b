"""Proofs that kill, cut off, exhaust and feed nonsense, and look at what is left: `make proof`."""

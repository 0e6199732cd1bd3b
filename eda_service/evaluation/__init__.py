"""Evaluation of an adaptation: acceptance (Eq. 2), wall-clock speedup, losslessness, plots."""

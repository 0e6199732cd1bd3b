"""What adaptation did: acceptance (Eq. 2), wall-clock speedup, losslessness, plots."""

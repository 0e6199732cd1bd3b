"""Training of the draft's trained part: loss (Eqs. 1, 10), unrolled chains, batches, simulated acceptance."""

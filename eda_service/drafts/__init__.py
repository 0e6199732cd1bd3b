"""The draft: experts (Eq. 6), gate (Eq. 4), shared-private FFN (Eqs. 3, 5), draft (Eq. 7), freezing, checkpoints."""

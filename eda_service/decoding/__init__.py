"""Lossless decoding: proposal, verification and the round loop over all live requests."""

"""Fused drafts: the form of drafts for decoding, with few matrix products per step and a draft per row of the batch."""

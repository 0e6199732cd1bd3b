"""Checks of a target without its weights: config, tensors by name, text, a trial run on the meta device."""

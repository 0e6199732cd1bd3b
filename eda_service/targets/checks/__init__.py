"""What can be known of a target without its weights: config, tensors by name, text, a try on the meta device."""

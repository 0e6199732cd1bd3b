"""Self-generation: the target writes the training data (Eqs. 8-9), and the prompts if none are given."""

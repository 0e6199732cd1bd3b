"""Self-generation: the target writes the training data (Eqs. 8-9), and its own prompts where none are given."""

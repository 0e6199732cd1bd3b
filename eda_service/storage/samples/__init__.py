"""Self-generated samples in shards, what selection kept of them, and kept prompts."""

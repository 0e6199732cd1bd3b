"""A target's files: found, pinned, identified, and what they say of its sizes and settings."""

"""The attention of a loaded target over slots, and its layers of few operations."""

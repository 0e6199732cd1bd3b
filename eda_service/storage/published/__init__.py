"""Packs and base drafts by name and version, and which of two packs is better."""

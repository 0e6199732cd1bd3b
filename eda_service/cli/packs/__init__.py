"""Commands about packs, and their export for other engines."""

"""Published packs: versions, views of them, and their removal."""

"""Packs as repositories: on a hub or in a directory, pushed and pulled."""

"""Revisions, oldest first. They are history: a released one is never edited, and none uses the classes in `models`."""

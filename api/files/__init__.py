"""Uploaded prompt files: forms read as they arrive, uploads under way, and the files themselves."""

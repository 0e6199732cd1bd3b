"""Adapted drafts for other engines."""

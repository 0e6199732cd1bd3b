"""Drafts and packs for other engines: dense EAGLE checkpoints, and plugins that keep the gate."""

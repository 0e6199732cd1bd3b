"""Base drafts: shipped, trained here and imported."""

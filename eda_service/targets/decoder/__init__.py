"""What a loaded target decodes with: attention over slots, and layers of few operations."""

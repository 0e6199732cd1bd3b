"""LoRA adapters: read, checked, merged into their base, or stacked beside it."""

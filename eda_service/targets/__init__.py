"""The target: resolving, loading pinned safetensors (base + LoRA), chat template, and one forward over a slot cache."""

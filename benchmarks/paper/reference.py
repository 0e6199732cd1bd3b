"""The paper's published numbers (arXiv 2603.09527v1, CC BY 4.0): 7B targets, trees of 60 nodes, mean over tasks."""

from __future__ import annotations

ROWS = ("training-free", "full_ft-original", "lora-original", "eda-original", "eda-selfgen")
LENGTHS: dict[tuple[str, float], dict[str, float]] = {
    ("math", 0.0): dict(zip(ROWS, (1.19, 4.69, 4.61, 4.71, 5.19), strict=True)),
    ("math", 1.0): dict(zip(ROWS, (1.10, 2.88, 2.82, 2.88, 3.41), strict=True)),
    ("code", 0.0): dict(zip(ROWS, (1.75, 4.59, 4.50, 4.59, 5.18), strict=True)),
    ("code", 1.0): dict(zip(ROWS, (1.31, 3.86, 3.78, 3.84, 4.48), strict=True)),
    ("medical", 0.0): dict(zip(ROWS, (2.15, 3.89, 3.79, 3.87, 4.21), strict=True)),
    ("medical", 1.0): dict(zip(ROWS, (1.49, 2.52, 2.48, 2.53, 3.00), strict=True)),
}
RATIOS = {"math": 1.107, "code": 1.129, "medical": 1.082}
"""Acceptance length of EDA on self-generated data divided by that of Full-FT on original data, T=0."""
SELECTION = {"pca 50 %": 4.79, "all": 4.82, "random 75 %": 4.75, "reversed 50 %": 4.44}
"""Values of Figure 3, on GSM8K, that the text gives."""
COST = {"retrain": (462.0, 5.1, 4.22), "eda": (127.0, 2.0, 4.79)}
"""Table 4: millions of trainable parameters (the paper says MB), hours, acceptance length."""

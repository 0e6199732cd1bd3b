"""MkDocs hook: the address that a page had before it was sorted into a folder leads to where it is now."""

from __future__ import annotations

import os.path
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

MOVED = {
    "tutorial": ("quickstart",),
    "howto": ("cluster", "export", "faq", "nodes", "planning"),
    "reference": ("equations", "jobs", "metrics", "plots", "protocol", "serving", "ui"),
    "explanation": ("decoding", "security"),
}
RENAMED = {"tutorial": "tutorial/own-lora"}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>This page has moved</title>
<meta name="robots" content="noindex"><link rel="canonical" href="{target}">
<script>location.replace("{target}" + location.hash)</script>
<meta http-equiv="refresh" content="0; url={target}"></head>
<body><p>This page has moved to <a href="{target}">{target}</a>.</p></body></html>
"""


def moved_pages() -> dict[str, str]:
    """New addresses by the old ones, both without their ending."""
    return {name: f"{folder}/{name}" for folder, names in MOVED.items() for name in names} | RENAMED


def on_post_build(config: MkDocsConfig) -> None:
    """Write a page at each old address, unless a page of today has it."""
    for old, new in moved_pages().items():
        path = Path(config.site_dir, f"{old}.html")
        target = Path(config.site_dir, f"{new}.html")
        if target.is_file() and not path.exists():
            path.write_text(_PAGE.format(target=os.path.relpath(target, path.parent)), encoding="utf-8")

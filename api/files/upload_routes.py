"""Routes that take files: their bodies are streamed to disk, and may be larger and take longer than any other's."""

from __future__ import annotations

UPLOADS = frozenset({("POST", "/v1/files"), ("POST", "/ui/files"), ("POST", "/ui/new")})
"""Method and path of each."""
MAX_UPLOAD_BYTES = 2 << 30
"""The most that an operator may allow for one file; prompt files are read no further either."""
OVERHEAD_BYTES = 2 << 20
"""What a form may hold beside its file: names, boundaries, and prompts that were pasted."""


def is_upload(method: str, path: str) -> bool:
    """Whether a request is one of those."""
    return (method, path) in UPLOADS

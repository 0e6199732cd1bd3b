"""JSON from files of strangers: limited in size; a document that is nested too deeply is an ordinary error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from eda_service.regular_files import open_regular

MAX_BYTES = 16 << 20


def read_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        ValueError: The file is too large, or holds no JSON object; the message says which.
        OSError: The file cannot be read, or is not regular.
    """
    with open_regular(path) as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if size_bytes > max_bytes:
            raise ValueError(f"it has {size_bytes} bytes, the limit is {max_bytes}")
        value = parse(stream.read(max_bytes).decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def parse(text: str | bytes, *, unique_keys: bool = False) -> Any:
    """Parse the JSON value in a text.

    Args:
        text: JSON text.
        unique_keys: Whether to refuse an object that has a key twice; otherwise the last value counts.

    Raises:
        ValueError: The text is not JSON, is nested too deeply, has a key twice, or holds half of a surrogate pair,
            which is not text.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique if unique_keys else None)
        if b"\\ud" in (text if isinstance(text, bytes) else text.encode("utf-8", "replace")).lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a surrogate pair") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("it has a key twice in one object")
    return value

"""Settings of a tokenizer that name files, which the library would read from any place.

The tokenizer library passes the content of `tokenizer_config.json` and `special_tokens_map.json` to the tokenizer's
class, and some classes take a path in place of a vocabulary. A text file of the service's own, read in this way, would
become the tokens, which users of the model could see as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eda_service.errors import UnsafeCheckpointError
from eda_service.storage.inputs import bounded_json

SETTINGS, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
_LEFT_OVER = frozenset({"tokenizer_file", "special_tokens_map_file", "added_tokens_file", "chat_template_file"})
"""Settings that older versions wrote when a tokenizer was saved; the library uses the files of the
directory instead.
"""
_VOCABULARIES = frozenset({"vocab", "merges", "tokenizer_object"})
_NEVER = frozenset({"init_inputs", "gguf_file"})


def require_own_files(directory: Path, *, param: str) -> None:
    """Check that a directory's tokenizer, if it has one, consists of files of this directory only.

    Args:
        directory: Directory of a model or an adapter.
        param: Field that named it.

    Raises:
        UnsafeCheckpointError: The settings name a file, or cannot be read.
    """
    for name in (SETTINGS, SPECIAL_TOKENS):
        path = directory / name
        if not path.exists():
            continue
        try:
            settings = bounded_json.read_object(path)
        except (ValueError, OSError) as error:
            raise UnsafeCheckpointError(
                f"{path} is no JSON of a tokenizer: {error}; save it again", param=param
            ) from error
        odd = next((key for key, value in settings.items() if _names_a_file(name, key, value)), None)
        if odd is not None:
            raise UnsafeCheckpointError(
                f"{path}: {odd[:64]!r} names a file or hands over what only the tokenizer's own files may say; take it "
                "out, or save the tokenizer again with a current transformers",
                param=param,
            )


def _names_a_file(name: str, key: str, value: Any) -> bool:
    if not value or key in _LEFT_OVER:
        return False
    if name == SPECIAL_TOKENS and not key.endswith(("_token", "_tokens")):
        return True  # the library would use it after adding the directory's own files
    if key in _NEVER:
        return True
    if key in _VOCABULARIES:
        return isinstance(value, str)
    named = value if isinstance(value, list) else [value]
    return key.endswith(("_file", "_files")) and any(isinstance(each, str) and "/" in each for each in named)

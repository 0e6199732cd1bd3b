"""Parameters that clients send and this endpoint does not use: accepted where they change nothing, else refused.

Sources: OpenAI's API reference and vLLM's extra parameters. A parameter in no list is refused too, never ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from api.errors import field_name
from eda_service.errors import UnsupportedParameterError

_ANYTHING: Final = object()
_WORD = re.compile(r"[a-z0-9_]{0,32}")
_KINDS = {list: "a list", dict: "an object"}
_MAX_SHOWN = 32
_TEMPLATE = "chat_template_kwargs"

# Name to the values that change nothing; None never does.
_SHARED: Mapping[str, Any] = {
    "user": _ANYTHING,
    "metadata": _ANYTHING,
    "safety_identifier": _ANYTHING,
    "prompt_cache_key": _ANYTHING,
    "prompt_cache_retention": _ANYTHING,
    "prompt_cache_options": _ANYTHING,
    "request_id": _ANYTHING,
    "session_id": _ANYTHING,
    "chat_id": _ANYTHING,
    "cache_salt": _ANYTHING,
    "cache_control": _ANYTHING,
    "name": _ANYTHING,
    "store": _ANYTHING,
    "service_tier": _ANYTHING,
    "prediction": _ANYTHING,
    "stream_interval": _ANYTHING,
    "best_of": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "spaces_between_special_tokens": (True,),
    "early_stopping": (False,),
    "watermarking": (False,),
    "bad_words": ([],),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_prompt_text": (False,),
    "return_token_offsets": (False,),
    "extra_body": ({},),
    "vllm_xargs": ({},),
    "kv_transfer_params": ({},),
    "priority": (0,),
    "response_format": ({"type": "text"},),
}
CHAT: Mapping[str, Any] = {
    **_SHARED,
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "include_reasoning": (True,),
    "echo": (False,),
    "suffix": ("",),
    "add_special_tokens": (False,),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
}
TEXT: Mapping[str, Any] = {**_SHARED, "suffix": ("",), "add_special_tokens": (True,)}
MESSAGE: Mapping[str, Any] = {
    "id": _ANYTHING,
    "object": _ANYTHING,
    "type": ("text", "message"),
    "index": _ANYTHING,
    "status": _ANYTHING,
    "created": _ANYTHING,
    "created_at": _ANYTHING,
    "timestamp": _ANYTHING,
    "metadata": _ANYTHING,
    "cache_control": _ANYTHING,
    "provider_specific_fields": _ANYTHING,
    "annotations": _ANYTHING,
    "reasoning_details": _ANYTHING,
    "thinking_blocks": _ANYTHING,
    "refusal": ("",),
    "images": ([],),
    "prefix": (False,),
    "partial": (False,),
    "audio": (),
    "function_call": (),
    "tools": ([],),
}
PART: Mapping[str, Any] = {
    "id": _ANYTHING,
    "index": _ANYTHING,
    "cache_control": _ANYTHING,
    "prompt_cache_breakpoint": _ANYTHING,
    "annotations": _ANYTHING,
    "citations": _ANYTHING,
    "logprobs": _ANYTHING,
    "signature": _ANYTHING,
    "metadata": _ANYTHING,
}


def without_unused(body: Any, known: Iterable[str], unused: Mapping[str, Any], *, at: str = "") -> Any:
    """Remove the parameters that change nothing; a null changes nothing, whatever its name.

    Args:
        body: Body as received; a value that is not an object is left for the model to refuse.
        known: Names of the model's fields.
        unused: One of this module's tables.
        at: Path of the body in the request, for errors; empty if the body is the request itself.

    Raises:
        UnsupportedParameterError: A parameter would change the answer and is not supported, or is unknown.
    """
    if not isinstance(body, dict):
        return body
    fields = set(known)
    for name, value in body.items():
        if name in fields or value is None:
            continue
        if name not in unused:
            word = field_name([name])
            elsewhere = ", or give it in chat_template_kwargs if the template reads it" if _TEMPLATE in fields else ""
            raise UnsupportedParameterError(
                f"there is no parameter {word}; leave it out{elsewhere}", param=_joined(at, word)
            )
        if unused[name] is not _ANYTHING and not _is_one_of(value, unused[name]):
            taken = " or ".join(["null", *map(shown, unused[name])])
            raise UnsupportedParameterError(
                f"{name} is {shown(value)}, which is not supported here; leave it out or set it to {taken}",
                param=_joined(at, name),
            )
    return {name: value for name, value in body.items() if name in fields}


def shown(value: Any) -> str:
    """Show a value in a message: a number or a plain word as it is, any other value by its type."""
    if isinstance(value, str):
        return repr(value) if _WORD.fullmatch(value) else "a text"
    if isinstance(value, list | dict):
        return json.dumps(value) if value in ([], {}, ["text"], {"type": "text"}) else _KINDS[type(value)]
    written = json.dumps(value)
    return written if len(written) <= _MAX_SHOWN else "a number"


def _joined(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether a value equals one of those allowed; a boolean never equals a number."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed)

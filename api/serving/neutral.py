"""Parameters that clients send and this endpoint does not use: taken where they change nothing, refused by name where
they would.

Sources: OpenAI's API reference and vLLM's extra parameters. What is in no list is refused too, never ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from api.errors import field_name
from eda_service.errors import UnsupportedParameterError

_ANYTHING: Final = object()

# Name to the values that change nothing; None never does.
_SHARED: Mapping[str, Any] = {
    "user": _ANYTHING,
    "metadata": _ANYTHING,
    "safety_identifier": _ANYTHING,
    "prompt_cache_key": _ANYTHING,
    "prompt_cache_retention": _ANYTHING,
    "request_id": _ANYTHING,
    "store": (False,),
    "service_tier": ("auto", "default"),
    "best_of": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "add_special_tokens": (True,),
    "priority": (0,),
    "response_format": ({"type": "text"},),
}
CHAT: Mapping[str, Any] = {
    **_SHARED,
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}
TEXT: Mapping[str, Any] = {**_SHARED, "suffix": ("",)}
MESSAGE: Mapping[str, Any] = {
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "tool_calls": ([],),
}


def without_neutral(body: Any, known: Iterable[str], neutral: Mapping[str, Any]) -> Any:
    """A body without the parameters that change nothing.

    Args:
        body: As it came; what is not an object is left to the model.
        known: Names the model has.
        neutral: One of this module's tables.

    Raises:
        UnsupportedParameterError: A parameter would change the answer and is not supported, or is unknown.
    """
    if not isinstance(body, dict):
        return body
    fields = set(known)
    for name, value in body.items():
        if name in fields:
            continue
        if name not in neutral:
            shown = field_name([name])
            raise UnsupportedParameterError(f"there is no parameter {shown}; leave it out", param=shown)
        if value is not None and neutral[name] is not _ANYTHING and not _is_one_of(value, neutral[name]):
            raise UnsupportedParameterError(f"this value of {name} is not supported here; leave it out", param=name)
    return {name: value for name, value in body.items() if name in fields}


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Equal, and no truth value taken for a number."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed)

"""What the endpoint streams for an answer, as a script of a test."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from scripted_service import Answer

PATH = "/v1/chat/completions"


def chunk(*spans: tuple[str, bool], **more: Any) -> bytes:
    """One chunk of an answer: its text, and which of it the draft proposed."""
    said = [{"text": text, "accepted": accepted} for text, accepted in spans]
    choice = {
        "index": 0,
        "delta": {"content": "".join(text for text, _ in spans)},
        "spans": said,
        "finish_reason": None,
    }
    body = {"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more}
    return f"data: {json.dumps(body)}\n\n".encode()


def streamed(*chunks: bytes | float, tokens: int | None = 6, length: float = 2.0, done: bool = True) -> Answer:
    """An answer with its end."""
    speculation = {"mean_acceptance_length": length, "num_accepted_draft_tokens": 3, "num_draft_tokens": 9}
    usage = {"prompt_tokens": 4, "completion_tokens": tokens}
    ending = {"choices": [], "usage": usage, "metrics": {"speculative_decoding": speculation}}
    last: Iterable[bytes] = [f"data: {json.dumps(ending)}\n\n".encode()] if tokens is not None else []
    parts = (*chunks, *last, *([b"data: [DONE]\n\n"] if done else []))
    return Answer(headers={"content-type": "text/event-stream; charset=utf-8"}, chunks=parts)

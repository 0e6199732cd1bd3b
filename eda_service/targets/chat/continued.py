"""A conversation whose last message is continued: its rendered text is cut at the end of that message's text.

As in transformers (`chat_template_utils.render_jinja_template`), a mark after the message's text shows where the
template places its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eda_service.errors import DatasetInvalidError

_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
_FIELD = "content"


def continued(
    template: str, messages: Sequence[Mapping[str, Any]], render: Callable[[Sequence[Mapping[str, Any]]], str]
) -> str:
    """Render a conversation up to the end of its last message's text.

    Args:
        template: Text of the chat template.
        messages: The conversation; the last one's content is a text or parts of which one is.
        render: Function that renders the text of a conversation.

    Raises:
        DatasetInvalidError: The last message has no text, or the template does not show it.
    """
    text, marked = _with_mark(messages[-1][_FIELD])
    if marked is None:
        raise _refusal("the last message has no text")
    if _FIELD not in template:
        raise _refusal("the target's chat template does not show the last message")
    rendered = render([*messages[:-1], {**messages[-1], _FIELD: marked}])
    if text.strip() not in rendered or _MARK.strip() not in rendered:
        raise _refusal("the target's chat template does not show the last message as it is")
    place = rendered.rindex(_MARK.strip())
    keeps_spaces = rendered[place : place + len(_MARK)] == _MARK
    return rendered[:place] if keeps_spaces else rendered[:place].rstrip()


def _with_mark(content: Any) -> tuple[str, Any]:
    """Return the text to continue, and the content with the mark after it; None if there is no text."""
    if isinstance(content, str):
        return content, content + _MARK
    for place in range(len(content) - 1, -1, -1):
        if "text" in content[place]:
            text = content[place]["text"]
            return text, [*content[:place], {**content[place], "text": text + _MARK}, *content[place + 1 :]]
    return "", None


def _refusal(problem: str) -> DatasetInvalidError:
    return DatasetInvalidError(
        f"continue_final_message is set and {problem}; leave it out", param="continue_final_message"
    )

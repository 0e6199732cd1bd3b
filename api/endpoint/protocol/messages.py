"""Messages of a chat request: OpenAI's fields and vLLM's; each error names the message and part that it is about.

The content of a message is a text, or a list of parts that are texts; parts are not joined here, because chat templates
differ in how they join them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from api.endpoint.protocol import unused_parameters
from api.endpoint.protocol.json_values import JsonObject
from eda_service.config.base import Config
from eda_service.errors import RequestError, UnsupportedParameterError
from eda_service.targets.chat.conversation import ToolCall, Turn

MAX_MESSAGES = 1024
MAX_PARTS = 1024
MAX_CALLS = 128

Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# Kinds of parts that are text, and the field that has it; vLLM's list.
_TEXT_OF = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
_MAY_BE_EMPTY = frozenset({"assistant", "tool"})
_TEXT_SCHEMA = {"type": "string", "maxLength": 1_000_000}
_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"enum": list(_TEXT_OF)}, **dict.fromkeys(sorted(set(_TEXT_OF.values())), _TEXT_SCHEMA)},
    "required": ["type"],
}
_PARTS_SCHEMA = {"type": "array", "items": {"anyOf": [_TEXT_SCHEMA, _PART_SCHEMA]}, "maxItems": MAX_PARTS}
Content = Annotated[
    list[Text],
    Field(max_length=MAX_PARTS),
    WithJsonSchema({"anyOf": [_TEXT_SCHEMA, _PARTS_SCHEMA, {"type": "null"}]}),
]


class CalledFunction(Config):
    """The function that a call names."""

    model_config = ConfigDict(extra="ignore")

    name: Name
    arguments: Text | JsonObject | None = None


class MessageToolCall(Config):
    """A tool call in an earlier answer; fields that templates do not use (`index`, for example) are not read."""

    model_config = ConfigDict(extra="ignore")

    id: Annotated[str, StringConstraints(max_length=256)] | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def call(self) -> ToolCall:
        """The call in the chat template's form."""
        return ToolCall(name=self.function.name, arguments=self.function.arguments, id=self.id)


class Message(Config):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = Field(default_factory=list, description="null in messages of assistant and tool")
    name: Annotated[str, StringConstraints(max_length=64)] | None = Field(None, description="for the chat template")
    reasoning: Text | None = Field(None, description="what an earlier answer thought; also `reasoning_content`")
    tool_calls: Annotated[list[MessageToolCall], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: Annotated[str, StringConstraints(max_length=256)] | None = None

    @property
    def has_tools(self) -> bool:
        """Whether the message is a tool call or the result of one."""
        return self.role == "tool" or bool(self.tool_calls)

    def turn(self) -> Turn:
        """Return the message in the chat template's form."""
        return Turn(
            role=self.role,
            texts=tuple(self.content),
            name=self.name,
            reasoning=self.reasoning if self.role == "assistant" else None,
            tool_calls=tuple(each.call() for each in self.tool_calls or ()),
            tool_call_id=self.tool_call_id if self.role == "tool" else None,
        )

    def kept(self) -> dict[str, str]:
        """Return role, text and name, the fields of prompt files."""
        role = "system" if self.role == "developer" else self.role
        found = {"role": role, "content": "\n".join(self.content)}
        return found if self.name is None else {**found, "name": self.name}


def _read_all(value: Any) -> Any:
    """Reduce each message to the fields of `Message`; pydantic refuses a value that is no list."""
    if not isinstance(value, list):
        return value
    return [_read(each, f"messages.{place}") if isinstance(each, dict) else each for place, each in enumerate(value)]


def _read(message: Mapping[str, Any], at: str) -> dict[str, Any]:
    kept = dict(
        unused_parameters.without_unused(
            message, [*Message.model_fields, "reasoning_content"], unused_parameters.MESSAGE, at=at
        )
    )
    kept = {name: value for name, value in kept.items() if value is not None or name == "role"}
    thought = kept.pop("reasoning_content", None)
    if thought is not None:
        kept.setdefault("reasoning", thought)
    role = kept.get("role")
    if kept.get("tool_calls") and role != "assistant":
        raise UnsupportedParameterError(
            "only a message of role assistant has tool_calls; leave it out", param=f"{at}.tool_calls"
        )
    if "content" in kept:
        kept["content"] = _texts(kept["content"], f"{at}.content")
    elif not isinstance(role, str) or role not in _MAY_BE_EMPTY:
        raise RequestError(
            f"the message of {at} has no content; give a string or a list of text parts", param=f"{at}.content"
        )
    return kept


def _texts(content: Any, at: str) -> list[Any]:
    """Return the texts of a content; parts whose text is null are left out, as in vLLM."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise RequestError("the content is neither a string nor a list of text parts; give either", param=at)
    texts = [_text(part, f"{at}.{place}") for place, part in enumerate(content[: MAX_PARTS + 1])]
    return [text for text in texts if text is not None]


def _text(part: Any, at: str) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RequestError('the part is no object; give {"type": "text", "text": "..."}', param=at)
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _TEXT_OF:
        shown = unused_parameters.shown(kind)
        raise UnsupportedParameterError(
            f"parts of type {shown} are not supported, the target reads text only; give parts of type text", param=at
        )
    unused_parameters.without_unused(part, ["type", _TEXT_OF[kind]], unused_parameters.PART, at=at)
    text = part.get(_TEXT_OF[kind])
    if text is not None and not isinstance(text, str):
        raise RequestError(f"the part's {_TEXT_OF[kind]} is no string; give one", param=at)
    return text


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES), BeforeValidator(_read_all)]

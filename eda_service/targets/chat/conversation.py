"""A conversation of a client's request, in the form in which vLLM passes it to a chat template.

A request gives the same prompt with either engine: contents are one text, joined with line ends, or a list of parts if
the template loops over parts; `developer` becomes `system` if the template does not name it; arguments of tool calls
are objects (vLLM's `renderers/chat_utils.py` and `renderers/hf.py`). Content that vLLM would drop silently is refused:
tools, documents, calls and results that the template does not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eda_service.errors import DatasetInvalidError, RequestError, UnsupportedParameterError
from eda_service.targets.chat.chat import Rendering, prompt_ids, template_of
from eda_service.targets.chat.templates import RENDERER, TemplateRefusedError, TemplateTraits

_UNSET = (None, "auto")  # values of template variables that vLLM treats as absent


@dataclass(frozen=True)
class ToolCall:
    """A function call that an earlier answer asked for.

    Attributes:
        arguments: JSON text or object; None is an empty object.
    """

    name: str
    arguments: str | Mapping[str, Any] | None
    id: str | None = None

    def as_object(self) -> dict[str, Any]:
        """Return the call as templates take it; arguments that are no JSON object become an empty one, as in vLLM."""
        arguments = self.arguments
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                arguments = {}
        kept = dict(arguments) if isinstance(arguments, Mapping) else {}
        function = {"arguments": kept, "name": self.name}
        return {**({} if self.id is None else {"id": self.id}), "function": function, "type": "function"}


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        texts: Parts of the content; empty if it has none.
        reasoning: Reasoning of an earlier answer, if the client sends it back.
        tool_call_id: Id of the call that a tool's result belongs to.
    """

    role: str
    texts: tuple[str, ...]
    name: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def as_object(self, *, in_parts: bool) -> dict[str, Any]:
        """Return the message as templates take it."""
        turn: dict[str, Any] = {"role": self.role, "content": "\n".join(self.texts)}
        if in_parts and self.role != "tool":
            turn["content"] = [{"type": "text", "text": text} for text in self.texts]
        if self.tool_calls:
            turn["tool_calls"] = [call.as_object() for call in self.tool_calls]
        if self.reasoning is not None:
            turn |= {"reasoning": self.reasoning, "reasoning_content": self.reasoning}
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            turn["name"] = self.name
        if self.role == "developer":
            turn["tools"] = None
        return turn


@dataclass(frozen=True)
class TemplateOptions(Rendering):
    """Options of a request for the chat template; `variables` are its `chat_template_kwargs`.

    Attributes:
        reasoning_effort: How much the model should reason, if its template supports that.
    """

    reasoning_effort: str | None = None


def render_turns(tokenizer: Any, turns: Sequence[Turn], wanted: TemplateOptions) -> list[int]:
    """Render the token ids of a request's conversation.

    Raises:
        TargetIncompatibleError: The tokenizer has no chat template, or one that takes too long.
        UnsupportedParameterError: The template does not read something that the request contains.
        RequestError: The template refuses the conversation.
    """
    template = template_of(tokenizer, with_tools=wanted.tools is not None)
    try:
        traits = RENDERER.traits(template)
    except TemplateRefusedError as error:
        raise RequestError(f"the target's chat template is broken: {error}; mend it", param="messages") from error
    _check(template, traits, turns, wanted)
    messages = _as_template_takes(template, turns, in_parts=traits.takes_parts)
    try:
        return prompt_ids(tokenizer, messages, replace(wanted, variables=_variables(wanted)))
    except DatasetInvalidError as error:
        raise RequestError(error.message, param=error.param) from error


def _check(template: str, traits: TemplateTraits, turns: Sequence[Turn], wanted: TemplateOptions) -> None:
    """Refuse content that the template would leave out of the prompt."""
    reads = traits.variables
    if wanted.tools is not None and "tools" not in reads:
        raise _unread("tools", "takes no tools", "leave them out, or describe them in a message")
    if wanted.documents and "documents" not in reads:
        raise _unread("documents", "takes no documents", "put them into a message")
    if wanted.reasoning_effort is not None and not reads & {"reasoning_effort", "enable_thinking"}:
        raise _unread("reasoning_effort", "knows no reasoning effort", "leave it out")
    for place, turn in enumerate(turns):
        if turn.tool_calls and "tool_calls" not in template:
            raise _unread(f"messages.{place}.tool_calls", "takes no tool calls", "say in the content what was called")
        if turn.role == "tool" and not _names(template, "tool"):
            raise _unread(f"messages.{place}.role", "has no role tool", "give the result in a user's message")


def _unread(param: str, problem: str, remedy: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(f"the target's chat template {problem}; {remedy}", param=param)


def _names(template: str, role: str) -> bool:
    """Whether a template names a role, by vLLM's test."""
    return f"'{role}'" in template or f'"{role}"' in template


def _variables(wanted: TemplateOptions) -> dict[str, Any]:
    """Return the request's own variables, with those that `reasoning_effort` stands for in templates that switch
    reasoning on.
    """
    variables = {name: value for name, value in wanted.variables.items() if value not in _UNSET}
    if wanted.reasoning_effort is not None:
        if "enable_thinking" not in wanted.variables:
            variables["enable_thinking"] = wanted.reasoning_effort != "none"
        variables["reasoning_effort"] = wanted.reasoning_effort
    return variables


def _as_template_takes(template: str, turns: Sequence[Turn], *, in_parts: bool) -> list[dict[str, Any]]:
    """Return messages as objects. If the template knows no developer role, developer messages become system messages,
    all in one at the start.
    """
    messages = [turn.as_object(in_parts=in_parts) for turn in turns]
    if _names(template, "developer") or not any(turn.role == "developer" for turn in turns):
        return messages
    for message in messages:
        if message["role"] == "developer":
            message["role"] = "system"
            message.pop("tools")
    places = [place for place, message in enumerate(messages) if message["role"] == "system"]
    if places == [0]:
        return messages
    texts = ["\n".join(turns[place].texts) for place in places]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(message for message in messages if message["role"] != "system")]

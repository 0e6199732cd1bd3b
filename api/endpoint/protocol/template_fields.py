"""Fields of a chat request that are passed to the chat template; names and defaults are vLLM's, `tools` OpenAI's too.

Tool calls in answers are not parsed, as in a vLLM without a tool parser; `tools` only change the prompt.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, StringConstraints, model_validator

from api.endpoint.protocol.json_values import JsonObject
from eda_service.config.base import Config
from eda_service.errors import RequestError, UnsupportedParameterError
from eda_service.targets.chat.conversation import TemplateOptions

MAX_TOOLS = 128
MAX_DOCUMENTS = 256

# Names that are no variables of a template: what they mean to transformers is not a request's to say.
_OWN = frozenset(
    {
        *("messages", "conversation", "chat_template", "tokenize", "padding", "truncation", "max_length"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)
_BESIDE = ("tools", "documents", "add_generation_prompt", "continue_final_message")


class Function(Config):
    """A function that the model may call; other fields are left out, as in vLLM."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    description: Annotated[str, StringConstraints(max_length=1_000_000)] | None = None
    parameters: JsonObject | None = None
    strict: StrictBool | None = None


class Tool(Config):
    """One tool; other fields are left out, as in vLLM."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["function"] = "function"
    function: Function

    def as_object(self) -> dict[str, Any]:
        """Return the tool in the form that vLLM gives to templates."""
        function = self.function.model_dump()
        if function["strict"] is None:
            del function["strict"]
        return {"type": self.type, "function": function}


class TemplateFields(Config):
    """The values that the chat template gets beside the messages."""

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = Field(None, description="left out it is auto where there are tools")
    documents: Annotated[list[dict[str, str]], Field(max_length=MAX_DOCUMENTS)] | None = None
    add_generation_prompt: StrictBool | None = Field(None, description="default true, unless the last message goes on")
    continue_final_message: StrictBool | None = None
    chat_template_kwargs: JsonObject | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    @model_validator(mode="after")
    def _check_template_fields(self) -> TemplateFields:
        self._check_tools()
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError(
                "continue_final_message and add_generation_prompt are both true; leave one of them out",
                param="add_generation_prompt",
            )
        for name, value in (self.chat_template_kwargs or {}).items():
            _check_variable(name, value, self)
        return self

    def _check_tools(self) -> None:
        given = "tool_choice" in self.model_fields_set
        choice = self.tool_choice if given else "auto"
        if choice in (None, "none") or (choice == "auto" and not self.tools):
            return
        raise UnsupportedParameterError(
            "calls of tools are not parsed here, so the model cannot be left to call them; set tool_choice to none to "
            "show the tools to the model, or leave both out",
            param="tool_choice" if given else "tools",
        )

    @property
    def prompts_answer(self) -> bool:
        """Whether the prompt ends where a new answer begins."""
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt

    def template_options(self) -> TemplateOptions:
        """Return all fields in the form of template options."""
        variables = self.chat_template_kwargs or {}
        return TemplateOptions(
            tools=[tool.as_object() for tool in self.tools] if self.tools else None,
            documents=self.documents or None,
            add_generation_prompt=self.prompts_answer,
            continue_final_message=bool(self.continue_final_message),
            variables={name: value for name, value in variables.items() if name not in _BESIDE},
            reasoning_effort=self.reasoning_effort,
        )


def _check_variable(name: str, value: Any, fields: TemplateFields) -> None:
    """Refuse a template variable that has a request field of its own, or is not a valid variable."""
    param = f"chat_template_kwargs.{name}"
    if name in _OWN:
        raise UnsupportedParameterError(f"{name} is no variable of a chat template; leave it out", param=param)
    if name in _BESIDE and value is not None:
        effective = fields.prompts_answer if name == "add_generation_prompt" else getattr(fields, name) or False
        if value is not effective:
            raise RequestError(f"{name} is a field of its own; give it beside chat_template_kwargs", param=param)

"""Chat template to token ids. The place of the answer is known by construction, never by re-tokenising text.

A training row is `prompt_ids + answer_ids`; the answer mask follows from the two lengths, so a template that renders
the same text differently the second time cannot shift it. Tokenizers are read without code of their own, and templates
are rendered by `eda_service.targets.chat.templates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eda_service.errors import DatasetInvalidError, TargetIncompatibleError, TargetNotFoundError, reason_of
from eda_service.storage.inputs import bounded_json
from eda_service.targets.chat.continued import continued
from eda_service.targets.chat.templates import RENDERER, TemplateRefusedError
from eda_service.targets.chat.tool_marks import mark
from eda_service.targets.files.resolve import ResolvedTarget
from eda_service.targets.files.tokenizer_settings import require_own_files

_TOKENIZER, _TEMPLATE = "tokenizer.json", "chat_template.jinja"
_MAX_TEMPLATE_BYTES = 1 << 20
_USER_MARK = "\x00eda-user-turn\x00"


def load_tokenizer(model_dir: Path) -> Any:
    """Load the tokenizer of a directory.

    Raises:
        TargetIncompatibleError: The directory has no tokenizer that the tokenizers library reads.
        UnsafeCheckpointError: The tokenizer's settings name files.
    """
    from transformers import AutoTokenizer

    require_own_files(model_dir, param="target.model")

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
        if tokenizer.is_fast:
            tokenizer("Hello", add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # The files come from strangers, and a panic of the library's Rust half is no `Exception`.
        there = "" if (model_dir / _TOKENIZER).is_file() else f"there is no {_TOKENIZER}, and "
        raise TargetIncompatibleError(
            f"the tokenizer in {model_dir} cannot be read: {there}{reason_of(error)}; save it again with its "
            f"{_TOKENIZER} by a current transformers",
            param="target.model",
        ) from error
    if not tokenizer.is_fast:
        raise TargetIncompatibleError(
            f"{model_dir} has no tokenizer.json; save the tokenizer again with a current transformers",
            param="target.model",
        )
    return tokenizer


def target_tokenizer(resolved: ResolvedTarget) -> Any:
    """Load the tokenizer of a target: the adapter's own files are preferred, since it was trained with them.

    If the adapter has a template without a tokenizer, or the reverse, the missing part is the base's.

    Raises:
        TargetIncompatibleError: The target has no tokenizer that the tokenizers library reads.
    """
    adapter_dir = resolved.adapter_dir
    if adapter_dir is None or not (adapter_dir / _TOKENIZER).is_file():
        tokenizer = load_tokenizer(resolved.model_dir)
    else:
        tokenizer = load_tokenizer(adapter_dir)
        if not tokenizer.chat_template:
            tokenizer.chat_template = load_tokenizer(resolved.model_dir).chat_template
    if adapter_dir is not None and (adapter_dir / _TEMPLATE).is_file():
        tokenizer.chat_template = read_template(adapter_dir / _TEMPLATE)
    return tokenizer


def speaks_as_base(resolved: ResolvedTarget) -> bool:
    """Whether a target with its adapter tokenizes, and renders conversations, as its base alone does."""
    adapter_dir = resolved.adapter_dir
    if adapter_dir is None or not any((adapter_dir / name).is_file() for name in (_TOKENIZER, _TEMPLATE)):
        return True
    own, base = target_tokenizer(resolved), load_tokenizer(resolved.model_dir)
    same_text = str(own.chat_template) == str(base.chat_template)
    return same_text and own.backend_tokenizer.to_str() == base.backend_tokenizer.to_str()


def read_template(path: Path) -> str:
    """Read a chat template's text.

    Raises:
        TargetIncompatibleError: The file is no text, or is too long for a template.
    """
    try:
        if path.stat().st_size > _MAX_TEMPLATE_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes, at most {_MAX_TEMPLATE_BYTES} are read")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TargetIncompatibleError(
            f"{path} cannot be read: {error}; save it again", param="target.adapter"
        ) from error


@dataclass(frozen=True)
class Rendering:
    """Arguments of a chat template beside the messages; as transformers' `apply_chat_template` has them.

    Attributes:
        continue_final_message: Whether the prompt ends with the last message's text, and the answer continues it.
        variables: Further variables, which may replace the names of special tokens.
    """

    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, str]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)


def render_prompt(
    tokenizer: Any,
    messages: Iterable[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Render the token ids of a conversation, ending where the assistant's answer begins.

    Args:
        tokenizer: Tokenizer of the target.
        messages: Messages as transformers takes them; arguments of calls are objects.
        tools: Functions in OpenAI's form.
        template_kwargs: Additional variables of the template.

    Raises:
        TargetIncompatibleError: The tokenizer has no chat template, or one that takes too long.
        DatasetInvalidError: The template refuses the messages (for example roles out of order), or leaves out their
            tools.
    """
    turns = [dict(message) for message in messages]
    rendering = Rendering(tools=tools, variables=template_kwargs or {})
    marked = mark(turns, tools)
    if marked.marks:
        missing = marked.missing(_render(tokenizer, marked.messages, replace(rendering, tools=marked.tools)))
        if missing:
            raise DatasetInvalidError(
                f"the target's chat template leaves out {missing}, so the target would not see them; leave such rows "
                "out, or give the target a template with tools",
                param="messages",
            )
    return prompt_ids(tokenizer, turns, rendering)


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], rendering: Rendering) -> list[int]:
    """Render token ids of messages in the form that the template takes.

    Raises:
        TargetIncompatibleError: The tokenizer has no chat template, or one that takes too long.
        DatasetInvalidError: The template refuses the messages, or does not show the one to continue.
    """
    text = _render(tokenizer, messages, rendering)
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def template_of(tokenizer: Any, *, with_tools: bool = False) -> str:
    """Return the chat template; if there are several, the one for conversations with tools, or the default.

    Raises:
        TargetIncompatibleError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise TargetIncompatibleError(
            "the target's tokenizer has no chat template; add chat_template.jinja to its directory",
            param="target.model",
        )
    found = tokenizer.chat_template
    if isinstance(found, dict):
        named = found
        found = (named.get("tool_use") if with_tools else None) or named.get("default")
        if found is None:
            raise TargetIncompatibleError(
                f"the target has chat templates named {', '.join(sorted(map(str, named)))[:128]} and none named "
                "default; save the one to be used as chat_template.jinja in its directory",
                param="target.model",
            )
    if not isinstance(found, str):
        raise TargetIncompatibleError(
            f"the target's chat template is a {type(found).__name__} and no text; save it as chat_template.jinja in "
            "its directory",
            param="target.model",
        )
    return found


def user_turn_opening(tokenizer: Any) -> list[int]:
    """Render the token ids before a user's text: a target continues them to write its own prompts (Magpie).

    Raises:
        TargetIncompatibleError: The template does not place user text verbatim.
    """
    text = _render(tokenizer, [{"role": "user", "content": _USER_MARK}], Rendering(add_generation_prompt=False))
    head, mark, _ = text.partition(_USER_MARK)
    if not mark:
        raise TargetIncompatibleError(
            "the chat template does not place the user's text verbatim, so the target cannot write its own prompts; "
            "give dataset.source a prompt file",
            param="dataset.source",
        )
    return [int(token) for token in tokenizer(head, add_special_tokens=False)["input_ids"]]


def _render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], rendering: Rendering) -> str:
    template = template_of(tokenizer, with_tools=rendering.tools is not None)
    variables = {
        "tools": None if rendering.tools is None else list(rendering.tools),
        "documents": None if rendering.documents is None else list(rendering.documents),
        "add_generation_prompt": rendering.add_generation_prompt,
        **{name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)},
        **rendering.variables,
    }
    try:
        if rendering.continue_final_message:
            return continued(template, messages, lambda marked: RENDERER.render(template, marked, variables))
        return RENDERER.render(template, messages, variables)
    except TemplateRefusedError as error:
        raise DatasetInvalidError(
            f"the target's chat template refuses these messages: {error}; use roles user and assistant in turn",
            param="messages",
        ) from error


def load_stop_token_ids(model_dir: Path, tokenizer: Any) -> frozenset[int]:
    """Collect every token that ends an answer of a directory's model: those that its `generation_config.json`, its
    `config.json` and its tokenizer name as end of sequence, and no others.

    A token such as `<|end|>` ends a turn in one family and a part of the answer in another, so a name alone makes no
    stop token.

    Raises:
        TargetNotFoundError: A file is not JSON of a model.
    """
    found = _ids_in(tokenizer.eos_token_id)
    for name in ("generation_config.json", "config.json"):
        path = model_dir / name
        if path.exists():
            try:
                found |= _ids_in(bounded_json.read_object(path).get("eos_token_id"))
            except (ValueError, OSError) as error:
                raise TargetNotFoundError(
                    f"{path} is no JSON of a model: {error}; save it again", param="target.model"
                ) from error
    return frozenset(found)


def _ids_in(value: Any) -> set[int]:
    """Return the ids of a value that is one id, several, or none."""
    values = value if isinstance(value, list) else [value]
    return {each for each in values if isinstance(each, int) and not isinstance(each, bool) and each >= 0}

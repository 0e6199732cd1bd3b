"""Chat template to token ids. The answer's place is known by construction, never by re-tokenising text.

A training row is `prompt_ids + answer_ids`; the answer mask follows from the two lengths, so a template that renders
the same text differently the second time cannot shift it. Tokenizers are read without code of their own, and templates
are rendered by `eda_service.target.templates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eda_service.errors import DatasetInvalidError, TargetIncompatibleError
from eda_service.target.templates import RENDERER, TemplateRefusedError

_USER_MARK = "\x00eda-user-turn\x00"


def load_tokenizer(model_dir: Path) -> Any:
    """The tokenizer of a directory.

    Raises:
        TargetIncompatibleError: There is none that the tokenizers library reads.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # The library's Rust half raises bare exceptions, and strangers wrote the files.
        raise TargetIncompatibleError(
            f"the tokenizer in {model_dir} cannot be read: {str(error)[:200]}; save it again with its tokenizer.json",
            param="target.model",
        ) from error
    if not tokenizer.is_fast:
        raise TargetIncompatibleError(
            f"{model_dir} has no tokenizer.json; save the tokenizer again with a current transformers",
            param="target.model",
        )
    return tokenizer


def render_prompt(tokenizer: Any, messages: Iterable[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation, ending where the assistant's answer begins.

    Raises:
        TargetIncompatibleError: The tokenizer has no chat template, or one that takes too long.
        DatasetInvalidError: The template refuses the messages (roles out of order, say).
    """
    text = _render(tokenizer, [dict(message) for message in messages], add_generation_prompt=True)
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def user_turn_opening(tokenizer: Any) -> list[int]:
    """Token ids up to where a user's text would begin: what a target continues to write its own prompts (Magpie).

    Raises:
        TargetIncompatibleError: The template does not place user text verbatim.
    """
    text = _render(tokenizer, [{"role": "user", "content": _USER_MARK}], add_generation_prompt=False)
    head, mark, _ = text.partition(_USER_MARK)
    if not mark:
        raise TargetIncompatibleError(
            "the chat template does not place the user's text verbatim, so the target cannot write its own prompts; "
            "give dataset.source a prompt file",
            param="dataset.source",
        )
    return [int(token) for token in tokenizer(head, add_special_tokens=False)["input_ids"]]


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise TargetIncompatibleError(
            "the target's tokenizer has no chat template; add chat_template.jinja to its directory",
            param="target.model",
        )
    variables = {
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **{name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)},
    }
    try:
        return RENDERER.render(tokenizer.get_chat_template(), messages, variables)
    except TemplateRefusedError as error:
        raise DatasetInvalidError(
            f"the target's chat template refuses these messages: {error}; use roles user and assistant in turn",
            param="messages",
        ) from error


def load_stop_token_ids(model_dir: Path, tokenizer: Any) -> frozenset[int]:
    """`stop_token_ids` of a directory's model, with its generation config where it has one."""
    from transformers import GenerationConfig

    generation = None
    if (model_dir / "generation_config.json").exists():
        generation = GenerationConfig.from_pretrained(model_dir, local_files_only=True)
    return stop_token_ids(tokenizer, generation)


def stop_token_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's, the generation config's, and common end-of-turn tokens."""
    found: set[int] = set()
    if tokenizer.eos_token_id is not None:
        found.add(int(tokenizer.eos_token_id))
    configured = getattr(generation_config, "eos_token_id", None)
    if configured is not None:
        found.update([configured] if isinstance(configured, int) else map(int, configured))
    vocabulary = tokenizer.get_added_vocab()
    for token in ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "<|end|>"):
        if token in vocabulary:
            found.add(int(vocabulary[token]))
    return frozenset(found)

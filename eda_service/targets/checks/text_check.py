"""The check that a target can be prompted: its tokenizer, its chat template, and the tokens that end an answer."""

from __future__ import annotations

from eda_service.errors import DatasetInvalidError, TargetIncompatibleError
from eda_service.targets.chat.chat import load_stop_token_ids, render_prompt, target_tokenizer
from eda_service.targets.files.resolve import ResolvedTarget

_PARAM = "target.model"


def check_text(resolved: ResolvedTarget, num_ids: int, *, converses: bool) -> None:
    """Read the tokenizer; if the target must converse, render a conversation and look for the tokens that end an
    answer.

    Args:
        resolved: Files of the target.
        num_ids: Number of token ids that have an embedding and a logit.
        converses: Whether a chat template and an end token are needed.

    Raises:
        TargetIncompatibleError, TargetNotFoundError: A part is missing or does not work.
    """
    tokenizer = target_tokenizer(resolved)
    stops = load_stop_token_ids(resolved.model_dir, tokenizer)
    if not converses:
        return
    try:
        ids = render_prompt(tokenizer, [{"role": "user", "content": "Hello"}])
    except DatasetInvalidError as error:
        raise TargetIncompatibleError(
            f"the chat template of {resolved.model} does not render one question of a user "
            f"({error.__cause__ or error.message}); mend chat_template.jinja in its directory",
            param=_PARAM,
        ) from error
    if not ids:
        raise TargetIncompatibleError(
            f"the chat template of {resolved.model} renders nothing of a user's question; mend chat_template.jinja in "
            "its directory",
            param=_PARAM,
        )
    beyond = max(ids)
    if beyond >= num_ids:
        raise TargetIncompatibleError(
            f"the chat template of {resolved.model} writes {tokenizer.convert_ids_to_tokens(beyond)!r} (id {beyond}), "
            f"and the model has {num_ids} embeddings: the tokenizer was given tokens and the model was not resized; "
            "save it after `resize_token_embeddings`, or take the token out of the template",
            param=_PARAM,
        )
    if not any(stop < num_ids for stop in stops):
        shown = f"only {', '.join(map(str, sorted(stops)))}, beyond its {num_ids} tokens" if stops else "none"
        raise TargetIncompatibleError(
            f"{resolved.model} names no token that ends an answer ({shown}); set eos_token_id in "
            "generation_config.json",
            param=_PARAM,
        )

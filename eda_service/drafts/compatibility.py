"""Checks that a base draft can read a target's layers and can be trained as a job asks. Imports no torch."""

from __future__ import annotations

from eda_service.config.job import TrainConfig
from eda_service.drafts.draft_config import DraftConfig
from eda_service.errors import InputError, TargetIncompatibleError


def check_reads(draft: DraftConfig, num_layers: int) -> None:
    """Refuse a draft that reads layers which a target does not have.

    Raises:
        TargetIncompatibleError: The draft reads such a layer.
    """
    if draft.captures and draft.captures[-1] > num_layers:
        raise TargetIncompatibleError(
            f"the base draft reads the target's state after layer {draft.captures[-1]}, and the target has "
            f"{num_layers} layers; name a base draft of this target's family",
            param="base_draft",
        )


def check_extension(draft: DraftConfig, train: TrainConfig) -> None:
    """Refuse to add rows that a draft's head cannot take.

    Raises:
        InputError: The draft has no head of its own, its head is narrower than the target's, or it lacks fewer tokens.
    """
    count, own = train.extend_draft_vocab, draft.own_vocab_size
    if not count:
        return
    problem = ""
    if own is None:
        problem = "the base draft scores with the target's head; set train.draft_vocab_size instead"
    elif draft.hidden_size != draft.target_width:
        problem = (
            f"rows begin as the target's, of width {draft.target_width}, and the draft's have {draft.hidden_size}; set "
            "it to 0"
        )
    elif count > draft.vocab_size - own:
        problem = f"the draft lacks only {draft.vocab_size - own} of the target's {draft.vocab_size} tokens; lower it"
    if problem:
        raise InputError(f"train.extend_draft_vocab is {count}, and {problem}", param="train.extend_draft_vocab")

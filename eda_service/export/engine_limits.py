"""Settings that the engines' own classes would compute differently from the draft, or not at all: refused, with the
reason.

The limits come from the source of vLLM 0.32, whose classes run beside ours in the tests, and of SGLang, which was not
run. If an engine loaded a draft and computed something else, only a low acceptance would show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eda_service.drafts.draft_config import DraftConfig, Eagle3Config
from eda_service.errors import TargetIncompatibleError
from eda_service.export.files.eda_config import Destination, ExportForm

if TYPE_CHECKING:  # the API asks for reasons, and loads no torch
    from torch import Tensor

    from eda_service.targets.head import LmHead

_VLLM_FC = "fc has a bias, and vLLM's class has none there and fails to load it"
_SGLANG_EMBEDDING = "it has an embedding of its own, which SGLang replaces by the target's"


def require_computed(
    config: DraftConfig, vocab_W: Tensor | None, destination: Destination, form: ExportForm, lm_head: LmHead
) -> None:
    """Refuse a draft that the destination's engine would compute differently.

    Args:
        config: Config of the draft.
        vocab_W: Tokens that the draft scores; None: all.
        destination: Engine that will load it.
        form: Dense or plugin.
        lm_head: Head of the target.

    Raises:
        TargetIncompatibleError: The engine would compute something else; the message says what.
    """
    num_scored = None if vocab_W is None else len(vocab_W)
    refused = refusal(config, num_scored, destination, form, has_head_bias=lm_head.bias_V is not None)
    if refused is not None:
        raise TargetIncompatibleError(refused, param="to")


def refusal(
    config: DraftConfig, num_scored: int | None, destination: Destination, form: ExportForm, *, has_head_bias: bool
) -> str | None:
    """Return the reason why a destination's engine would not compute what the draft does; None: it would.

    Args:
        config: Config of the draft.
        num_scored: Tokens that it scores; None: all.
        destination: Engine that will load the export.
        form: Dense or plugin.
        has_head_bias: Whether the target's head has one.
    """
    if destination is Destination.HF:
        return None
    if isinstance(config, Eagle3Config):
        of_engine = _vllm_eagle3 if destination is Destination.VLLM else _sglang_eagle3
        reasons = [*of_engine(config, form), *_head(config, num_scored, has_head_bias)]
    else:
        reasons = _vllm_eagle1(config) if destination is Destination.VLLM else _sglang_eagle1(config)
    if not reasons:
        return None
    return (
        f"this draft of kind {config.kind} cannot be exported for {destination}: {'; '.join(reasons)}. Serve it "
        "with the built-in engine, or export it --to hf"
    )


def shorter_than_target(config: DraftConfig, destination: Destination, max_context: int) -> str | None:
    """Return a warning if an engine's table of a scaled rotation ends before the target's context does."""
    scaling = config.rope_scaling
    if destination is Destination.HF or scaling is None or scaling.rope_type != "yarn":
        return None
    covered = int((scaling.original_max_position_embeddings or 0) * scaling.factor)
    if covered >= max_context:
        return None
    return (
        f"the draft's YaRN rotation covers {covered} positions in {destination}, the target has {max_context}: serve "
        f"it with a context of at most {covered}"
    )


def _chosen(reasons: Sequence[tuple[bool, str]]) -> list[str]:
    return [reason for holds, reason in reasons if holds]


def _vllm_eagle1(config: DraftConfig) -> list[str]:
    return _chosen([(config.fc_bias, _VLLM_FC)])


def _sglang_eagle1(config: DraftConfig) -> list[str]:
    return _chosen(
        [
            (config.own_embedding, _SGLANG_EMBEDDING),
            (config.qkv_bias or config.o_bias, "its attention has biases, which SGLang's Llama class does not read"),
        ]
    )


def _vllm_eagle3(config: Eagle3Config, form: ExportForm) -> list[str]:
    return _chosen(
        [
            (config.fc_bias, _VLLM_FC),
            (not config.has_hidden_norm, "it has no hidden_norm, and vLLM norms the state all the same"),
            (
                config.qk_norm and config.o_bias,
                "vLLM's class with query and key norms has no bias behind its attention",
            ),
            (
                config.fc_norm == "joint" and config.norm_before_fc,
                "it norms all that fc reads twice, and vLLM has one such norm",
            ),
        ]
    )


def _sglang_eagle3(config: Eagle3Config, form: ExportForm) -> list[str]:
    return _chosen(
        [
            (form is ExportForm.PLUGIN, "there is no plugin for SGLang's EAGLE-3; export the dense form"),
            (config.norm_before_residual, "norm_before_residual is set, which SGLang ignores"),
            (config.qk_norm, "its queries and keys are normed, and SGLang's Llama class drops those norms"),
            (config.own_embedding, _SGLANG_EMBEDDING),
            (config.qkv_bias or config.o_bias, "its attention has biases, which SGLang's class does not read"),
            (not config.has_hidden_norm, "it has no hidden_norm, and SGLang norms the state all the same"),
            (config.fc_norm == "joint", "it has one norm over all that fc reads, for which SGLang has no name"),
            (config.layers[:1] == (0,), "it reads the target's embedding, which SGLang's layer ids cannot name"),
            (config.logit_scale != 1, "its logits have a scale, which SGLang ignores"),
            (
                bool(config.layers) and config.feature_width == config.hidden_size,
                "it reads states as wide as itself through fc, which SGLang then leaves out",
            ),
        ]
    )


def _head(config: Eagle3Config, num_scored: int | None, has_head_bias: bool) -> list[str]:
    takes_rows = not config.own_head and num_scored is not None
    return _chosen(
        [
            (
                takes_rows and has_head_bias,
                "it scores with rows of the target's head, which has a bias, for which the engine has no place",
            ),
            (
                num_scored == config.vocab_size,
                "its head's rows are all of the target's tokens in another order, which the engine does not read",
            ),
        ]
    )

"""Whether a loaded target is the model that was given: every tensor came from the files, and our logits are its own.

Families differ in what stands between the hidden states and the logits, and in what they tell their attention. Whatever
of that our decoder or head does not do would be served without a word, since every proof of losslessness uses the same
decoder and head. So each load runs the model's own forward once, on a few tokens, and compares.

Shapes: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eda_service.errors import TargetIncompatibleError

NUM_TOKENS = 12
PREFIX = 8
_HEAD = "lm_head.weight"
_SHOWN = 5
# Root of the mean squared difference over the spread of the logits. Families that agree come to 1e-6 in float32; in
# bfloat16, which rounds the sums of every layer, SmolLM2 comes to 0.04 and tiny models of large random weights to 0.04.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.25}


def require_whole(model: Any, info: Mapping[str, Any], where: str) -> str | None:
    """Check that the files cover the model, and tie a head that they leave out.

    Args:
        model: As transformers loaded it.
        info: What transformers says of the load (`output_loading_info`).
        where: The directory, for messages.

    Returns:
        A warning when the head was tied to the embedding, else None.

    Raises:
        TargetIncompatibleError: A tensor is missing, is of another shape, or is none of the model's.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(
        f"{name} ({_shown(found)} in the file, the config needs {_shown(needed)})"
        for name, found, needed in info["mismatched_keys"]
    )
    note = None
    if missing == [_HEAD] and _is_tieable(model):
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
        missing = []
        note = (
            f"{where} has no {_HEAD} although its config says tie_word_embeddings=false; the token embedding is used "
            "as the head, as vLLM does"
        )
    problems = [
        f"{what}: {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
        for what, names in (
            ("missing", missing),
            ("of another shape", mismatched),
            ("not of this model", unexpected),
        )
        if names
    ]
    if problems:
        raise TargetIncompatibleError(
            f"the safetensors files in {where} do not hold this model's tensors, {'; '.join(problems)}; save the "
            "checkpoint again with the model's own `save_pretrained`",
            param="target.model",
        )
    return note


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"


def _is_tieable(model: Any) -> bool:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return embedding is not None and head is not None and embedding.weight.shape == head.weight.shape


def probe_ids(vocab_size: int) -> Tensor:
    """(1, L) token ids spread over the vocabulary, the same ones each time."""
    return torch.linspace(1, vocab_size - 2, NUM_TOKENS).long().clamp(min=0)[None]


@torch.inference_mode()
def own_logits(model: Any, attention: str) -> Tensor:
    """The logits (1, L, V) of the model's own forward with its own attention, in float32.

    Args:
        model: A transformers causal LM.
        attention: The implementation that it goes back to.
    """
    ids_1L = probe_ids(model.config.vocab_size).to(model.device)
    model.set_attn_implementation("eager")
    try:
        logits_1LV: Tensor = model(input_ids=ids_1L, use_cache=False).logits.float()
    finally:
        model.set_attn_implementation(attention)
    return logits_1LV


@torch.inference_mode()
def require_equal(
    own_1LV: Tensor, forward: Callable[[Tensor, int], Tensor], *, vocab_size: int, dtype: torch.dtype, name: str
) -> float:
    """Check our logits of the same tokens: a prefill, then the rest over the cache.

    Args:
        own_1LV: From `own_logits`.
        forward: Ids (1, L) and the place of the first to logits (1, L, V), over one cache.
        vocab_size: As `own_logits` took it from the config.
        dtype: Of the weights; the tolerance goes by it.
        name: What the model is, for the message.

    Returns:
        The root of the mean squared difference over the spread (standard deviation) of the model's logits.

    Raises:
        TargetIncompatibleError: They differ, so what would be served is not the model.
    """
    if not bool(own_1LV.isfinite().all()):
        raise TargetIncompatibleError(
            f"{name} computes logits that are no numbers: its weights hold values that are not finite, or overflow in "
            f"{dtype}; save the checkpoint from before training diverged, or set dtype to float32",
            param="target.model",
        )
    ids_1L = probe_ids(vocab_size).to(own_1LV.device)
    ours_1LV = torch.cat([forward(ids_1L[:, :PREFIX], 0), forward(ids_1L[:, PREFIX:], PREFIX)], dim=1).float()
    tolerance = _TOLERANCE.get(dtype, _TOLERANCE[torch.bfloat16])
    difference = float("inf")
    if ours_1LV.shape == own_1LV.shape and bool(ours_1LV.isfinite().all()):
        spread = max(float(own_1LV.std()), 1e-6)
        difference = float((ours_1LV - own_1LV).square().mean().sqrt()) / spread
    if difference > tolerance:
        raise TargetIncompatibleError(
            f"{name} would be decoded as another model: its logits and ours differ by {difference:.3g} of their "
            f"spread, at most {tolerance:g} is rounding. This family does something that this engine does not know; "
            "serve it on vLLM (engine vllm), or name a target of a family that docs/reference/families.md lists",
            param="target.model",
        )
    return difference

"""The check that a loaded target is the given model: every tensor came from the files, and our logits equal its own.

Families differ in the computation between hidden states and logits, and in the arguments of their attention. A
difference that our decoder or head ignores would be served unnoticed, since every proof of losslessness uses the same
decoder and head. So each load runs the model's own forward on a few tokens and compares.

A few tokens at the start do not show effects of a text's length. So the same tokens are compared in two more ways: with
every window shortened to a few places, and at the last positions of the context beside a row at the first positions,
which shows a rotation that depends on the longest row of a batch. The cache also reports a wrong length, which shows a
family that takes positions from it; slots of different lengths cannot provide them.

Shapes: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eda_service.errors import TargetIncompatibleError

NUM_TOKENS = 12
PREFIX = 8
CLAIMED_TOKENS = 1 << 20
"""Length that the cache reports while logits are compared."""
_SHORT_WINDOW = 4
_WINDOWS = ("sliding_window", "attention_chunk_size", "window")
_HEAD = "lm_head.weight"
_SHOWN = 5
# Root of the mean squared difference divided by the standard deviation of the logits. Families that agree have 1e-6 in
# float32; in bfloat16, which rounds the sums of every layer, SmolLM2 and tiny models of large random weights have 0.04.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.25}


def require_whole(model: Any, info: Mapping[str, Any], where: str) -> str | None:
    """Check that the files cover the model, and tie a head that is not in the files.

    Args:
        model: Model as transformers loaded it.
        info: Report of transformers about the load (`output_loading_info`).
        where: Directory, for messages.

    Returns:
        A warning if the head was tied to the embedding, else None.

    Raises:
        TargetIncompatibleError: A tensor is missing, has another shape, or is unknown to the model.
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
    """Return token ids (1, L) spread over the vocabulary, the same ones each time."""
    return torch.linspace(1, vocab_size - 2, NUM_TOKENS).long().clamp(min=0)[None]


@dataclass(frozen=True)
class Logits:
    """Logits of the same tokens in each of the compared ways, in float32.

    Attributes:
        near_1LV: Logits at the first positions.
        far_1LV: Logits at the last positions of the context.
        narrow_1LV: Logits at the first positions, with short windows.
    """

    near_1LV: Tensor
    far_1LV: Tensor
    narrow_1LV: Tensor


def far_positions(max_context: int) -> Tensor:
    """Return the last positions of a context (1, L)."""
    return max(0, max_context - NUM_TOKENS) + torch.arange(NUM_TOKENS)[None]


@contextmanager
def short_windows(parts: Iterable[Any], max_context: int) -> Iterator[None]:
    """Shorten, inside the block, every window that is smaller than the context to a few places.

    Args:
        parts: Objects with a window: modules, configs, layers.
        max_context: Number of positions of the context.
    """
    changed: list[tuple[Any, str, int]] = []
    try:
        for part in parts:
            for name in _WINDOWS:
                value = getattr(part, name, None)
                if type(value) is int and _SHORT_WINDOW < value < max_context:
                    setattr(part, name, _SHORT_WINDOW)
                    changed.append((part, name, value))
        yield
    finally:
        for part, name, value in changed:
            setattr(part, name, value)


def parts_with_windows(model: Any) -> list[Any]:
    """List the modules of a transformers model and the configs that they read."""
    configs = {id(each): each for module in model.modules() if (each := getattr(module, "config", None)) is not None}
    return [*model.modules(), *configs.values()]


@torch.inference_mode()
def own_logits(model: Any, attention: str, max_context: int) -> Logits:
    """Compute the logits of the model's own forward with its own attention.

    Args:
        model: A transformers causal LM.
        attention: Implementation of attention to restore afterwards.
        max_context: Number of positions of the context.

    Raises:
        TargetIncompatibleError: The logits are not finite.
    """
    ids_1L = probe_ids(model.config.vocab_size).to(model.device)
    model.set_attn_implementation("eager")
    try:
        near_1LV = model(input_ids=ids_1L, use_cache=False).logits.float()
        positions_1L = far_positions(max_context).to(model.device)
        far_1LV = model(input_ids=ids_1L, position_ids=positions_1L, use_cache=False).logits.float()
        with short_windows(parts_with_windows(model), max_context):
            narrow_1LV = model(input_ids=ids_1L, use_cache=False).logits.float()
    finally:
        model.set_attn_implementation(attention)
    if not bool(near_1LV.isfinite().all()):
        raise TargetIncompatibleError(
            f"the model's own answers exceed what {model.dtype} holds; set target.dtype to float32",
            param="target.model",
        )
    return Logits(near_1LV, far_1LV, narrow_1LV)


@torch.inference_mode()
def require_finite(model: Any) -> None:
    """Check that every weight is finite, also those of tokens that no other check reads.

    Raises:
        TargetIncompatibleError: A weight is not finite.
    """
    names = [name for name, each in model.named_parameters() if not bool(each.sum(dtype=torch.float32).isfinite())]
    names = [name for name in names if not bool(model.get_parameter(name).isfinite().all())]
    if names:
        raise TargetIncompatibleError(
            f"the model's weights hold numbers that are not finite: {', '.join(names[:_SHOWN])}"
            f"{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}; save the checkpoint, or the adapter "
            "merged into it, again, or set target.dtype to float32",
            param="target.model",
        )


@torch.inference_mode()
def require_equal(
    own: Logits,
    forward: Callable[[Tensor, int], Tensor],
    beside: Callable[[Tensor, Tensor], Tensor],
    parts: Iterable[Any],
    *,
    vocab_size: int,
    max_context: int,
    dtype: torch.dtype,
    name: str,
) -> float:
    """Check our logits of the same tokens: a prefill, then the rest over the cache.

    Args:
        own: Logits from `own_logits`.
        forward: Function from ids (1, L) and the position of the first to logits (1, L, V), over one cache.
        beside: Function from ids and positions (B, L) to logits (B, L, V), in one forward.
        parts: Objects with the windows that `forward` uses.
        vocab_size: Size of the vocabulary in the config.
        max_context: Number of positions of the context.
        dtype: Dtype of the weights, which determines the tolerance.
        name: Name of the model, for the message.

    Returns:
        The root of the mean squared difference divided by the standard deviation of the model's logits.

    Raises:
        TargetIncompatibleError: The logits differ, so another model than the given one would be served.
    """
    ids_1L = probe_ids(vocab_size).to(own.near_1LV.device)

    def ours() -> Tensor:
        return torch.cat([forward(ids_1L[:, :PREFIX], 0), forward(ids_1L[:, PREFIX:], PREFIX)], dim=1)

    difference = _require_close(own.near_1LV, ours(), "", dtype=dtype, name=name)
    with short_windows(parts, max_context):
        _require_close(own.narrow_1LV, ours(), ", where a layer sees a window of them only", dtype=dtype, name=name)
    far_1L = far_positions(max_context).to(ids_1L.device)
    rows_2LV = beside(ids_1L.expand(2, -1), torch.cat([far_1L - far_1L[:, :1], far_1L]))
    _require_close(own.near_1LV, rows_2LV[:1], " beside a row at the context's end", dtype=dtype, name=name)
    _require_close(own.far_1LV, rows_2LV[1:], " at the context's end", dtype=dtype, name=name)
    return difference


def _require_close(own_1LV: Tensor, ours_1LV: Tensor, where: str, *, dtype: torch.dtype, name: str) -> float:
    tolerance = _TOLERANCE.get(dtype, _TOLERANCE[torch.bfloat16])
    difference = float("inf")
    if ours_1LV.shape == own_1LV.shape and bool(ours_1LV.isfinite().all()):
        spread = max(float(own_1LV.std()), 1e-6)
        difference = float((ours_1LV.float() - own_1LV).square().mean().sqrt()) / spread
    if not difference <= tolerance:
        raise TargetIncompatibleError(
            f"{name} would be decoded as another model: its logits and ours{where} differ by {difference:.3g} of their "
            f"spread, at most {tolerance:g} is rounding. This family does something that this engine does not know; "
            "serve it on vLLM (engine vllm), or name a target of a family that docs/reference/families.md lists",
            param="target.model",
        )
    return difference

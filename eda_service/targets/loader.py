"""Loading a target: pinned safetensors, LoRA merged, ready to decode; targets that cannot work are refused field by
field.

The head reads the last hidden states *after* the final norm (paper, Section 4).

Shapes: B rows, L positions, D hidden, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM

from eda_service.config.job import TargetSpec
from eda_service.errors import TargetNotFoundError
from eda_service.targets.adapters.bank import AdapterBank
from eda_service.targets.adapters.merge import merge_adapter
from eda_service.targets.chat.chat import load_stop_token_ids, target_tokenizer
from eda_service.targets.checks.check import check_model, load_config, require_parts
from eda_service.targets.decoder.attention import NAME as ATTENTION
from eda_service.targets.decoder.attention import TreeShape, tree_mask, visible_mask
from eda_service.targets.decoder.attention_products import keys_to_see
from eda_service.targets.decoder.fused import Decoder, FusedDecoder, make_decoder
from eda_service.targets.decoder.packed import tensor_bytes
from eda_service.targets.decoder.slots import SlotCache
from eda_service.targets.ends import TargetEnds, choose_dtype, context_note, max_context_of
from eda_service.targets.fidelity import (
    CLAIMED_TOKENS,
    NUM_TOKENS,
    Logits,
    own_logits,
    parts_with_windows,
    require_equal,
    require_finite,
    require_whole,
)
from eda_service.targets.files.generation_defaults import read_generation_defaults
from eda_service.targets.files.identity import fingerprint
from eda_service.targets.files.resolve import ResolvedTarget, resolve_target
from eda_service.targets.files.shape import head_dim_of
from eda_service.targets.head import InferenceHead, lm_head_of
from eda_service.targets.states import TargetStates
from eda_service.targets.told import told

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")


@dataclass(kw_only=True)
class Target(TargetEnds):
    """A frozen target on one device.

    Attributes:
        decoder: The model without its head: from ids, positions, cache and mask to states.
        head: The lm_head in the form for decoding, (.., D) to (.., V).
        adapters: LoRA adapters beside the base, by row of a forward; None if the decoder supports none.
    """

    decoder: Decoder
    head: InferenceHead
    adapters: AdapterBank | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of embedding, decoder and head, adapters not counted."""
        weight = self.embed.weight
        assert isinstance(weight, Tensor)
        own_head = 0 if self.head_weight.data_ptr() == weight.data_ptr() else tensor_bytes(self.head_weight)
        return tensor_bytes(weight) + own_head + self.head.size_bytes + self.decoder.size_bytes

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return head_dim_of(self.config)

    @property
    def num_groups(self) -> int:
        """Number of query heads that share one key/value head."""
        return int(self.config.num_attention_heads) // int(self.config.num_key_value_heads)

    def new_cache(self, num_slots: int, max_tokens: int) -> SlotCache:
        """Make an empty cache for `num_slots` sequences of at most `max_tokens`."""
        return SlotCache(
            num_layers=self.config.num_hidden_layers,
            num_slots=num_slots,
            num_kv_heads=self.config.num_key_value_heads,
            head_dim=self.head_dim,
            max_tokens=max_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def forward(
        self,
        ids_BL: Tensor,
        cache: SlotCache,
        starts: Sequence[int],
        *,
        first_slot: int = 0,
        tree: TreeShape | None = None,
        adapters: Sequence[str | None] | None = None,
        captures: Sequence[int] = (),
    ) -> TargetStates:
        """Compute states of new tokens; their keys and values are written to the cache at starts..starts+L-1.

        Args:
            ids_BL: New tokens; rows shorter than L are padded on the right with any id.
            cache: Cache whose slots from `first_slot` on hold the rows' earlier tokens.
            starts: Position of each row's first new token.
            first_slot: Slot of row 0.
            tree: Tree that the new tokens form; None for a sequence.
            adapters: Key of each row's adapter in `self.adapters`, None for a row without one; None: no row has one.
            captures: Layers that a draft reads; empty: only the head's input.

        Returns:
            States (B, L, ..) in the target's dtype.
        """
        length = ids_BL.shape[1]
        starts_B = torch.tensor(starts, device=self.device)
        index_BL = starts_B[:, None] + torch.arange(length, device=self.device)
        num_keys = keys_to_see(max(starts) + length, index_BL.numel(), self.dtype, self.device)
        cache.begin(index_BL, num_keys, first_slot=first_slot)
        groups = self.num_groups
        rows = None if adapters is None or self.adapters is None else self.adapters.rows(adapters, length)
        if tree is None:
            mask = visible_mask(index_BL, num_keys, groups, self.dtype)
            return self.decoder(ids_BL, index_BL, cache, mask, rows, captures)
        mask = tree_mask(starts_B, tree.ancestors_BLL, num_keys, groups, self.dtype)
        return self.decoder(ids_BL, starts_B[:, None] + tree.depths_BL, cache, mask, rows, captures)


def load_target(spec: TargetSpec, *, device: torch.device = _CPU) -> Target:
    """Resolve, load and freeze a target.

    Args:
        spec: Name of the target, and of its adapter.
        device: Device of the weights; `choose_device` makes one from a job's config.

    Raises:
        TargetNotFoundError: The id, revision, directory or adapter does not exist.
        UnsafeCheckpointError: Weights exist only in a pickled format.
        TargetIncompatibleError: The model is not decoder-only, or is not supported here.
        ArtifactCorruptError: The files were changed while they were read.
    """
    resolved = resolve_target(spec)
    with told(spec.model):
        return _load(spec, resolved, device)


def _load(spec: TargetSpec, resolved: ResolvedTarget, device: torch.device) -> Target:
    dtype = choose_dtype(spec, device)
    check_model(resolved.model_dir)
    tokenizer = target_tokenizer(resolved)
    defaults = read_generation_defaults(resolved.model_dir)
    model, notes = _load_model(resolved, dtype)
    model = model.to(device)
    body = require_parts(model, spec.model)
    resolved.require_unchanged()
    require_finite(model)
    own = own_logits(model, ATTENTION, max_context_of(model.config))
    lm_head = lm_head_of(model)
    decoder = make_decoder(body, model.config, head_dim_of(model.config))
    stop_ids = load_stop_token_ids(resolved.model_dir, tokenizer)
    target = Target(
        spec=spec,
        fingerprint=fingerprint(resolved, tokenizer, model.config),
        tokenizer=tokenizer,
        config=model.config,
        decoder=decoder,
        head=InferenceHead(lm_head),
        lm_head=lm_head,
        embed=model.get_input_embeddings(),
        # A token beyond the logits (added without resizing the model) can never be chosen.
        stop_token_ids=frozenset(token for token in stop_ids if token < lm_head.vocab_size),
        max_context=max_context_of(model.config),
        dtype=dtype,
        device=device,
        adapters=_bank(decoder, dtype, device),
        notes=(*notes, *context_note(model.config)),
        defaults=defaults.within(lm_head.vocab_size),
    )
    _require_fidelity(target, own, parts_with_windows(model))
    return target


def _require_fidelity(target: Target, own: Logits, parts: list[Any]) -> None:
    cache = target.new_cache(2, NUM_TOKENS)
    cache.claimed = CLAIMED_TOKENS

    def forward(ids_1L: Tensor, start: int) -> Tensor:
        logits_1LV: Tensor = target.head(target.forward(ids_1L, cache, [start]).head_in)
        return logits_1LV

    def beside(ids_BL: Tensor, positions_BL: Tensor) -> Tensor:
        places_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device).expand_as(ids_BL)
        cache.begin(places_BL, NUM_TOKENS)
        mask = visible_mask(places_BL, NUM_TOKENS, target.num_groups, target.dtype)
        logits_BLV: Tensor = target.head(target.decoder(ids_BL, positions_BL, cache, mask).head_in)
        return logits_BLV

    with_adapter = "" if target.spec.adapter is None else f" with adapter {target.spec.adapter}"
    name = f"{target.spec.model} ({target.config.model_type}){with_adapter}"
    layers = target.decoder.layers if isinstance(target.decoder, FusedDecoder) else []
    difference = require_equal(
        own,
        forward,
        beside,
        [*parts, *layers],
        vocab_size=target.config.vocab_size,
        max_context=target.max_context,
        dtype=target.dtype,
        name=name,
    )
    logger.info("%s: logits differ from the model's own by %.2g of their spread", name, difference)


def _bank(decoder: Decoder, dtype: torch.dtype, device: torch.device) -> AdapterBank | None:
    if not isinstance(decoder, FusedDecoder):
        return None
    return AdapterBank([layer.products for layer in decoder.layers], dtype=dtype, device=device)


def _load_model(resolved: ResolvedTarget, dtype: torch.dtype) -> tuple[Any, tuple[str, ...]]:
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            resolved.model_dir,
            config=load_config(resolved.model_dir),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation=ATTENTION,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused by name below
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise TargetNotFoundError(
            f"{resolved.model_dir} does not load as a causal LM: {error}; check that it holds config.json and "
            "safetensors",
            param="target.model",
        ) from error
    note = require_whole(model, info, str(resolved.model_dir))
    if note is not None:
        logger.warning("%s", note)
    if resolved.adapter_dir is not None:
        model = merge_adapter(model, resolved.adapter_dir)
    model.requires_grad_(False)
    return model.eval(), (() if note is None else (note,))

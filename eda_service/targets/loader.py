"""Load a target: pinned safetensors, LoRA merged, ready to decode; refuse what cannot work, field by field.

What the head reads are the last hidden states *after* the final norm (paper, Section 4).

Shapes: B rows, L positions, D hidden, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from eda_service.config.job import TargetSpec
from eda_service.errors import TargetNotFoundError
from eda_service.records import TargetFingerprint
from eda_service.storage.beneath import FileIdentity
from eda_service.storage.files import sha256_file, sha256_text
from eda_service.targets.adapters.bank import AdapterBank
from eda_service.targets.adapters.merge import merge_adapter
from eda_service.targets.attention import NAME as ATTENTION
from eda_service.targets.attention import TreeShape, tree_mask, visible_mask
from eda_service.targets.chat.chat import load_stop_token_ids, target_tokenizer
from eda_service.targets.checks.check import check_model, load_config, require_parts
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
from eda_service.targets.fused import Decoder, FusedDecoder, make_decoder
from eda_service.targets.generation_defaults import NO_DEFAULTS, GenerationDefaults, read_generation_defaults
from eda_service.targets.head import InferenceHead, LmHead, lm_head_of
from eda_service.targets.packed import native_bfloat16, tensor_bytes
from eda_service.targets.resolve import ResolvedTarget, resolve_target
from eda_service.targets.shape import head_dim_of
from eda_service.targets.slots import SlotCache
from eda_service.targets.states import TargetStates
from eda_service.targets.told import told

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")


@dataclass
class Target:
    """A frozen target on one device.

    Attributes:
        decoder: The model without its head: ids, positions, cache and mask to states.
        head: lm_head as it decodes, (.., D) to (.., V).
        lm_head: Its values, of which a draft vocabulary picks rows.
        embed: Token embedding module.
        notes: What a user of this target must know, in sentences.
        defaults: What its generation_config.json says about answers.
        adapters: LoRA adapters beside the base, by row of a forward; None where the decoder takes none.
    """

    spec: TargetSpec
    fingerprint: TargetFingerprint
    tokenizer: Any
    config: Any
    decoder: Decoder
    head: InferenceHead
    lm_head: LmHead
    embed: nn.Module
    stop_token_ids: frozenset[int]
    max_context: int
    dtype: torch.dtype
    device: torch.device
    adapters: AdapterBank | None = None
    notes: tuple[str, ...] = ()
    defaults: GenerationDefaults = NO_DEFAULTS

    @property
    def head_weight(self) -> Tensor:
        """(V, D): rows of lm_head."""
        return self.lm_head.rows_VD

    @property
    def vocab_size(self) -> int:
        """Ids that have both an embedding and a logit; a tokenizer or a config may know of more."""
        weight = self.embed.weight
        assert isinstance(weight, Tensor)
        return min(weight.shape[0], self.lm_head.vocab_size)

    @property
    def size_bytes(self) -> int:
        """What embedding, decoder and head take, adapters not counted."""
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
        """Query heads that share one key/value head."""
        return int(self.config.num_attention_heads) // int(self.config.num_key_value_heads)

    def new_cache(self, num_slots: int, max_tokens: int) -> SlotCache:
        """An empty cache for `num_slots` sequences of at most `max_tokens`."""
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
        """States of new tokens, their keys and values written to the cache at starts..starts+L-1.

        Args:
            ids_BL: New tokens; rows shorter than L are padded on the right with any id.
            cache: Slots first_slot.. hold the rows' earlier tokens.
            starts: Position of each row's first new token.
            first_slot: Slot of row 0.
            tree: How the new tokens hang together; None for a sequence.
            adapters: Key of each row's adapter in `self.adapters`, None for the base; None: all rows are the base's.
            captures: Layers that a draft reads; none: what the head reads.

        Returns:
            States (B, L, ..) in the target's dtype.
        """
        length = ids_BL.shape[1]
        starts_B = torch.tensor(starts, device=self.device)
        index_BL = starts_B[:, None] + torch.arange(length, device=self.device)
        num_keys = max(starts) + length
        cache.begin(index_BL, num_keys, first_slot=first_slot)
        groups = self.num_groups
        rows = None if adapters is None or self.adapters is None else self.adapters.rows(adapters, length)
        if tree is None:
            mask = visible_mask(index_BL, num_keys, groups, self.dtype)
            return self.decoder(ids_BL, index_BL, cache, mask, rows, captures)
        mask = tree_mask(starts_B, tree.ancestors_BLL, num_keys, groups, self.dtype)
        return self.decoder(ids_BL, starts_B[:, None] + tree.depths_BL, cache, mask, rows, captures)


def choose_dtype(spec: TargetSpec, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it, else float32 (ADR 0003)."""
    if spec.dtype != "auto":
        return torch.float32 if spec.dtype == "float32" else torch.bfloat16
    return torch.bfloat16 if device.type != "cpu" or native_bfloat16() else torch.float32


def load_target(spec: TargetSpec, *, device: torch.device = _CPU) -> Target:
    """Resolve, load and freeze a target.

    Args:
        spec: Its name.
        device: Where its weights go; `choose_device` makes one of a job's config.

    Raises:
        TargetNotFoundError: No such id, revision, directory or adapter.
        UnsafeCheckpointError: Only pickled weights are there.
        TargetIncompatibleError: Not a decoder-only model this code can drive.
        ArtifactCorruptError: Its files were changed while they were read.
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
        # One beyond the logits (a token that was added without resizing the model) can never be chosen.
        stop_token_ids=frozenset(token for token in stop_ids if token < lm_head.vocab_size),
        max_context=max_context_of(model.config),
        dtype=dtype,
        device=device,
        adapters=_bank(decoder, dtype, device),
        notes=(*notes, *_context_note(model.config)),
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


def max_context_of(config: Any) -> int:
    """Positions that the model was built for.

    YaRN multiplies the original length where the config left `max_position_embeddings` at it. LongRoPE takes other
    factors once any row of a batch is longer than the original length, which would make an answer depend on its
    neighbours: its context ends there.
    """
    limit = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    original = int(rope.get("original_max_position_embeddings") or limit)
    if rope.get("rope_type") == "longrope":
        return min(limit, original)
    if rope.get("rope_type") == "yarn" and limit == original:
        return int(original * float(rope.get("factor") or 1.0))
    return limit


def _context_note(config: Any) -> tuple[str, ...]:
    context = max_context_of(config)
    if context >= int(config.max_position_embeddings):
        return ()
    return (
        f"the context ends at {context} of {config.max_position_embeddings} positions: beyond its original length "
        "LongRoPE rotates every row of a batch by the longest one, so answers would depend on their neighbours; serve "
        "longer prompts on vLLM",
    )


def fingerprint(resolved: ResolvedTarget, tokenizer: Any, config: Any) -> TargetFingerprint:
    """Identify a target by its files: hashes of weights, tokenizer and chat template, and its shape. Comes after all
    that is read of them, because it ends with the look whether they are still the same.

    Raises:
        ArtifactCorruptError: A file has changed since the target was resolved.
    """
    files = sorted(resolved.model_dir.glob("*.safetensors"))
    if resolved.adapter_dir is not None:
        files += sorted(resolved.adapter_dir.glob("*.safetensors"))
    found = TargetFingerprint(
        model=resolved.model,
        revision=resolved.revision,
        adapter=resolved.adapter,
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        tokenizer_sha256=sha256_text(tokenizer.backend_tokenizer.to_str()),
        chat_template_sha256=sha256_text(str(tokenizer.chat_template)),
        weights_sha256=sha256_text("".join(_sha256(path, FileIdentity.of(path.stat())) for path in files)),
    )
    resolved.require_unchanged()
    return found


@lru_cache(maxsize=256)
def _sha256(path: Path, _: FileIdentity) -> str:
    """Of a file as long as it is the same one: the variants over a base do not hash it again."""
    return sha256_file(path)

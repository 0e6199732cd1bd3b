"""Several packs in one draft inside vLLM: the common code of both gated classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)
from vllm.forward_context import get_forward_context, is_forward_context_available
from vllm.utils.import_utils import resolve_obj_by_qualname

from eda_service.errors import InputError
from eda_service.export.files.eda_config import EdaConfig, PackPlaces
from eda_service.export.packed.draft_packs import DraftPacks
from eda_service.export.packed.ffn import PackedFFN, PackedFuse
from eda_service.export.packed.rows import PackedRows
from eda_service.export.packed.vocabulary import PackedVocabulary
from eda_service.export.vllm_plugin import PACK_WORKER


def require_worker(eda: EdaConfig, vllm_config: VllmConfig) -> None:
    """Refuse to load several packs if the worker does not tell the draft which adapter a request has.

    Raises:
        InputError: The worker is another one; the message names the option to start vLLM with.
    """
    if not eda.packs:
        return
    worker_cls = vllm_config.parallel_config.worker_cls
    worker = resolve_obj_by_qualname(worker_cls) if isinstance(worker_cls, str) and "." in worker_cls else worker_cls
    if not getattr(worker, "tells_adapters", False):
        raise InputError(
            f"the draft {eda.source} holds packs for the adapters {', '.join(pack.adapter for pack in eda.packs)}, and "
            f"vLLM's own worker does not tell a draft which adapter a request has; start vLLM with --worker-cls "
            f"{PACK_WORKER}",
            param="worker_cls",
        )


def make_packs(
    model: Any,
    eda: EdaConfig,
    places: PackPlaces,
    vllm_config: VllmConfig,
    make_expert: Callable[[str, int], nn.Module],
) -> DraftPacks:
    """Make places for packs in a draft's layers.

    Args:
        model: Draft of an engine, with `model.layers`; with a vocabulary of each pack also `lm_head`, if it has one.
        eda: The export's `eda_config`.
        places: Number and sizes of the places.
        vllm_config: Config that vLLM passed to the draft.
        make_expert: Function from (name, width) to vLLM's SwiGLU that leaves its partial sum to the caller.
    """
    scheduler, hidden_size = vllm_config.scheduler_config, eda.draft.hidden_size
    rows = PackedRows(scheduler.max_num_seqs, scheduler.max_num_batched_tokens + scheduler.max_num_seqs)
    ffn = PackedFFN(
        hidden_size,
        places,
        make_expert("shared", eda.draft.expert_width),
        rows,
        tensor_model_parallel_all_reduce,
        rank=get_tensor_model_parallel_rank(),
        num_ranks=get_tensor_model_parallel_world_size(),
    )
    model.pack_rows, model.model.layers[0].mlp = rows, ffn
    fuse = None
    if places.has_fuse:
        fuse = PackedFuse(hidden_size + eda.draft.feature_width, hidden_size, places.count, rows)
        model.model.fc = fuse
    vocabulary = None
    if places.has_vocabulary:
        num_rows = eda.draft_vocab_size or eda.draft.vocab_size
        write_rows = None if eda.draft_vocab_size is None else _writes_rows_of(model)
        vocabulary = PackedVocabulary(num_rows, eda.draft.vocab_size, places.count, rows, write_rows)
        model.pack_vocabulary = vocabulary
    return DraftPacks(eda, rows, ffn, fuse, vocabulary)


def _writes_rows_of(model: Any) -> Callable[[Tensor, Tensor], None]:
    """Make a function that writes rows of the draft's head into its memory, on each rank those that it holds."""

    @torch.no_grad()
    def write(row_W: Tensor, value_WD: Tensor) -> None:
        head = model.lm_head
        first, end = head.shard_indices.org_vocab_start_index, head.shard_indices.org_vocab_end_index
        is_mine_W = (row_W >= first) & (row_W < end)
        weight_XD = head.weight
        index_W = (row_W[is_mine_W] - first).to(weight_XD.device)
        weight_XD[index_W] = value_WD[is_mine_W].to(weight_XD.device, weight_XD.dtype)
        head.quant_method.process_weights_after_loading(head)  # a CPU multiplies with a packed copy

    return write


def spread_rows(rows: PackedRows, num_rows: int) -> None:
    """Set the place of each row of a forward pass, from the requests' places and first rows; in trial runs of a shape
    no row belongs to a request.
    """
    starts_R = None
    if is_forward_context_available():
        metadata = get_forward_context().attn_metadata
        of_layer = next(iter(metadata.values()), None) if isinstance(metadata, dict) else None
        starts_R = getattr(of_layer, "query_start_loc", None)
        if of_layer is not None and starts_R is None:
            raise RuntimeError(
                f"the attention backend's metadata {type(of_layer).__name__} has no query_start_loc, by which "
                "packs are chosen; start vLLM with another --attention-backend"
            )
    rows.spread(num_rows, starts_R)

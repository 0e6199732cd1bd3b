"""The LoRA adapters loaded beside one target, stacked for `AdaptedLinear`; equal adapters are held once.

A change of the stacks takes effect with the next forward. One thread owns a bank, as it owns the engine.

Shapes: B rows, L positions, R ranks of all adapters together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eda_service.errors import ResourceError, TargetIncompatibleError
from eda_service.targets.adapters.adapter import Adapter
from eda_service.targets.adapters.rows import AdaptedLinear, AdapterRows

MAX_RANKS = 1024
_ALIGNED = 8
_STACK_STEP = 32  # stacks keep their shapes while a few adapters come: oneDNN makes its kernels for each shape anew


@dataclass
class _Span:
    """The place of an adapter's ranks in the stacks, and its number of users."""

    first: int
    rank: int
    num_users: int = 1


class AdapterBank:
    """Loads and frees the adapters of one target.

    Args:
        layers: Products of each layer, by the names of their linears.
        dtype: Dtype of the target.
        device: Device of the target.
    """

    def __init__(
        self, layers: Sequence[dict[tuple[str, ...], AdaptedLinear]], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._layers, self._dtype, self._device = layers, dtype, device
        self._spans: dict[str, _Span] = {}
        self._num_ranks = 0

    @torch.inference_mode()
    def acquire(self, adapter: Adapter) -> str:
        """Load an adapter, or count one more user of an equal one; return its key.

        Raises:
            TargetIncompatibleError: A matrix has another shape than the target's linear.
            ResourceError: The ranks of all adapters together would exceed the limit of one forward.
        """
        if adapter.key in self._spans:
            self._spans[adapter.key].num_users += 1
            return adapter.key
        self._check(adapter)
        rank = -(-max(1, adapter.rank) // _ALIGNED) * _ALIGNED
        used = _ranks(self._spans)
        if used + rank > MAX_RANKS:
            raise ResourceError(
                f"the adapters loaded here have {used} ranks, {rank} more exceed the limit of {MAX_RANKS}; "
                "serve this one in a replica of its own or remove another",
                param="target.adapter",
            )
        spans = {**self._spans, adapter.key: _Span(used, rank)}
        self._restack(spans, adapter)
        return adapter.key

    @torch.inference_mode()
    def release(self, key: str) -> None:
        """Count one user less; an adapter without users is freed."""
        span = self._spans[key]
        span.num_users -= 1
        if span.num_users:
            return
        spans: dict[str, _Span] = {}
        for name, each in self._spans.items():
            if name != key:
                spans[name] = _Span(_ranks(spans), each.rank, each.num_users)
        self._restack(spans, None)

    def rows(self, keys: Sequence[str | None], length: int) -> AdapterRows | None:
        """Make the masks of a forward of `length` positions per row; None if no row has an adapter."""
        if not any(key is not None for key in keys):
            return None
        mask_BR = torch.zeros(len(keys), self._num_ranks, dtype=self._dtype)
        for row, key in enumerate(keys):
            if key is not None:
                span = self._spans[key]
                mask_BR[row, span.first : span.first + span.rank] = 1
        return AdapterRows(mask_BR.to(self._device)[:, None].expand(-1, length, -1).contiguous())

    def size_bytes(self, key: str) -> int:
        """Count the bytes of an adapter in the stacks, its share of their zeros included."""
        share = self._spans[key].rank / _ranks(self._spans)
        return round(share * sum(product.stack_bytes for products in self._layers for product in products.values()))

    def _check(self, adapter: Adapter) -> None:
        known: dict[tuple[int, str], tuple[int, int]] = {}
        for layer, products in enumerate(self._layers):
            for names, product in products.items():
                for name, width in zip(names, product.widths, strict=True):
                    known[layer, name] = (width, product.in_features)
        for place, (a_rI, b_Or) in adapter.updates.items():
            found = (b_Or.shape[0], a_rI.shape[1])
            if known.get(place) != found or a_rI.shape[0] != b_Or.shape[1]:
                raise TargetIncompatibleError(
                    f"the adapter's {place[1]} of layer {place[0]} is {found[0]} x {found[1]}, the base has "
                    f"{known.get(place, 'no such linear')}; name the base it was trained on",
                    param="target.adapter",
                )

    def _restack(self, spans: dict[str, _Span], fresh: Adapter | None) -> None:
        """Rebuild every product's stacks for `spans`: kept adapters are copied, `fresh` is added."""
        num_ranks = -(-_ranks(spans) // _STACK_STEP) * _STACK_STEP
        for layer, products in enumerate(self._layers):
            for names, product in products.items():
                if not spans:
                    product.restack(None)
                    continue
                stacks = product.new_stacks(num_ranks, self._dtype, self._device)
                self._copy(product.stacked(), stacks, spans)
                if fresh is not None:
                    for linear, name in enumerate(names):
                        if (layer, name) in fresh.updates:
                            product.place(stacks, linear, spans[fresh.key].first, *fresh.updates[layer, name])
                product.restack(stacks)
        self._spans, self._num_ranks = spans, num_ranks

    def _copy(self, old: tuple[Tensor, Tensor] | None, new: tuple[Tensor, Tensor], spans: dict[str, _Span]) -> None:
        if old is None:
            return
        for key, span in spans.items():
            if key in self._spans:
                source = slice(self._spans[key].first, self._spans[key].first + span.rank)
                destination = slice(span.first, span.first + span.rank)
                new[0][:, destination] = old[0][:, source]
                new[1][:, :, destination] = old[1][:, :, source]


def _ranks(spans: Mapping[str, _Span]) -> int:
    return sum(span.rank for span in spans.values())

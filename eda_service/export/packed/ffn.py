"""Modules of a draft that holds several packs: each row uses the parts of its own pack.

The private experts of all places stand side by side as one SwiGLU of P times the width. After the activation a row
keeps the units of its own place and has zeros elsewhere, which is exactly that place's expert: two matrix products for
any rows, without a branch, so that a recorded graph is right for every batch. On a CPU, where reading the places costs
nothing, only the places that occur are computed.

Eq. 5 with weights (w_s, w_p) of each row: (g_s, g_p) of its gate and its scale; (1, 1) where both experts are added;
(1, 0) in place 0, where the shared expert is alone. A place narrower than the widest is filled with zeros: silu(0) * 0.

Shapes: N rows, D hidden, F width of a place on this rank, P places, C input of fc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.export.files.eda_config import ExportedPack, PackPlaces
from eda_service.export.packed.rows import PackedRows, present


class PackedFFN(nn.Module):
    """The module in the place of an engine's MLP.

    Args:
        hidden_size: Hidden width D.
        places: Number of places for packs, and their width.
        shared: The engine's SwiGLU, which leaves its partial sum to the caller.
        rows: Buffers with the place of each row.
        reduce: Function that sums over the tensor parallel ranks.
        rank: Tensor parallel rank of this process.
        num_ranks: Number of ranks that a place's width is split over.
    """

    gates_PGD: Tensor
    scale_P: Tensor
    is_gated_P: Tensor

    def __init__(
        self,
        hidden_size: int,
        places: PackPlaces,
        shared: nn.Module,
        rows: PackedRows,
        reduce: Callable[[Tensor], Tensor],
        *,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__()
        self.shared, self._reduce = shared, reduce
        self._rows = (rows,)  # in a tuple, so that it is not registered as a submodule
        self._rank, self._width = rank, places.width // num_ranks
        count, width = places.count, self._width
        self.register_buffer("gate_proj_PFD", torch.zeros(count, width, hidden_size), persistent=False)
        self.register_buffer("up_proj_PFD", torch.zeros(count, width, hidden_size), persistent=False)
        self.register_buffer("down_proj_PFD", torch.zeros(count, width, hidden_size), persistent=False)
        self.register_buffer("gates_PGD", torch.zeros(count + 1, 2, hidden_size), persistent=False)
        self.register_buffer("scale_P", torch.ones(count + 1), persistent=False)
        self.register_buffer("is_gated_P", torch.zeros(count + 1, dtype=torch.bool), persistent=False)

    @torch.no_grad()
    def put(self, place: int, pack: ExportedPack | None, tensors: Mapping[str, Tensor]) -> None:
        """Fill a place in its existing memory, or empty it.

        Args:
            place: Number of the place, from 1.
            pack: Pack for the place; None empties it.
            tensors: Tensors `private.*` and, of a gated pack, `gate.proj.weight`.
        """
        stacks = [self.get_buffer(f"{name}_PFD")[place - 1] for name in ("gate_proj", "up_proj", "down_proj")]
        for each in (*stacks, self.gates_PGD[place]):
            each.zero_()
        self.is_gated_P[place] = pack is not None and "gate.proj.weight" in tensors
        self.scale_P[place] = 1.0 if pack is None else pack.scale
        if pack is None:
            return
        for name, stack_FD in zip(("gate_proj", "up_proj", "down_proj"), stacks, strict=True):
            whole_FD = tensors[f"private.{name}.weight"]
            whole_FD = whole_FD.T if name == "down_proj" else whole_FD
            mine_FD = whole_FD[self._rank * self._width : (self._rank + 1) * self._width]
            stack_FD[: len(mine_FD)].copy_(mine_FD)
        if "gate.proj.weight" in tensors:
            self.gates_PGD[place].copy_(tensors["gate.proj.weight"])

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Map hidden states (N, D) to (N, D)."""
        place_N = self._rows[0].of_rows(hidden_ND.shape[0])
        shared_ND, private_ND = self.shared(hidden_ND), self._private(hidden_ND, place_N)
        weights_NG = self._weights(hidden_ND, place_N)
        mixed_ND = weights_NG[:, :1] * shared_ND + weights_NG[:, 1:] * private_ND
        scale_N = self.scale_P[place_N].to(mixed_ND.dtype)
        return self._reduce(scale_N[:, None] * mixed_ND)

    def _weights(self, hidden_ND: Tensor, place_N: Tensor) -> Tensor:
        """Compute the experts' weights (N, 2): Eq. 4 if a pack has a gate, 1 otherwise; the softmax is taken in
        float32.
        """
        count, _, hidden_size = self.gates_PGD.shape
        logits_NPG = F.linear(hidden_ND, self.gates_PGD.view(count * 2, hidden_size)).view(-1, count, 2)
        logits_NG = logits_NPG[torch.arange(len(place_N), device=place_N.device), place_N]
        weights_NG = torch.softmax(logits_NG.float(), dim=-1).to(hidden_ND.dtype)
        return torch.where(self.is_gated_P[place_N][:, None], weights_NG, torch.ones_like(weights_NG))

    def _private(self, hidden_ND: Tensor, place_N: Tensor) -> Tensor:
        places = present(place_N)
        gate_PFD, up_PFD, down_PFD = (self.get_buffer(f"{name}_proj_PFD") for name in ("gate", "up", "down"))
        if places is None:
            count, width, hidden_size = gate_PFD.shape
            gate_NX, up_NX = (F.linear(hidden_ND, each.view(-1, hidden_size)) for each in (gate_PFD, up_PFD))
            act_NPF = (F.silu(gate_NX) * up_NX).view(-1, count, width)
            is_own_NP = place_N[:, None] == torch.arange(1, count + 1, device=place_N.device)
            act_NPF = torch.where(is_own_NP[:, :, None], act_NPF, torch.zeros_like(act_NPF))
            return act_NPF.view(-1, count * width) @ down_PFD.view(-1, hidden_size)
        out_ND = torch.zeros_like(hidden_ND)
        for place in places:
            if place:
                index_N = slice(None) if len(places) == 1 else (place_N == place).nonzero()[:, 0]
                rows_ND, i = hidden_ND[index_N], place - 1
                out_ND[index_N] = (F.silu(F.linear(rows_ND, gate_PFD[i])) * F.linear(rows_ND, up_PFD[i])) @ down_PFD[i]
        return out_ND


class PackedFuse(nn.Module):
    """An fc of EAGLE-1 that each pack may have trained; place 0 is the base draft's.

    Args:
        width_in: Width C of its input.
        hidden_size: Hidden width D.
        count: Largest number of packs.
        rows: Buffers with the place of each row.
    """

    weight_PDC: Tensor

    def __init__(self, width_in: int, hidden_size: int, count: int, rows: PackedRows) -> None:
        super().__init__()
        self._rows = (rows,)
        self.register_buffer("weight_PDC", torch.zeros(count + 1, hidden_size, width_in), persistent=False)

    @torch.no_grad()
    def put(self, place: int, weight_DC: Tensor) -> None:
        """Write a place's weight; that of place 0 comes first, and other places use it until they have their own."""
        (self.weight_PDC[place:] if place == 0 else self.weight_PDC[place]).copy_(weight_DC)

    @torch.no_grad()
    def clear(self, place: int) -> None:
        """Give a place the base draft's weight again."""
        self.weight_PDC[place].copy_(self.weight_PDC[0])

    def forward(self, x_NC: Tensor) -> Tensor:
        """Map inputs (N, C) to (N, D)."""
        place_N = self._rows[0].of_rows(x_NC.shape[0])
        places, (count, hidden_size, width_in) = present(place_N), self.weight_PDC.shape
        if places is None:
            out_NPD = F.linear(x_NC, self.weight_PDC.view(-1, width_in)).view(-1, count, hidden_size)
            return out_NPD[torch.arange(len(place_N), device=place_N.device), place_N]
        if len(places) == 1:
            return F.linear(x_NC, self.weight_PDC[places[0]])
        out_ND = x_NC.new_empty(len(x_NC), hidden_size)
        for place in places:
            index_N = (place_N == place).nonzero()[:, 0]
            out_ND[index_N] = F.linear(x_NC[index_N], self.weight_PDC[place])
        return out_ND

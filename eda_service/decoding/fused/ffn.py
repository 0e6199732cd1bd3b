"""The draft's feed-forward module in decoding form (Eqs. 3-6): fused for a draft that shares nothing, in two parts for
drafts over one shared expert.

Gate and up rows are one product. The gate's weights scale the experts' inner activations, which is the same sum, so in
the fused form the experts' down columns are one product as well.

Shapes: B rows, L positions, D hidden, F width of an expert, or of both together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.decoding.row_groups import RowGroups
from eda_service.drafts.draft import Draft
from eda_service.drafts.expert import Expert
from eda_service.drafts.freezing import is_within
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.targets.decoder.packed import fuse_linears, make_linear, tensor_bytes


class WholeFFN:
    """One expert, or the shared and the private one with their gate, computed in two products.

    Args:
        ffn: The draft's module.
    """

    def __init__(self, ffn: nn.Module) -> None:
        experts = [ffn.shared, ffn.private] if isinstance(ffn, SharedPrivateFFN) else [as_expert(ffn)]
        self.widths = [expert.width for expert in experts]
        self.gate_up = fuse_linears([expert.gate_proj for expert in experts] + [expert.up_proj for expert in experts])
        down_DF = torch.cat([expert.down_proj.weight.detach() for expert in experts], dim=1)
        self.gate_proj_2D: Tensor | None = None
        if isinstance(ffn, SharedPrivateFFN):
            down_DF = down_DF * ffn.scale
            self.gate_proj_2D = None if ffn.gate is None else ffn.gate.proj.weight.detach()
        self.down = make_linear(down_DF)

    @property
    def size_bytes(self) -> int:
        """Size of the weights in bytes."""
        gate = 0 if self.gate_proj_2D is None else tensor_bytes(self.gate_proj_2D)
        return self.gate_up.size_bytes + self.down.size_bytes + gate

    def __call__(self, hidden_BLD: Tensor) -> Tensor:
        """Map hidden states (B, L, D) to (B, L, D)."""
        gate_BLF, up_BLF = self.gate_up(hidden_BLD).chunk(2, dim=-1)
        inner_BLF = F.silu(gate_BLF).mul_(up_BLF)
        if self.gate_proj_2D is not None:
            weights_BL2 = torch.softmax(F.linear(hidden_BLD, self.gate_proj_2D).float(), dim=-1).to(inner_BLF.dtype)
            for expert, part in enumerate(inner_BLF.split(self.widths, dim=-1)):
                part.mul_(weights_BL2[..., expert : expert + 1])
        out: Tensor = self.down(inner_BLF)
        return out


class SharedFFN:
    """The base draft's expert, which any number of private experts share.

    Args:
        expert: The expert whose weights are packed.
    """

    def __init__(self, expert: Expert) -> None:
        self.gate_up = fuse_linears([expert.gate_proj, expert.up_proj])
        self.down = make_linear(expert.down_proj.weight.detach())

    @property
    def size_bytes(self) -> int:
        """Size of the weights in bytes."""
        return self.gate_up.size_bytes + self.down.size_bytes

    def inner(self, hidden_BLD: Tensor) -> Tensor:
        """Return the inner activations silu(gate) * up (B, L, F)."""
        gate_BLF, up_BLF = self.gate_up(hidden_BLD).chunk(2, dim=-1)
        return F.silu(gate_BLF).mul_(up_BLF)


class PrivateFFN:
    """A private expert and the gate between it and the shared one; gate, up and router are one product.

    Args:
        ffn: The adapted draft's module.
    """

    def __init__(self, ffn: SharedPrivateFFN) -> None:
        expert = ffn.private
        router = [] if ffn.gate is None else [ffn.gate.proj]
        self.widths = [expert.width, expert.width, *(linear.out_features for linear in router)]
        self.gate_up = fuse_linears([expert.gate_proj, expert.up_proj, *router])
        self.down = make_linear(expert.down_proj.weight.detach() * ffn.scale)
        self.scale = ffn.scale

    @property
    def size_bytes(self) -> int:
        """Size of the weights in bytes."""
        return self.gate_up.size_bytes + self.down.size_bytes

    def __call__(self, hidden_BLD: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the shared expert's factor (B, L, 1), or None for a factor of one, and the private expert's weighted
        inner activations (B, L, F), which `down` takes.
        """
        gate_BLF, up_BLF, *router = self.gate_up(hidden_BLD).split(self.widths, dim=-1)
        inner_BLF = F.silu(gate_BLF).mul_(up_BLF)
        if not router:
            return None, inner_BLF
        weights_BL2 = torch.softmax(router[0].float(), dim=-1).to(inner_BLF.dtype)
        factor_BL1 = weights_BL2[..., :1] if self.scale == 1.0 else weights_BL2[..., :1] * self.scale
        return factor_BL1, inner_BLF.mul_(weights_BL2[..., 1:])


class SplitRows:
    """Rows over a shared expert, each with its private expert (None: the shared expert alone).

    Args:
        shared: The shared expert of each row; usually one for all.
        private: The private expert of each row.
        device: Device of the rows.
    """

    def __init__(self, shared: Sequence[SharedFFN], private: Sequence[PrivateFFN | None], device: torch.device) -> None:
        self._shared = RowGroups.of(shared, device)
        self._private = [(part, rows) for part, rows in RowGroups.of(private, device).groups if part is not None]

    def __call__(self, hidden_BLD: Tensor) -> Tensor:
        """Map hidden states (B, L, D) to (B, L, D)."""
        inner_BLF = self._shared.apply(lambda part, x: part.inner(x), hidden_BLD)
        weighted: list[Tensor] = []
        for part, rows in self._private:
            factor_BL1, private_BLF = part(hidden_BLD if rows is None else hidden_BLD[rows])
            weighted.append(private_BLF)
            if factor_BL1 is not None and rows is None:
                inner_BLF.mul_(factor_BL1)
            elif factor_BL1 is not None:
                inner_BLF[rows] *= factor_BL1
        out_BLD = self._shared.apply(lambda part, x: part.down(x), inner_BLF)
        for (part, rows), private_BLF in zip(self._private, weighted, strict=True):
            if rows is None:
                out_BLD = part.down.added(private_BLF, out_BLD)
            else:
                out_BLD.index_add_(0, rows, part.down(private_BLF))
        return out_BLD


def as_expert(ffn: nn.Module) -> Expert:
    """Return the expert of a draft that has no private expert; of a draft that has one, the shared expert."""
    expert = ffn.shared if isinstance(ffn, SharedPrivateFFN) else ffn
    assert isinstance(expert, Expert)
    return expert


def adapted_ffn(
    draft: Draft, base: WholeFFN | SharedFFN, trained: frozenset[str]
) -> tuple[WholeFFN | SharedFFN, PrivateFFN | None]:
    """Pack a pack's feed-forward module: private over the base's, or whole if the pack trained the expert itself."""
    module, place = draft.ffn, draft.places.ffn
    added = [f"{place}.private", f"{place}.gate"]
    if any(is_within(name, [place]) and not is_within(name, added) for name in trained):
        return WholeFFN(module), None
    return base, PrivateFFN(module) if isinstance(module, SharedPrivateFFN) else None


class FFNRows:
    """The feed-forward modules of a batch, one per row.

    Args:
        parts: The module of each row, and its private expert beside a shared one.
        device: Device of the rows.
    """

    def __init__(self, parts: Sequence[tuple[WholeFFN | SharedFFN, PrivateFFN | None]], device: torch.device) -> None:
        shared = [(row, ffn, private) for row, (ffn, private) in enumerate(parts) if isinstance(ffn, SharedFFN)]
        whole = [(row, ffn) for row, (ffn, _) in enumerate(parts) if isinstance(ffn, WholeFFN)]
        self._split = self._whole = None
        if shared:
            self._split = SplitRows([ffn for _, ffn, _ in shared], [private for *_, private in shared], device)
        if whole:
            self._whole = RowGroups.of([ffn for _, ffn in whole], device)
        if shared and whole:
            self._split_rows = torch.tensor([row for row, *_ in shared], device=device)
            self._whole_rows = torch.tensor([row for row, _ in whole], device=device)

    def __call__(self, hidden_BLD: Tensor) -> Tensor:
        """Map hidden states (B, L, D) to (B, L, D)."""
        if self._whole is None:
            assert self._split is not None
            return self._split(hidden_BLD)
        if self._split is None:
            return self._whole.apply(lambda part, x: part(x), hidden_BLD)
        out_BLD = torch.empty_like(hidden_BLD)
        out_BLD[self._split_rows] = self._split(hidden_BLD[self._split_rows])
        out_BLD[self._whole_rows] = self._whole.apply(lambda part, x: part(x), hidden_BLD[self._whole_rows])
        return out_BLD

"""Linear layers with weights packed for oneDNN: what `torch.compile` with frozen weights does, without its compile
time.

A plain float32 `nn.Linear` on a CPU re-packs its weight on every call, which costs more than the product itself at the
widths of decoding (measured: 62 ms against 41 ms for SmolLM2's 120 linears and 6 rows). The packed form also gives the
same bits for a row whatever the other rows of the batch are: with the shapes of `tiles` that makes decoding exactly
lossless and gives a request one answer. A single row is the exception (another kernel), so it is multiplied twice, in
bfloat16 only where the order of sums matters; both products read the weight once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.targets.decoder.tiles import is_ordered


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN packs this weight: on the CPU, float32, or bfloat16 where the processor multiplies it natively."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and native_bfloat16())


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX-512 BF16 or AMX); emulation is slower
    than float32.
    """
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class PackedLinear(nn.Module):
    """Inference-only linear, y = x W^T + b, with W packed once by oneDNN.

    Args:
        weight: Matrix (out, in), which is packed and not kept.
        bias: Vector (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
        self._bias = None if bias is None else bias.detach()

    @property
    def dense(self) -> Tensor:
        """Unpack the weight (out, in) into a new tensor."""
        weight: Tensor = self._packed.to_dense()
        return weight

    @property
    def size_bytes(self) -> int:
        """Bytes of weight and bias."""
        return tensor_bytes(self._packed) + (0 if self._bias is None else tensor_bytes(self._bias))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply rows of any leading shape."""
        if self._is_one_row(x):
            return self._multiply(_pair(x))[:1].reshape(*x.shape[:-1], self.out_features)
        return self._multiply(x)

    def added(self, x: Tensor, addend: Tensor) -> Tensor:
        """Compute `addend` (.., out) + x W^T, in one operation."""
        one_row = self._is_one_row(x)
        rows, addends = (_pair(x), _pair(addend)) if one_row else (x, addend)
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, addends, self._packed, self._bias, "add")
        return y[:1].reshape(addend.shape) if one_row else y

    def _is_one_row(self, x: Tensor) -> bool:
        return x.numel() == self.in_features and (x.dtype == torch.float32 or is_ordered(x.device))

    def _multiply(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return y


def _pair(x: Tensor) -> Tensor:
    """Repeat a single row."""
    return x.reshape(1, -1).expand(2, -1).contiguous()


def tensor_bytes(tensor: Tensor) -> int:
    """Count the bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


class PlainLinear(nn.Module):
    """A linear layer over torch's own product, for devices and types that need no packing."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def dense(self) -> Tensor:
        """The weight (out, in)."""
        return self.weight.detach()

    @property
    def size_bytes(self) -> int:
        """Bytes of weight and bias."""
        return tensor_bytes(self.weight) + (0 if self.bias is None else tensor_bytes(self.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply rows of any leading shape."""
        return F.linear(x, self.weight, self.bias)

    def added(self, x: Tensor, addend: Tensor) -> Tensor:
        """Compute `addend` (.., out) + x W^T."""
        return addend + F.linear(x, self.weight, self.bias)


FrozenLinear: TypeAlias = PackedLinear | PlainLinear


def make_linear(weight: Tensor, bias: Tensor | None = None) -> FrozenLinear:
    """Make an inference linear for this weight: packed if that is faster, else plain. The weight must be frozen."""
    return PackedLinear(weight, bias) if can_pack(weight) else PlainLinear(weight, bias)


def fuse_linears(linears: Sequence[nn.Linear]) -> FrozenLinear:
    """Make one product of one or more linears over the same input: outputs side by side along the last dimension."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    assert len(biases) in (0, len(linears)), "either all of them have a bias or none"
    return make_linear(weight, torch.cat(biases) if biases else None)


def pack_linears(module: nn.Module) -> None:
    """Replace every plain `nn.Linear` under `module` by its inference form, in place."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear and can_pack(child.weight):
            setattr(module, name, fuse_linears([child]))
        else:
            pack_linears(child)

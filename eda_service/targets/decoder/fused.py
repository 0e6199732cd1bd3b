"""A decoder of the Llama shape with few operations per layer: fused qkv and gate-up products, rotation in three
operations, keys and values written straight into the slots.

At one to a few tokens per forward the time beside the weight products is spent on starting operations, so their number
matters (`make bench NAME=profile-decode`). Families of this shape: Llama, Qwen2, Qwen3, Mistral; any other runs through
transformers' own modules (`TransformersDecoder`).

Shapes: B rows, L new positions, D hidden, N query heads, H key/value heads, d head width, T visible keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from eda_service.targets.adapters.rows import AdaptedLinear, AdapterRows
from eda_service.targets.decoder.attention import attend, within
from eda_service.targets.decoder.packed import PackedLinear, pack_linears, tensor_bytes
from eda_service.targets.decoder.slots import SlotCache
from eda_service.targets.states import TargetStates

FUSED_FAMILIES = frozenset({"llama", "qwen2", "qwen3", "mistral"})


class Decoder(Protocol):
    """Turns token ids into states; keys and values are written to the cache's current places.

    `adapters` says which low-rank update each row gets; only the fused decoder has any. `captures` names the states
    that a draft reads (`TargetStates.draft_in`): i is the residual stream after i layers, 0 the embedding.
    """

    def __call__(
        self,
        ids_BL: Tensor,
        positions_BL: Tensor,
        cache: SlotCache,
        mask: Tensor | None,
        adapters: AdapterRows | None = None,
        captures: Sequence[int] = (),
    ) -> TargetStates:
        """Compute the states (B, L, ..)."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights, adapters not counted."""
        ...


class TransformersDecoder:
    """Any decoder that transformers loads, through its own modules with packed linears."""

    def __init__(self, body: Any) -> None:
        pack_linears(body)
        self.body = body

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights, the token embedding not counted."""
        linears = [module for module in self.body.modules() if isinstance(module, PackedLinear)]
        parameters = [p for name, p in self.body.named_parameters() if "embed_tokens" not in name]
        return sum(linear.size_bytes for linear in linears) + sum(map(tensor_bytes, parameters))

    def __call__(
        self,
        ids_BL: Tensor,
        positions_BL: Tensor,
        cache: SlotCache,
        mask: Tensor | None,
        adapters: AdapterRows | None = None,
        captures: Sequence[int] = (),
    ) -> TargetStates:
        """Compute the states (B, L, ..)."""
        assert adapters is None, "only the fused decoder takes adapters"
        with captured_layers(self.body, captures) as captured:
            out = self.body(
                input_ids=ids_BL, attention_mask=mask, position_ids=positions_BL, past_key_values=cache, use_cache=True
            )
        return TargetStates.of(out.last_hidden_state, [captured[i] for i in captures])


@contextmanager
def captured_layers(body: Any, captures: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Capture the outputs of transformers' layers inside the block; its `hidden_states` are not used, as their last is
    normed.
    """
    captured: dict[int, Tensor] = {}

    def keep(index: int, states: Any) -> None:
        captured[index] = states[0] if isinstance(states, tuple) else states

    handles = [
        body.layers[0].register_forward_pre_hook(lambda _, inputs: keep(0, inputs[0]))
        if index == 0
        else body.layers[index - 1].register_forward_hook(lambda _, __, out, index=index: keep(index, out))
        for index in captures
    ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def rotation(cos_BLd: Tensor, sin_BLd: Tensor) -> tuple[Tensor, Tensor]:
    """Prepare cosines and signed sines for `rotate`, with a dimension for the heads (B, L, 1, d)."""
    half = sin_BLd.shape[-1] // 2
    signed_BLd = torch.cat([-sin_BLd[..., :half], sin_BLd[..., half:]], dim=-1)
    return cos_BLd[:, :, None], signed_BLd[:, :, None]


def rotate(x_BLNd: Tensor, cos_BL1d: Tensor, signed_sin_BL1d: Tensor) -> Tensor:
    """Rotate all heads: x cos + swap(x) sin, where swap exchanges the halves."""
    swapped = x_BLNd.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return torch.addcmul(x_BLNd * cos_BL1d, swapped, signed_sin_BL1d)


class FusedLayer:
    """One decoder layer; built from transformers' module, whose linears it empties as it packs them."""

    def __init__(
        self, layer: Any, index: int, num_heads: int, num_kv_heads: int, head_dim: int, window: int | None
    ) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.window = getattr(attention, "sliding_window", window)  # Mistral's layers take it from the config only
        self.index, self.num_heads, self.num_kv_heads, self.head_dim = index, num_heads, num_kv_heads, head_dim
        self.qkv = AdaptedLinear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = AdaptedLinear([attention.o_proj])
        self.gate_up = AdaptedLinear([mlp.gate_proj, mlp.up_proj])
        self.down = AdaptedLinear([mlp.down_proj])
        self.norm_in = norm_of(layer.input_layernorm)
        self.norm_mlp = norm_of(layer.post_attention_layernorm)
        self.norm_q = norm_of(attention.q_norm) if hasattr(attention, "q_norm") else None
        self.norm_k = norm_of(attention.k_norm) if hasattr(attention, "k_norm") else None

    @property
    def products(self) -> dict[tuple[str, ...], AdaptedLinear]:
        """The products by the names of the linears they are made of."""
        return {
            ("q_proj", "k_proj", "v_proj"): self.qkv,
            ("o_proj",): self.out,
            ("gate_proj", "up_proj"): self.gate_up,
            ("down_proj",): self.down,
        }

    def __call__(
        self,
        x_BLD: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: SlotCache,
        mask: Tensor | None,
        adapters: AdapterRows | None,
    ) -> Tensor:
        """Map hidden states (B, L, D) to (B, L, D)."""
        rows, length, _ = x_BLD.shape
        qkv = self.qkv(rms_norm(x_BLD, self.norm_in), adapters).view(rows, length, -1, self.head_dim)
        value_BLHd = qkv[:, :, self.num_heads + self.num_kv_heads :]
        rotated = rotate(self._normed(qkv[:, :, : self.num_heads + self.num_kv_heads]), cos, sin)
        keys, values = cache.write(rotated[:, :, self.num_heads :], value_BLHd, self.index)
        seen = within(keys, values, mask, self.window)
        attended_BLD = attend(rotated[:, :, : self.num_heads].transpose(1, 2), *seen).transpose(1, 2)
        x_BLD = x_BLD + self.out(attended_BLD.reshape(rows, length, -1), adapters)
        gate, up = self.gate_up(rms_norm(x_BLD, self.norm_mlp), adapters).chunk(2, dim=-1)
        out_BLD: Tensor = x_BLD + self.down(F.silu(gate).mul_(up), adapters)
        return out_BLD

    def _normed(self, qk: Tensor) -> Tensor:
        """Norm each query and key head, as Qwen3 does."""
        if self.norm_q is None or self.norm_k is None:
            return qk
        query, key = qk[:, :, : self.num_heads], qk[:, :, self.num_heads :]
        return torch.cat([rms_norm(query, self.norm_q), rms_norm(key, self.norm_k)], dim=2)


@dataclass(frozen=True)
class Norm:
    """Weight and epsilon of an RMSNorm; the weight is stored twice in a row for `rms_norm`'s bfloat16 form."""

    weight: Tensor
    doubled: Tensor
    epsilon: float

    @property
    def size_bytes(self) -> int:
        """Bytes of the copies."""
        return tensor_bytes(self.doubled)


def norm_of(module: Any, epsilon: float | None = None) -> Norm:
    """Copy weight and epsilon of an RMSNorm module."""
    weight = module.weight.detach()
    return Norm(weight, torch.cat([weight, weight]), module.variance_epsilon if epsilon is None else epsilon)


def rms_norm(x: Tensor, norm: Norm) -> Tensor:
    """Compute RMSNorm over the last dimension; statistics in float32.

    torch has no RMSNorm kernel for CPUs and runs ten operations instead. In bfloat16 the LayerNorm of [x, -x] takes
    three: its mean is zero and its variance is the mean square of x, so its first half is the RMSNorm. The 61 norms are
    a tenth of an autoregressive step of SmolLM2.
    """
    width = x.shape[-1]
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return F.rms_norm(x, (width,), norm.weight, norm.epsilon)
    return F.layer_norm(torch.cat([x, -x], dim=-1), (2 * width,), norm.doubled, None, norm.epsilon)[..., :width]


class FusedDecoder:
    """The whole decoder; transformers' embedding and rotary modules are still used."""

    def __init__(
        self, body: Any, *, num_heads: int, num_kv_heads: int, head_dim: int, window: int | None = None
    ) -> None:
        self.embed, self.rotary = body.embed_tokens, body.rotary_emb
        self.norm = norm_of(body.norm)
        self.layers: list[FusedLayer] = []
        for index, layer in enumerate(body.layers):
            self.layers.append(FusedLayer(layer, index, num_heads, num_kv_heads, head_dim, window))
            layer.to("meta")  # its weights remain in packed form only

    @property
    def size_bytes(self) -> int:
        """Bytes of the products; embedding and norms are not counted."""
        return sum(product.base.size_bytes for layer in self.layers for product in layer.products.values())

    def __call__(
        self,
        ids_BL: Tensor,
        positions_BL: Tensor,
        cache: SlotCache,
        mask: Tensor | None,
        adapters: AdapterRows | None = None,
        captures: Sequence[int] = (),
    ) -> TargetStates:
        """Compute the states (B, L, ..)."""
        x_BLD = self.embed(ids_BL)
        cos, sin = rotation(*self.rotary(x_BLD, positions_BL))
        captured = {0: x_BLD} if 0 in captures else {}
        for index, layer in enumerate(self.layers, start=1):
            x_BLD = layer(x_BLD, cos, sin, cache, mask, adapters)
            if index in captures:
                captured[index] = x_BLD
        return TargetStates.of(rms_norm(x_BLD, self.norm), [captured[i] for i in captures])


def is_fused(model_type: str, hidden_act: str) -> bool:
    """Whether a family uses the fused decoder, and so takes adapters row by row."""
    return model_type in FUSED_FAMILIES and hidden_act == "silu"


def make_decoder(body: Any, config: Any, head_dim: int) -> Decoder:
    """Make the fused decoder if the family has the Llama shape, else one over transformers' modules."""
    if not is_fused(config.model_type, getattr(config, "hidden_act", "silu")):
        return TransformersDecoder(body)
    return FusedDecoder(
        body,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        # Of these families only Mistral's layers read it from the config; a Llama's forward ignores it.
        window=config.sliding_window if config.model_type == "mistral" else None,
    )

"""The config of a new draft for a target: one decoder layer of the target's family, read from the target's config
whatever the family calls its sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from eda_service.config.draft import DraftKind, DraftSpec
from eda_service.drafts.draft_config import DraftConfig, Eagle1Config, Eagle3Config, RopeScaling
from eda_service.errors import TargetIncompatibleError
from eda_service.field_errors import field_error
from eda_service.targets.checks.config_check import EPSILONS
from eda_service.targets.files.shape import head_dim_of

_DEFAULT_EPSILON = 1e-5  # for families whose norm has no setting (OLMo)
_DEFAULT_THETA = 1e4  # RoFormer's value, for families that do not rotate


def draft_shape(
    config: Any,
    spec: DraftSpec | None = None,
    draft_vocab_size: int | None = None,
) -> DraftConfig:
    """Make the config of a draft for a target.

    Args:
        config: The target's config, as transformers reads it.
        spec: Kind and layers of the draft; None: EAGLE-1.
        draft_vocab_size: Number of tokens that a head of the draft's own scores; None: all.

    Raises:
        TargetIncompatibleError: The config does not name a size that a draft needs.
    """
    try:
        heads = int(config.num_attention_heads)
        base = Eagle1Config(
            hidden_size=config.hidden_size,
            num_heads=heads,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=_even(head_dim_of(config)),
            expert_width=_width(config),
            vocab_size=config.vocab_size,
            rope_theta=_theta(config),
            rms_norm_eps=_epsilon(config),
        )
        if spec is None or spec.kind is DraftKind.EAGLE1:
            return base
        return Eagle3Config(
            **base.model_dump(),
            layers=_layers(spec, config.num_hidden_layers),
            draft_vocab_size=min(draft_vocab_size or base.vocab_size, base.vocab_size),
        )
    except ValidationError as error:
        first = error.errors()[0]
        problem = field_error(first, name=".".join(map(str, first["loc"])))
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        problem = str(error)[:200]
    raise TargetIncompatibleError(
        f"no base draft can be shaped for a target of type {getattr(config, 'model_type', None)}: {problem}; correct "
        "its config.json, or pretrain for a target of a family that docs/reference/families.md lists",
        param="target.model",
    )


def _layers(spec: DraftSpec, num_layers: int) -> tuple[int, ...]:
    """Return the layers asked for, or those that every published EAGLE-3 draft reads by default."""
    layers = spec.layers if spec.layers is not None else tuple(sorted({2, num_layers // 2, num_layers - 3}))
    if layers[0] < 0 or layers[-1] > num_layers or (spec.layers is None and len(layers) < 3):
        raise ValueError(
            f"draft.layers {list(layers)} do not suit {num_layers} layers; name some from 0 to {num_layers}"
        )
    return layers


def _even(head_dim: int) -> int:
    """Check that the head width is even: rotation exchanges the halves of a head."""
    if head_dim % 2:
        raise ValueError(f"head_dim is {head_dim}, a draft rotates halves of a head and needs an even one")
    return head_dim


def _width(config: Any) -> int:
    """Return the width of the FFN: of the widest layer if layers differ; if the config names only the width of experts,
    of the experts that a token uses together.
    """
    width = getattr(config, "intermediate_size", None)
    if width is None:
        expert = getattr(config, "moe_intermediate_size", None)
        width = None if expert is None else expert * (getattr(config, "num_experts_per_tok", None) or 1)
    if width is None:
        raise ValueError("it has neither intermediate_size nor moe_intermediate_size")
    return int(max(width)) if isinstance(width, list | tuple) else int(width)


def target_rope(config: Any) -> tuple[float, RopeScaling | None]:
    """Return the rotary base of a target and its scaling; the scaling is also None if no draft can have it.

    Args:
        config: The target's config, as transformers reads it.
    """
    rope = _rope(config)
    values = {name: rope[name] for name in RopeScaling.model_fields if rope.get(name) is not None}
    values.setdefault("original_max_position_embeddings", getattr(config, "max_position_embeddings", None))
    try:
        return _theta(config), RopeScaling.model_validate(values)
    except ValidationError:
        return _theta(config), None


def _rope(config: Any) -> Mapping[str, Any]:
    """Return the config's settings of rotation; of the layers with full attention if the kinds of layers differ."""
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    kinds = [value for value in rope.values() if isinstance(value, Mapping)]
    return (rope.get("full_attention") or kinds[0]) if kinds else rope


def _theta(config: Any) -> float:
    """Return the rotary base."""
    found = _rope(config).get("rope_theta")
    if found is None:
        found = getattr(config, "rope_theta", None)
    return _DEFAULT_THETA if found is None else float(found)


def _epsilon(config: Any) -> float:
    values = (getattr(config, name, None) for name in EPSILONS)
    return float(next((value for value in values if value is not None), _DEFAULT_EPSILON))

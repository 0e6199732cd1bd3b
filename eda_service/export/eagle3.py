"""EAGLE-3 as engines load it: the same computation in the parts that an engine has, in a dialect that it reads.

Shapes: D hidden, V vocabulary, W draft vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eda_service.drafts.dialects import names
from eda_service.drafts.dialects.record import BaseTarget, Dialect, DialectRecord
from eda_service.drafts.dialects.write import DialectForm, dialect_form
from eda_service.drafts.draft_config import Eagle3Config
from eda_service.export.files.eda_config import Destination, ExportForm
from eda_service.export.files.values import widest
from eda_service.export.vllm_plugin import EAGLE3_ARCHITECTURE, EAGLE3_QWEN3_ARCHITECTURE
from eda_service.targets.head import LmHead

_ADDED = "lm_head_added.weight"
"""Rows that an adaptation added after those of the draft's own head."""
_VLLM_LLAMA = (["LlamaForCausalLM"], ["LlamaForCausalLMEagle3"], ["Eagle3LlamaForCausalLM"])
"""Architecture names under which vLLM finds its Llama class."""


@dataclass(frozen=True)
class Eagle3Parts:
    """The contents of the file.

    Attributes:
        config: Config with the added parts.
        tensors: Tensors by their names here, with the vocabulary's two maps unless it is all tokens in order.
    """

    config: Eagle3Config
    tensors: dict[str, Tensor]


def engine_parts(
    config: Eagle3Config,
    tensors: Mapping[str, Tensor],
    vocab_W: Tensor | None,
    lm_head: LmHead,
    destination: Destination,
    dialect: Dialect,
    came: Mapping[str, Tensor],
) -> Eagle3Parts:
    """Turn the draft into the parts that an engine has.

    Rows that were added to its head follow the others. Biases that an engine always has together with one of the
    draft's are zeros; one norm over the whole input of fc is `input_norm` everywhere except in DeepSpec; rows of the
    target's head are included, because engines do not select them.

    Args:
        config: Config of the draft as it is exported.
        tensors: Tensors of the draft by name.
        vocab_W: Tokens that the draft scores; None: all in order.
        lm_head: Head of the target.
        destination: Engine that will load it.
        dialect: Dialect of the export.
        came: Imported `d2t` and `t2d`, reused if they mean the same vocabulary.
    """
    made = dict(tensors)
    changes: dict[str, Any] = {}
    if config.fc_norm == "joint" and not config.norm_before_fc and dialect is not Dialect.DEEPSPEC:
        made[names.INPUT_NORM] = made.pop(names.JOINT_NORM)
        changes |= {"fc_norm": "none", "norm_before_fc": True}
    if _ADDED in made:
        made[names.HEAD] = torch.cat([made[names.HEAD], made.pop(_ADDED).to(made[names.HEAD].dtype)])
    dtype = widest(made)
    if destination is not Destination.HF:
        # SGLang takes the target's head only if a file names no vocabulary.
        if not config.own_head and (vocab_W is not None or destination is Destination.SGLANG):
            made[names.HEAD] = lm_head.take(vocab_W).rows_VD.detach().to("cpu", dtype).contiguous()
            changes["own_head"] = True
        changes |= _biases(config, destination, made, dtype)
    if vocab_W is not None:
        changes["draft_vocab_size"] = len(vocab_W)
        made |= _maps(vocab_W, config.vocab_size, came)
    return Eagle3Parts(config.model_copy(update=changes), made)


def _biases(
    config: Eagle3Config, destination: Destination, made: dict[str, Tensor], dtype: torch.dtype
) -> dict[str, bool]:
    """Choose the biases: vLLM's Llama class has all four of the attention or none; SGLang's may have the last if fc has
    one.
    """
    if destination is Destination.SGLANG:
        if config.fc_bias:
            made[names.attention("o", "bias")] = torch.zeros(config.hidden_size, dtype=dtype)
        return {"o_bias": config.fc_bias}
    if config.qk_norm or config.qkv_bias == config.o_bias:
        return {}
    missing = "qkv" if config.o_bias else "o"
    for each in missing:
        made[names.attention(each, "bias")] = torch.zeros(made[names.attention(each)].shape[0], dtype=dtype)
    return {"qkv_bias": True, "o_bias": True}


def _maps(vocab_W: Tensor, vocab_size: int, came: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ids_W = vocab_W.cpu().long()
    marks_V = torch.zeros(vocab_size, dtype=torch.bool)
    marks_V[ids_W] = True
    made = {names.D2T: ids_W - torch.arange(len(ids_W)), names.T2D: marks_V}
    for name, tensor in made.items():
        other = came.get(name)
        if other is not None and torch.equal(other.to(tensor.dtype), tensor):
            made[name] = other
    return made


def written_form(
    parts: Eagle3Parts,
    dialect: Dialect,
    target: BaseTarget,
    record: DialectRecord | None,
    destination: Destination,
    form: ExportForm,
    *,
    target_model: str,
) -> DialectForm:
    """Make `config.json` and the names for the destination.

    Raises:
        TargetIncompatibleError: The dialect cannot express what the draft computes.
    """
    config, dtype = parts.config, str(widest(parts.tensors)).removeprefix("torch.")
    is_plugin, for_engine = form is ExportForm.PLUGIN, destination is not Destination.HF
    made = dialect_form(
        config,
        dialect,
        target,
        dtype=dtype,
        target_model=target_model,
        record=None if is_plugin else record,
        for_engine=for_engine,
    )
    architectures = made.config["architectures"]
    if destination is Destination.SGLANG:
        architectures = ["LlamaForCausalLMEagle3"]
    elif is_plugin:
        architectures = [EAGLE3_QWEN3_ARCHITECTURE if config.qk_norm else EAGLE3_ARCHITECTURE]
    elif destination is Destination.VLLM and dialect is not Dialect.SPECULATORS:
        if config.qk_norm:
            architectures = ["Eagle3Qwen3ForCausalLM"]
        elif architectures not in _VLLM_LLAMA:
            architectures = ["Eagle3LlamaForCausalLM"]
    made.config["architectures"] = architectures
    return made

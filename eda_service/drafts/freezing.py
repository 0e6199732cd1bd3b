"""Trained parameters by method, and the proof that all other parameters stayed unchanged.

| method  | trained                                   |
|---------|-------------------------------------------|
| eda     | private expert and gate (by option fc,    |
|         | attention)                                |
| full_ft | everything, from the base draft           |
| retrain | everything, from random weights but a     |
|         | head of the draft's own                   |
| lora    | low-rank updates of every linear layer    |
|         | but a head of the draft's own             |

No method trains an embedding of the draft's own; every method trains the rows added to its head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from eda_service.config.job import Method, TrainConfig
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import PrivateConfig


def is_within(name: str, modules: Iterable[str]) -> bool:
    """Whether a tensor or module is one of these modules or inside one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def prepare(draft: Draft, config: TrainConfig, *, seed: int) -> Draft:
    """Give a base draft the form that its training method needs, with gradients on exactly the trained parameters.

    Args:
        draft: Base draft, changed in place.
        config: Method, mix, private width, fc.
        seed: Seed of new weights.
    """
    torch.manual_seed(seed)
    if config.extend_draft_vocab:
        draft.extend_head(config.extend_draft_vocab)
    draft.requires_grad_(False)
    if config.method is Method.EDA:
        draft.add_private(PrivateConfig.of(draft.config, config))
        places = draft.places
        trained = [f"{places.ffn}.private", f"{places.ffn}.gate"]
        trained += places.fuse if config.train_fc else ()
        trained += places.attention if config.train_attention else ()
        for name, parameter in draft.named_parameters():
            parameter.requires_grad_(is_within(name, trained))
    elif config.method is Method.LORA:
        _add_lora(draft, config.lora_rank)
    else:
        if config.method is Method.RETRAIN:
            _reinitialise(draft)
        for name, parameter in draft.named_parameters():
            parameter.requires_grad_(not is_within(name, [draft.places.embedding]))
    for name, parameter in draft.named_parameters():
        if is_within(name, [draft.places.added_head]):
            parameter.requires_grad_(True)
    return draft


def _add_lora(draft: Draft, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    linears = [name for name, module in draft.named_modules() if isinstance(module, nn.Linear)]
    changed = [name for name in linears if not is_within(name, draft.places.head)]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=changed), draft)


def _reinitialise(draft: Draft) -> None:
    for name, module in draft.named_modules():
        if is_within(name, draft.places.head):
            continue
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)


def trained_state(draft: Draft) -> dict[str, Tensor]:
    """Copy the trained tensors to the CPU, by name."""
    return {name: p.detach().cpu().contiguous() for name, p in draft.named_parameters() if p.requires_grad}


def frozen_sha256(draft: Draft, dtype: torch.dtype | None = None) -> str:
    """Hash the names and bytes of every frozen parameter, as they are or cast to a dtype."""
    digest = hashlib.sha256()
    for name, parameter in sorted(draft.named_parameters()):
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().to("cpu", dtype).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_parameters(draft: Draft) -> tuple[int, int]:
    """Return the numbers of all and of trainable parameters."""
    parameters = list(draft.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)

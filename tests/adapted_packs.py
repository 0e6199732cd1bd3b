"""A published pack with real weights over a registered base draft, as an adaptation might have left it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pack_files import put_pack
from torch import Tensor

from eda_service.config.job import TrainConfig
from eda_service.drafts.checkpoint import load_base_draft, save_pack
from eda_service.drafts.freezing import prepare
from eda_service.targets.loader import Target


def publish_adapted(
    home: Path,
    base_dir: Path,
    target: Target,
    train: TrainConfig,
    *,
    vocab_W: Tensor | None = None,
    std: float = 0.05,
    name: str = "adapted",
    **pack: Any,
) -> str:
    """Publish the next version; returns name@version.

    Args:
        home: Root of the registry.
        base_dir: Of a base draft in that home.
        target: What the pack is for.
        train: Method, mix, width.
        vocab_W: Draft vocabulary.
        std: How far the trained tensors are moved from where training starts; a gate ten times as far, so that it
            varies with its input.
        name: Of the pack.
        pack: More of what `put_pack` takes.
    """
    draft = prepare(load_base_draft(base_dir, dtype=torch.float32).draft, train, seed=1)
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, parameter in draft.named_parameters():
            if parameter.requires_grad:
                scale = 10 * std if ".mlp.gate." in key else std
                parameter.add_(torch.randn(parameter.shape, generator=rng) * scale)
    files = home / f"files-{name}"
    files.mkdir(exist_ok=True)
    save_pack(files, draft, train, vocab_W)
    base = f"{base_dir.parent.name}@{base_dir.name}"
    made = {"files": files, "target": target.fingerprint, "base_draft": base, "method": train.method.value}
    return put_pack(home, name, 2.0, **{**made, **pack})

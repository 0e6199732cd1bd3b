"""What a training worker is given, and how it becomes a draft in training form with the target's two ends."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eda_service.config.job import AdaptConfig, TrainConfig
from eda_service.records import FileEntry, Stage
from eda_service.storage.registry import find_draft
from eda_service.storage.run import RunDir
from eda_service.targets.head import LmHead
from eda_service.targets.packed import native_bfloat16


@dataclass
class Payload:
    """What a worker is given: paths and values, no tensors.

    Attributes:
        run_root: The job's directory.
        out_dir: Of the train stage.
        data_dir: Holds the compact set.
        shards: (name, number of samples) of it, in order.
        io_path: The target's embedding and head.
        start_dir: Draft to start from.
        vocab_path: Draft vocabulary; None: the target's.
        inputs: Files by stage that have to be on the worker's machine.
    """

    run_root: str
    out_dir: str
    data_dir: str
    shards: list[tuple[str, int]]
    io_path: str
    start_dir: str
    vocab_path: str | None
    inputs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def fetched(self, config: AdaptConfig) -> Payload:
        """The same, once everything it names is on this machine."""
        run = RunDir(Path(self.run_root))
        for stage, entries in self.inputs.items():
            run.store.fetch(Stage(stage), [FileEntry(**entry) for entry in entries])
        if Path(self.start_dir).exists():
            return self
        return replace(self, start_dir=str(find_draft(config.base_draft)))


def load_heads(
    payload: Payload, vocab_W: Tensor | None, *, dtype: torch.dtype, device: torch.device
) -> tuple[nn.Embedding, LmHead]:
    """The target's embedding, and its head's rows of the draft vocabulary."""
    from eda_service.targets.io import load_io

    embed, lm_head = load_io(Path(payload.io_path), dtype=dtype, device=device)
    return embed, lm_head.take(vocab_W)


def is_mixed(config: TrainConfig) -> bool:
    """Whether products run in bfloat16 on float32 weights. On a GPU DeepSpeed's own bf16 mode does it."""
    if config.use_gpu or config.precision == "float32":
        return False
    return config.precision == "bfloat16" or native_bfloat16()


def build_draft(payload: Payload, config: TrainConfig, seed: int) -> tuple[Any, Tensor | None]:
    """The draft in the form its method trains, and its vocabulary."""
    from safetensors.torch import load_file

    from eda_service.drafts.checkpoint import load_base_draft
    from eda_service.drafts.freezing import prepare

    loaded = load_base_draft(Path(payload.start_dir), dtype=torch.float32)
    vocab_W = load_file(payload.vocab_path)["draft_vocab"] if payload.vocab_path else None
    return prepare(loaded.draft, config, seed=seed), vocab_W

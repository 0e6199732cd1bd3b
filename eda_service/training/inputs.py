"""What a training run is given, and how it becomes a draft in training form with the target's two ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from eda_service.config.job import AdaptConfig, TrainConfig
from eda_service.drafts.checkpoint import LoadedDraft, load_base_draft
from eda_service.drafts.draft import Draft
from eda_service.drafts.freezing import prepare
from eda_service.records import FileEntry, Stage
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.run import RunDir
from eda_service.targets.decoder.packed import native_bfloat16
from eda_service.targets.head import LmHead


@dataclass(frozen=True)
class TrainInputs:
    """What every worker of a run is given: the config and paths, no tensors.

    Attributes:
        config: The job's config.
        run_root: The job's directory.
        data_dir: Holds the compact set.
        shards: (name, number of samples) of it, in order.
        io_path: The target's embedding and head.
        start_dir: Draft to start from.
        vocab_path: Draft vocabulary; None: the target's.
        files: What has to be on the worker's machine, by stage.
    """

    config: AdaptConfig
    run_root: Path
    data_dir: Path
    shards: tuple[tuple[str, int], ...]
    io_path: Path
    start_dir: Path
    vocab_path: Path | None = None
    files: Mapping[Stage, tuple[FileEntry, ...]] = field(default_factory=dict)

    @property
    def run(self) -> RunDir:
        """The job."""
        return RunDir(self.run_root)

    def fetched(self) -> TrainInputs:
        """The same, once everything it names is on this machine."""
        for stage, entries in self.files.items():
            self.run.store.fetch(stage, list(entries))
        if self.start_dir.exists():
            return self
        return replace(self, start_dir=find_draft(self.config.base_draft))


@dataclass(frozen=True)
class SharedEnds:
    """What a draft shares with its target, as training needs it.

    Attributes:
        embed: Its embedding.
        lm_head: Its head's rows of the draft vocabulary.
    """

    embed: nn.Embedding
    lm_head: LmHead


def load_ends(inputs: TrainInputs, vocab_W: Tensor | None, *, dtype: torch.dtype, device: torch.device) -> SharedEnds:
    """The target's two ends, where the draft is trained."""
    from eda_service.targets.ends_file import load_io

    embed, lm_head = load_io(inputs.io_path, dtype=dtype, device=device)
    return SharedEnds(embed, lm_head.take(vocab_W))


def is_bfloat16(config: TrainConfig) -> bool:
    """Whether matrix products run in bfloat16."""
    if config.precision == "auto":
        return config.use_gpu or native_bfloat16()
    return config.precision == "bfloat16"


def trained_form(inputs: TrainInputs) -> LoadedDraft:
    """The draft in the form its method trains, rows that are added to its head at zero."""
    loaded = load_base_draft(inputs.start_dir, dtype=torch.float32)
    return LoadedDraft(prepare(loaded.draft, inputs.config.train, seed=inputs.config.seed), loaded.vocab_W)


def build_draft(inputs: TrainInputs) -> tuple[Draft, Tensor | None]:
    """The draft as training begins, and its vocabulary."""
    from safetensors.torch import load_file

    loaded, train = trained_form(inputs), inputs.config.train
    draft = loaded.draft
    vocab_W = load_file(inputs.vocab_path)["draft_vocab"] if inputs.vocab_path else None
    if draft.places.head and vocab_W is None:
        vocab_W = loaded.vocab_W  # the rows of its own head
    if train.extend_draft_vocab and vocab_W is not None:
        from eda_service.targets.ends_file import load_io

        _, lm_head = load_io(inputs.io_path, dtype=torch.float32, device=torch.device("cpu"))
        draft.begin_added(lm_head.take(vocab_W[-train.extend_draft_vocab :]))
    return draft, vocab_W

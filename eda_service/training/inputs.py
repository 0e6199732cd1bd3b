"""The inputs of a training run, and the draft in training form with the target's embedding and head made from them."""

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
    """The inputs of every worker of a run: config and paths, no tensors.

    Attributes:
        config: The job's config.
        run_root: Directory of the job.
        data_dir: Directory of the compact set.
        shards: (name, number of samples) of each shard, in order.
        io_path: File of the target's embedding and head.
        start_dir: Directory of the draft that training starts from.
        vocab_path: File of the draft vocabulary; None: the target's vocabulary.
        files: Files needed on the worker's machine, by stage.
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
        """The job's run directory."""
        return RunDir(self.run_root)

    def fetched(self) -> TrainInputs:
        """Fetch everything that the inputs name to this machine; return the inputs."""
        for stage, entries in self.files.items():
            self.run.store.fetch(stage, list(entries))
        if self.start_dir.exists():
            return self
        return replace(self, start_dir=find_draft(self.config.base_draft))


@dataclass(frozen=True)
class SharedEnds:
    """The target's modules that training a draft needs.

    Attributes:
        embed: The target's embedding.
        lm_head: Rows of the target's head for the draft vocabulary.
    """

    embed: nn.Embedding
    lm_head: LmHead


def load_ends(inputs: TrainInputs, vocab_W: Tensor | None, *, dtype: torch.dtype, device: torch.device) -> SharedEnds:
    """Load the target's embedding and head to the device of the training."""
    from eda_service.targets.ends_file import load_io

    embed, lm_head = load_io(inputs.io_path, dtype=dtype, device=device)
    return SharedEnds(embed, lm_head.take(vocab_W))


def is_bfloat16(config: TrainConfig) -> bool:
    """Whether matrix products run in bfloat16."""
    if config.precision == "auto":
        return config.use_gpu or native_bfloat16()
    return config.precision == "bfloat16"


def trained_form(inputs: TrainInputs) -> LoadedDraft:
    """Make the draft in the form that its method trains; rows added to its head are zero."""
    loaded = load_base_draft(inputs.start_dir, dtype=torch.float32)
    return LoadedDraft(prepare(loaded.draft, inputs.config.train, seed=inputs.config.seed), loaded.vocab_W)


def build_draft(inputs: TrainInputs) -> tuple[Draft, Tensor | None]:
    """Make the draft as it is before the first step; return it with its vocabulary."""
    from safetensors.torch import load_file

    loaded, train = trained_form(inputs), inputs.config.train
    draft = loaded.draft
    vocab_W = load_file(inputs.vocab_path)["draft_vocab"] if inputs.vocab_path else None
    if draft.places.head and vocab_W is None:
        vocab_W = loaded.vocab_W  # rows of the draft's own head
    if train.extend_draft_vocab and vocab_W is not None:
        from eda_service.targets.ends_file import load_io

        _, lm_head = load_io(inputs.io_path, dtype=torch.float32, device=torch.device("cpu"))
        draft.begin_added(lm_head.take(vocab_W[-train.extend_draft_vocab :]))
    return draft, vocab_W

"""A training run of one worker from its inputs to its outcome; the caller may be any worker group."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from eda_service.drafts.freezing import frozen_sha256
from eda_service.errors import NonFiniteLossError
from eda_service.storage.runs.state import Diverged, Trained
from eda_service.training.backend import Backend
from eda_service.training.backends import open_backend
from eda_service.training.checkpoints import Checkpoints
from eda_service.training.inputs import TrainInputs, build_draft
from eda_service.training.log import TrainLog
from eda_service.training.loop import Loop
from eda_service.training.tracking import open_trackers


def train(inputs: TrainInputs, checkpoints: Checkpoints) -> Trained | Diverged:
    """Train; rank 0 writes the curve, the best weights and at the end `train/outcome.json`, whose content is returned.

    Args:
        inputs: The run's config and paths; the files are on this machine.
        checkpoints: Checkpoints of the run, to resume from and to write.
    """
    config, run = inputs.config.train, inputs.run
    torch.set_num_threads(config.threads_per_worker)
    draft, vocab_W = build_draft(inputs)
    before = frozen_sha256(draft)
    backend = open_backend(draft, vocab_W, config)
    if config.use_gpu:  # the backend's weights may have another dtype
        before = _frozen(backend)
    trackers = open_trackers(run, inputs.config) if backend.rank == 0 else nullcontext()
    with trackers as report:
        log = TrainLog(run, report)
        try:
            state = Loop(inputs, backend, vocab_W, checkpoints, log).fit()
        except NonFiniteLossError as error:
            # Returned, not raised: a restarted group would take the same steps and end in the same way.
            outcome: Trained | Diverged = Diverged(failure=error.message)
        else:
            outcome = Trained(**state.to_dict(), frozen_before=before, frozen_after=_frozen(backend))
    log.share()
    if backend.rank == 0:
        # In a file, because Ray Train keeps only metrics that are reported with a checkpoint.
        run.write(outcome)
    return outcome


def _frozen(backend: Backend) -> str:
    """Hash the draft's frozen weights; all workers call it together."""
    with backend.whole_weights():
        return frozen_sha256(backend.draft)

"""The training loop of one worker: epochs, then those of repair; validation by simulated acceptance, best weights,
early stopping, resume.

All decisions follow from the inputs and the checkpoint, so a run that is restarted after a crash continues as if it had
not been interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from eda_service.errors import ArtifactCorruptError
from eda_service.training.accumulate import num_parts, split
from eda_service.training.backend import Backend, Part, Step
from eda_service.training.batches import Batch, epoch_batches, split_heldout, worker_share
from eda_service.training.best import keep_best
from eda_service.training.checkpoints import Checkpoints
from eda_service.training.dataset import CompactSet
from eda_service.training.inputs import TrainInputs, load_ends
from eda_service.training.log import TrainLog
from eda_service.training.loss import mixed_precision
from eda_service.training.schedule import SIMULATED_DEPTH, has_stopped_improving, learning_rate
from eda_service.training.simulate import simulated_acceptance_length
from eda_service.training.state import TrainState

_HELDOUT_BATCH = 16


class Loop:
    """The training run of one worker.

    Args:
        inputs: The run's config and data.
        backend: Backend that takes the optimizer steps.
        vocab_W: Draft vocabulary; None: the target's.
        checkpoints: Checkpoints of the run, to resume from and to write.
        log: Log of losses and progress.
    """

    def __init__(
        self, inputs: TrainInputs, backend: Backend, vocab_W: Tensor | None, checkpoints: Checkpoints, log: TrainLog
    ) -> None:
        self._run, self._seed, self._config = inputs.run, inputs.config.seed, inputs.config.train
        self._backend, self._vocab_W, self._checkpoints, self._log = backend, vocab_W, checkpoints, log
        self._dtype = next(backend.draft.parameters()).dtype
        self._ends = load_ends(inputs, vocab_W, dtype=self._dtype, device=backend.device)
        self._data = CompactSet(inputs.data_dir, inputs.shards)
        self._train_ids, self._heldout_ids = split_heldout(
            self._data.prompts(), self._config.heldout_fraction, seed=self._seed
        )
        self._steps_per_epoch = -(-len(self._train_ids) // self._config.batch_size)
        self._num_epochs = self._config.epochs + self._config.repair_epochs
        self._total_steps = self._steps_per_epoch * self._num_epochs
        self._state, self._began = TrainState(), time.monotonic()

    def fit(self) -> TrainState:
        """Train all epochs and return the final state.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite.
        """
        self._start()
        config, lengths = self._config, self._data.lengths(self._train_ids)
        for epoch in range(self._state.step // self._steps_per_epoch, self._num_epochs):
            if has_stopped_improving(
                self._state.step,
                self._state.best_step,
                steps_per_epoch=self._steps_per_epoch,
                patience=config.early_stopping_patience,
            ):
                self._log.stopped_early(self._state.step, self._state.best_step)
                break
            batches = epoch_batches(lengths, config.batch_size, seed=self._seed, epoch=epoch)
            for batch in batches[self._state.step - epoch * self._steps_per_epoch :]:
                self._step([self._train_ids[i] for i in batch])
                if self._state.step % config.checkpoint_every_steps == 0 and self._state.step < self._total_steps:
                    self._checkpoint()
            self._evaluate()
        self._state.seconds = self._seconds()
        return self._state

    def _start(self) -> None:
        """Resume from the last checkpoint if there is one, otherwise measure the base draft's acceptance."""
        with self._checkpoints.latest() as directory:
            if directory is None:
                self._log.begin()
                self._state.initial_acceptance = self._evaluate()
                self._began = time.monotonic()
                return
            self._state = TrainState.of_checkpoint(self._backend.load(directory))
        self._state.restarts += 1
        self._log.resume(self._state.step)
        self._began = time.monotonic() - self._state.seconds
        if self._state.step % self._steps_per_epoch == 0:
            self._evaluate()  # a checkpoint at the end of an epoch was written before the epoch was evaluated

    def _step(self, indices: Sequence[int]) -> None:
        """Take one optimizer step on this worker's share of a batch."""
        config, backend, state = self._config, self._backend, self._state
        rate = learning_rate(
            state.step, self._total_steps, peak=config.learning_rate, warmup_fraction=config.warmup_fraction
        )
        share = worker_share(indices, backend.rank, backend.world_size)
        parts = [
            Part(self._load(part or share[:1]), counts=bool(part))
            for part in split(share, num_parts(config, backend.world_size))
        ]
        # Feature noise of a step is the same whether the run came here at once or was resumed.
        torch.manual_seed((self._seed << 20) + state.step * backend.world_size + backend.rank)
        is_repair = state.step >= config.epochs * self._steps_per_epoch
        losses = backend.step(Step(state.step, parts, rate, is_repair), self._ends)
        state.step += 1
        if state.step % max(1, self._steps_per_epoch // 4) == 0:
            self._log.step(state.step, losses, rate, self._seconds())
        self._log.progress(state.step, self._total_steps)

    def _evaluate(self) -> float:
        """Measure simulated acceptance on held-out samples; rank 0 keeps the best weights."""
        backend, state = self._backend, self._state
        ids = self._heldout_ids or self._train_ids[:_HELDOUT_BATCH]
        batches = (self._load(ids[i : i + _HELDOUT_BATCH]) for i in range(0, len(ids), _HELDOUT_BATCH))
        with mixed_precision(backend.device, backend.mixed):
            value = simulated_acceptance_length(
                backend.draft, batches, self._ends.embed, self._ends.lm_head, depth=SIMULATED_DEPTH
            )
        # All workers get the same number, so that every worker keeps the same weights and stops at the same epoch.
        value = backend.mean(torch.tensor(value, dtype=torch.float64, device=backend.device))
        if value > state.best_acceptance:
            state.best_acceptance, state.best_step = value, state.step
            with backend.whole_weights():  # after the forwards, which release the weights that ZeRO-3 has gathered
                if backend.rank == 0:
                    keep_best(self._run, backend.draft, self._config, self._vocab_W)
        self._log.acceptance(state.step, value, self._seconds())
        return value

    def _checkpoint(self) -> None:
        """Write weights, optimizer and state, to resume from after a crash."""
        self._state.seconds = self._seconds()
        values = self._state.to_dict()
        self._checkpoints.keep(self._state.step, lambda directory: self._backend.save(directory, values))

    def _load(self, indices: Sequence[int]) -> Batch:
        """Read a batch to the worker's device."""
        batch = self._data.batch(indices, max_tokens=self._config.max_tokens, dtype=self._dtype)
        shape = self._backend.draft.config
        width = shape.hidden_size if batch.is_started else shape.feature_width
        if batch.is_started != shape.is_started(self._config) or batch.features_BLD.shape[2] != width:
            raise ArtifactCorruptError(
                f"the samples hold {batch.features_BLD.shape[2]} numbers a token, "
                f"{'of the draft' if batch.is_started else 'of the target'}, and this draft trained like this reads "
                f"{shape.hidden_size if shape.is_started(self._config) else shape.feature_width}; generate them again "
                "with the settings that are trained"
            )
        return batch.to(self._backend.device)

    def _seconds(self) -> float:
        """Return the seconds in the loop so far, earlier starts included."""
        return time.monotonic() - self._began

"""One Ray Train worker: `deepspeed.initialize`, the epoch loop, checkpoints, best weights by simulated acceptance.

Runs in every worker of the group; rank 0 writes the curve and the best weights. Everything it decides follows from the
payload and the checkpoint, so a group restarted after a crash goes on as if nothing had happened.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eda_service.config.job import AdaptConfig
from eda_service.drafts.checkpoint import save_pack
from eda_service.drafts.freezing import frozen_sha256
from eda_service.errors import ArtifactCorruptError, NonFiniteLossError
from eda_service.pipeline.deepspeed_config import (
    deepspeed_config,
    prepare_environment,
    whole_parameters,
    without_cpu_kernels,
)
from eda_service.pipeline.train_inputs import Payload, build_draft, is_mixed, load_heads
from eda_service.pipeline.train_log import TrainLog
from eda_service.pipeline.train_state import TrainState
from eda_service.planning.estimate import SIMULATED_DEPTH
from eda_service.records import Stage
from eda_service.storage.files import file_entry
from eda_service.storage.run import RunDir
from eda_service.storage.state import Best, Diverged, Trained
from eda_service.training.accumulate import num_parts, split, step_counts
from eda_service.training.batches import Batch, epoch_batches, split_heldout, worker_share
from eda_service.training.dataset import CompactSet
from eda_service.training.loss import DraftLoss, Losses, mixed_precision
from eda_service.training.schedule import has_stopped_improving, learning_rate
from eda_service.training.simulate import simulated_acceptance_length

if TYPE_CHECKING:
    from ray.train import Checkpoint

_HELDOUT_BATCH = 16


class Worker:
    """The training loop of one rank."""

    def __init__(self, payload: Payload, config: AdaptConfig, draft_loss: DraftLoss, vocab_W: Tensor | None) -> None:
        import deepspeed
        from ray import train

        context = train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.config, self.train_config, self.payload = config, config.train, payload
        self.run = RunDir(Path(payload.run_root))
        self.out_dir = Path(payload.out_dir)
        self.data = CompactSet(Path(payload.data_dir), payload.shards)
        self.is_early = payload.early_of is not None
        fraction = 0.0 if self.is_early else config.train.heldout_fraction
        seen = frozenset(CompactSet(Path(payload.early_dir), payload.early_shards).prompts())
        self.train_ids, self.heldout_ids = split_heldout(self.data.prompts(), fraction, seed=config.seed, seen=seen)
        parameters = [p for p in draft_loss.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.train.weight_decay)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=draft_loss,
            optimizer=optimizer,
            model_parameters=parameters,
            config=deepspeed_config(config.train, self.world),
            dist_init_required=False,
        )
        self.draft, self.mixed = self.engine.module.draft, draft_loss.mixed
        self.device = self.engine.device
        self.dtype = next(self.draft.parameters()).dtype
        self.embed, self.lm_head = load_heads(payload, vocab_W, dtype=self.dtype, device=self.device)
        self.vocab_W = vocab_W
        self.state = TrainState()
        self.log = TrainLog(self.run, config, is_first=self.rank == 0, is_early=self.is_early)
        self._checkpointed = 0
        self._began = time.monotonic()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-len(self.train_ids) // self.train_config.batch_size)

    @property
    def epochs(self) -> int:
        """Epochs of this group."""
        config = self.train_config
        if self.is_early:
            return config.early_epochs
        return config.late_epochs if self.payload.early_steps else config.epochs

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.payload.early_of or self.payload.early_steps + self.steps_per_epoch * self.epochs

    def load(self, indices: list[int]) -> Batch:
        """Read a batch on to the worker's device."""
        batch = self.data.batch(indices, max_tokens=self.train_config.max_tokens, dtype=self.dtype)
        return Batch(**{name: tensor.to(self.device) for name, tensor in vars(batch).items()})

    def fit(self) -> dict[str, Any]:
        """All epochs; returns the final state."""
        self._start()
        lengths, before = self.data.lengths(self.train_ids), self.payload.early_steps
        for epoch in range((self.state.step - before) // self.steps_per_epoch, self.epochs):
            if self._has_stopped_improving():
                self.log.stopped_early(self.state.step, self.state.best_step)
                break
            batches = epoch_batches(lengths, self.train_config.batch_size, seed=self.config.seed, epoch=epoch)
            for batch in batches[self.state.step - before - epoch * self.steps_per_epoch :]:
                self._step([self.train_ids[i] for i in batch])
            if not self.is_early:
                self._evaluate()
        if self.is_early:
            self._checkpoint()
        self.state.seconds = self._seconds()
        return self.state.to_dict()

    def _start(self) -> None:
        """Go on from the last checkpoint, if there is one. The base draft's acceptance is measured before the first
        step; after early training, which holds nothing out, by the group that takes its checkpoint over.
        """
        from ray import train

        checkpoint = train.get_checkpoint()
        early = self.payload.early_steps
        taken_over = checkpoint is not None and early > 0 and Path(checkpoint.path).name == _checkpoint_name(early)
        if checkpoint is None and early:
            raise ArtifactCorruptError("the checkpoint that early training left is gone; submit the job anew")
        if checkpoint is None or taken_over:
            self.log.begin(early)
            if not self.is_early:
                self.state.initial_acceptance = self._evaluate()
        if checkpoint is not None:
            self._resume(checkpoint, taken_over=taken_over)
        self._began = time.monotonic() - self.state.seconds
        # A checkpoint at the end of an epoch was written before the epoch was evaluated.
        ends_epoch = (self.state.step - early) % self.steps_per_epoch == 0
        if checkpoint is not None and ends_epoch and not self.is_early:
            self._evaluate()

    def _has_stopped_improving(self) -> bool:
        """At the end of an epoch. Early training, which evaluates nothing, does not stop and does not count."""
        return not self.is_early and has_stopped_improving(
            self.state.step,
            max(self.state.best_step, self.payload.early_steps),
            steps_per_epoch=self.steps_per_epoch,
            patience=self.train_config.early_stopping_patience,
        )

    def frozen_sha256(self) -> str:
        """Hash of the draft's frozen weights; all workers call it together."""
        with whole_parameters(self.draft, self.train_config):
            return frozen_sha256(self.draft)

    def _seconds(self) -> float:
        """In the loop so far, earlier starts included."""
        return time.monotonic() - self._began

    def _step(self, indices: list[int]) -> None:
        config = self.train_config
        rate = learning_rate(
            self.state.step, self.total_steps, peak=config.learning_rate, warmup_fraction=config.warmup_fraction
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Feature noise of a step is the same whether the run came here at once or was resumed.
        torch.manual_seed((self.config.seed << 20) + self.state.step * self.world + self.rank)
        losses, value = self._accumulate(worker_share(indices, self.rank, self.world))
        self.state.step += 1
        self._log(losses, value, rate)
        if self.state.step % config.checkpoint_every_steps == 0 and self.state.step < self.total_steps:
            self._checkpoint()

    def _accumulate(self, share: list[int]) -> tuple[Losses, float]:
        """Forward and backward of the share, part by part, and the step at its end; the last part's losses, and the
        mean of the whole over the workers.
        """
        parts, steps = num_parts(self.train_config, self.world), self.train_config.loss.unroll_steps
        # DeepSpeed wants as many forwards of each worker: one too many sees a sample again and counts for nothing.
        batches = [(self.load(part or share[:1]), bool(part)) for part in split(share, parts)]
        divisors_S: list[float] | None = None
        if parts > 1:
            counts_S = torch.stack([step_counts(batch, steps) for batch, counts in batches if counts]).sum(0)
            divisors_S = (counts_S.clamp(min=1) / parts).tolist()  # DeepSpeed divides by the number of parts
        total = torch.zeros((), device=self.device)
        for number, (batch, counts) in enumerate(batches, start=1):
            losses: Losses = self.engine(batch, self.embed, self.lm_head, divisors_S)
            loss = losses.total if counts else 0.0 * losses.total
            total += loss.detach() / parts
            if number == parts:
                value = self._mean_over_workers(total)
                if not math.isfinite(value):
                    raise NonFiniteLossError(
                        f"the loss became {value} at step {self.state.step}; lower train.learning_rate "
                        f"({self.train_config.learning_rate})"
                    )
            self.engine.backward(loss)
            self.engine.step()
        return losses, value

    def _mean_over_workers(self, value: Tensor) -> float:
        """The mean over the group: every worker decides on the same number, a non-finite loss included."""
        total = value.clone()
        if self.world > 1:
            torch.distributed.all_reduce(total)
        mean: float = total.item() / self.world
        return mean

    def _log(self, losses: Losses, value: float, rate: float) -> None:
        if self.state.step % max(1, self.steps_per_epoch // 4) == 0:
            self.log.step(self.state.step, losses, value, rate, self._seconds())
        self.log.progress(self.state.step, self.total_steps)

    def _evaluate(self) -> float:
        """Simulated acceptance on held-out samples; rank 0 keeps the best weights."""
        ids = self.heldout_ids or self.train_ids[:_HELDOUT_BATCH]
        batches = (self.load(ids[i : i + _HELDOUT_BATCH]) for i in range(0, len(ids), _HELDOUT_BATCH))
        with mixed_precision(self.device, self.mixed):
            value = simulated_acceptance_length(self.draft, batches, self.embed, self.lm_head, depth=SIMULATED_DEPTH)
        # The same number for all, so that every worker keeps the same weights and stops at the same epoch.
        value = self._mean_over_workers(torch.tensor(value, dtype=torch.float64, device=self.device))
        step = self.state.step
        if value > self.state.best_acceptance:
            self.state.best_acceptance, self.state.best_step = value, step
            # Gathered after the forwards, which let go of what ZeRO-3 has put together.
            with whole_parameters(self.draft, self.train_config):
                if self.rank == 0:
                    self._save_best()
        self.log.acceptance(step, value, self._seconds())
        return value

    def _save_best(self) -> None:
        staging = Path(tempfile.mkdtemp(prefix=".best-", dir=self.out_dir))
        save_pack(staging, self.draft, self.train_config, self.vocab_W)
        best = self.out_dir / "pack"
        best.mkdir(exist_ok=True)
        for path in staging.iterdir():
            path.replace(best / path.name)
        staging.rmdir()
        files = self.run.store.upload(Stage.TRAIN, (file_entry(self.out_dir, path) for path in sorted(best.iterdir())))
        if files is not None:
            self.run.write(Best(files=files))

    def _checkpoint(self) -> None:
        """A resumable checkpoint through Ray Train, one a step: weights, optimizer shard of every rank, state."""
        from ray import train

        if self.state.step == self._checkpointed:
            return
        self._checkpointed = self.state.step
        self.state.seconds = self._seconds()
        with tempfile.TemporaryDirectory() as directory:
            self.engine.save_checkpoint(
                directory, tag="state", client_state=self.state.to_dict(), exclude_frozen_parameters=True
            )
            checkpoint = train.Checkpoint.from_directory(directory)
            name = _checkpoint_name(self.state.step)
            train.report({"step": self.state.step}, checkpoint=checkpoint, checkpoint_dir_name=name)

    def _resume(self, checkpoint: Checkpoint, *, taken_over: bool) -> None:
        with checkpoint.as_directory() as directory:
            _, client = self.engine.load_checkpoint(directory, tag="state", load_module_strict=False)
        before = self.state
        self.state = TrainState(**{name: client[name] for name in TrainState().to_dict() if name in client})
        self._checkpointed = self.state.step
        if taken_over:
            self.state.initial_acceptance, self.state.best_acceptance = (
                before.initial_acceptance,
                before.best_acceptance,
            )
        else:
            self.state.restarts += 1
        self.log.resume(self.state.step, taken_over=taken_over)


def _checkpoint_name(step: int) -> str:
    return f"step-{step}"


def train_worker(arguments: dict[str, Any]) -> None:
    """Entry point of every Ray Train worker."""
    config = AdaptConfig.model_validate(arguments["config"])
    payload = Payload(**arguments["payload"]).fetched(config)
    prepare_environment(config.train.use_gpu)
    without_cpu_kernels()
    torch.set_num_threads(config.train.threads_per_worker)
    draft, vocab_W = build_draft(payload, config.train, config.seed)
    before = frozen_sha256(draft)
    draft_loss = DraftLoss(draft, config.train.loss, vocab_W, mixed=is_mixed(config.train))
    worker = Worker(payload, config, draft_loss, vocab_W)
    if config.train.use_gpu:
        before = worker.frozen_sha256()
    try:
        final = worker.fit()
    except NonFiniteLossError as error:
        # Written, not raised: Ray Train would restart the group, and the same steps would end the same way.
        outcome: Trained | Diverged = Diverged(failure=error.message)
    else:
        after = worker.frozen_sha256()
        outcome = Trained(**final, frozen_before=before, frozen_after=after)
    finally:
        worker.log.close()
    if worker.rank == 0:
        worker.log.share()
        # In a file: Ray Train keeps the metrics of reports with a checkpoint only.
        worker.run.write(outcome)

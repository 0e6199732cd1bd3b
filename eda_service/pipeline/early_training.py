"""Early training: the first epochs on what the first shards select, while the other shards are generated.

A worker group of its own, as soon as those shards are there; it waits for room in the cluster as any group does, and
generation never waits for it before its own end. Its last checkpoint is where stage train goes on. Which shards, which
samples and how many steps follow from the config and from what was generated, never from the time anything took, so a
job that is interrupted ends with the same pack.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from eda_service.config.job import AdaptConfig, TrainConfig
from eda_service.pipeline.select import select_scores, write_compact
from eda_service.pipeline.train import EARLY_FOLDER, fit, payload_of
from eda_service.planning.estimate import split_samples
from eda_service.records import FileEntry, Stage
from eda_service.storage.registry import find_draft
from eda_service.storage.run import RunDir
from eda_service.storage.state import Early, ShardResult


def early_shards(config: TrainConfig, shards: Sequence[str]) -> list[str]:
    """The shards that early training waits for and learns from; none where no other would be left to generate."""
    count = max(1, math.floor(len(shards) * config.early_fraction))
    return list(shards[:count]) if config.early_epochs and count < len(shards) else []


class EarlyTraining:
    """Of one job, if its config wants one and it has not been done.

    Args:
        run: The job.
        config: The job's config.
        prepared: What generation's preparation wrote.
        shards: Names of all shards, in order.
    """

    def __init__(self, run: RunDir, config: AdaptConfig, prepared: Iterable[FileEntry], shards: Sequence[str]) -> None:
        self._run, self._config, self._prepared = run, config, list(prepared)
        wanted = early_shards(config.train, shards)
        self._names = wanted if wanted and run.read(Early) is None else []
        self._results: dict[str, ShardResult] = {}
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def note(self, finished: Mapping[str, ShardResult]) -> None:
        """Shards that are finished; the last one that is waited for starts the training."""
        self._results.update({name: finished[name] for name in self._names if name in finished})
        if self._thread is None and self._names and len(self._results) == len(self._names):
            # A daemon: a driver that is told to stop does not wait for it.
            self._thread = threading.Thread(target=self._guarded, name="early-training", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until it is done.

        Raises:
            EdaError: As `stage_train.fit`.
        """
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _guarded(self) -> None:
        try:
            self._train()
        except BaseException as error:
            self._failure = error

    def _train(self) -> None:
        run, config, started = self._run, self._config, time.monotonic()
        values = [self._results[name] for name in self._names]
        scores = [score for value in values for score in value.scores]
        if not scores:  # every prompt of theirs was skipped
            return
        chosen = select_scores(scores, config)
        generated = [entry for value in values for entry in value.files]
        files = write_compact(run, generated, chosen, Stage.TRAIN, EARLY_FOLDER)
        compact = (Stage.TRAIN, EARLY_FOLDER, files)
        payload = payload_of(
            run, config, [*self._prepared, *generated], self._names, compact, find_draft(config.base_draft)
        )
        batch = config.train.batch_size
        num_steps = config.train.early_epochs * math.ceil(len(chosen) / batch)
        payload.early_of = num_steps + config.train.late_epochs * math.ceil(split_samples(config)[0] / batch)
        run.event(
            "early_training_started",
            f"{config.train.early_epochs} epochs on {len(chosen)} samples of the first {len(self._names)} shards",
            stage=Stage.TRAIN,
        )
        fit(run, config, payload)
        kept = tuple(entry for entry in files if not _is_features(entry))
        run.write(Early(generated=tuple(self._names), files=kept, num_steps=num_steps))
        self._forget(files, generated)
        took_s = time.monotonic() - started
        run.event("early_training_finished", f"{num_steps} steps took {took_s:.1f} s", stage=Stage.TRAIN, took_s=took_s)

    def _forget(self, files: Iterable[FileEntry], generated: Iterable[FileEntry]) -> None:
        """Its copy of hidden states; on storage a shard that was kept whole is the generated one, which stays."""
        features = [entry for entry in files if _is_features(entry)]
        self._run.store.forget(Stage.TRAIN, features, keep=generated)


def _is_features(entry: FileEntry) -> bool:
    return entry.path.endswith(".features.safetensors")

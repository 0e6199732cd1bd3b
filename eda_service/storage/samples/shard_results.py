"""The result of each shard of a generate stage: one JSON file per shard, written after its files.

On one disk it is beside the shard, whose files are checked with it. On storage the driver also writes results to a
journal by the hundred, so that a job of ten thousand shards is resumed with some tens of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eda_service.errors import ArtifactCorruptError
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import ShardResult

_PER_ENTRY = 256


class ShardResults:
    """Results of one job's shards.

    Args:
        run: Run directory of the job.
    """

    def __init__(self, run: RunDir) -> None:
        self._store, self._place = run.store, run.store.shards
        self._fresh: dict[str, ShardResult] = {}

    def read(self, name: str) -> ShardResult | None:
        """Read a finished shard's result; None if the shard has to be (re)written."""
        return self._whole(name, self._store.objects.read(self._key(name)))

    def write(self, name: str, result: ShardResult) -> ShardResult:
        """Record that a shard is finished; return the result that counts, on storage the first one."""
        self._store.upload(Stage.GENERATE, result.files)
        data = self._place.encode(result)
        settled = self._store.settle(self._key(name), data)
        self._store.let_go(Stage.GENERATE, result.files)  # hidden states of all shards would fill a machine's disk
        return result if settled == data else ShardResult.model_validate_json(settled)

    def note(self, name: str, result: ShardResult) -> None:
        """Collect a finished shard for the journal; only the driver calls this."""
        self._fresh[name] = result
        if len(self._fresh) >= _PER_ENTRY:
            self.flush()

    def flush(self) -> None:
        """Write the collected shards to the journal."""
        if self._fresh:
            self._place.journal.append({name: each.model_dump(mode="json") for name, each in self._fresh.items()})
        self._fresh = {}

    def finished(self, names: Sequence[str]) -> dict[str, ShardResult]:
        """Return the results of those shards that have one.

        A listing says which objects to read. A shard that it leaves out is generated again, and then its first result
        is used: that only costs time.
        """
        wanted, known = set(names), dict[str, ShardResult]()
        for entry in self._place.journal.read():
            known |= {name: ShardResult.model_validate(each) for name, each in entry.items()}
        listed = {Path(each).stem for each in self._store.objects.children(self._place.folder)}
        asked = sorted((wanted & listed) - set(known))
        for name, data in zip(asked, self._store.objects.read_many([self._key(each) for each in asked]), strict=True):
            result = self._whole(name, data)
            if result is not None:
                known[name] = result
                self.note(name, result)
        return {name: known[name] for name in names if name in known}

    def _whole(self, name: str, data: bytes | None) -> ShardResult | None:
        """Return a result whose files all exist; if some are missing, delete the others."""
        if data is None:
            return None
        result = ShardResult.model_validate_json(data)
        try:
            self._store.verify(
                Stage.GENERATE, [entry.model_copy(update={"transient": False}) for entry in result.files]
            )
        except ArtifactCorruptError:
            self._store.objects.delete([self._key(name)])
            self._store.forget(Stage.GENERATE, result.files)
            return None
        return result

    def _key(self, name: str) -> str:
        return f"{self._place.folder}/{name}.json"

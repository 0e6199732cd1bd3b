"""Where a followed log goes on: from offset to offset in one stage's log, and from stage to stage as the job moves."""

from __future__ import annotations

from eda_service.client.answers.answers import Adaptation, LogChunk
from eda_service.client.calls import calls
from eda_service.client.calls.calls import Call
from eda_service.client.errors import UnexpectedAnswerError
from eda_service.records import STAGES

_ORDER = tuple(stage.value for stage in STAGES)


class LogCursor:
    """The place in a job's logs.

    Args:
        job_id: The job.
        stage: Follow this stage's log alone; None: the latest one's, and then each later one.
        tail: Lines from before that are shown first.
    """

    def __init__(self, job_id: str, *, stage: str | None, tail: int) -> None:
        self._job_id, self._stage, self._tail = job_id, stage, tail
        self._moves = stage is None
        self._offset: int | None = None
        self._is_drained = False

    def call(self) -> Call[LogChunk]:
        """The next look."""
        if self._offset is None:
            return calls.logs(self._job_id, stage=self._stage, tail=self._tail)
        return calls.logs(self._job_id, stage=self._stage, after=self._offset)

    def take(self, chunk: LogChunk) -> tuple[str, ...]:
        """Take one look's answer; returns its lines.

        Raises:
            UnexpectedAnswerError: The service cannot say where the log goes on.
        """
        if chunk.next is None and chunk.lines:
            raise UnexpectedAnswerError("the service is older than this client: its logs cannot be followed")
        if self._offset is None and chunk.stage is None:
            self._stage = self._stage or _ORDER[0]  # nothing was logged yet: begin with the first stage
        self._stage = chunk.stage or self._stage
        self._offset = chunk.next or 0
        self._is_drained = not chunk.lines
        return chunk.lines

    def has_more(self, job: Adaptation) -> bool:
        """Whether to look again at once, given the job as it was before the last look.

        A log that the job has left behind is read to its end; one that still grows is looked at again a little later.
        """
        is_behind = self._moves and self._place(self._stage) < self._place(job.stage)
        if not self._is_drained:
            return is_behind or job.is_terminal
        if is_behind:
            self._stage, self._offset = _ORDER[self._place(self._stage) + 1], 0
        return is_behind

    @staticmethod
    def _place(stage: str | None) -> int:
        return _ORDER.index(stage) if stage in _ORDER else -1

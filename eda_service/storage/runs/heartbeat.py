"""Heartbeat of a job driver: a thread that keeps `progress.json` fresh while a stage is busy elsewhere, and ends the
process once a newer attempt has asked for the run directory.
"""

from __future__ import annotations

import logging
import os
import time

from eda_service.errors import StorageError
from eda_service.records import Stage
from eda_service.repeating import Repeating
from eda_service.storage.runs.run import RunDir

logger = logging.getLogger(__name__)
_EVERY_S = 5.0
_LOOK_EVERY_S = 1.0
SUPERSEDED_EXIT_CODE = 75


class Heartbeat(Repeating):
    """Context manager that refreshes `updated_at` every few seconds and leaves stage and step unchanged.

    A driver whose job has a newer attempt ends at once, as if it had been killed: Ray ends its workers, and the newer
    attempt repeats the work that is not recorded.
    """

    def __init__(self, run: RunDir) -> None:
        super().__init__("heartbeat", _LOOK_EVERY_S)
        self._run = run

    def look(self) -> None:
        """End this process if it is superseded, else refresh."""
        try:
            if self._run.is_superseded:
                logger.error("attempt %d of %s has been superseded; ending", self._run.attempt, self._run.job_id)
                os._exit(SUPERSEDED_EXIT_CODE)
            progress = self._run.read_progress()
            if progress is not None and time.time() - progress.updated_at >= _EVERY_S - 1:
                self._run.write(progress.model_copy(update={"updated_at": int(time.time())}))
                self._run.share_log(Stage(progress.stage))
        except (OSError, StorageError, ValueError) as error:
            logger.warning("heartbeat not written: %s", error)

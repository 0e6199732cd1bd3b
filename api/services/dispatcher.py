"""The dispatcher: makes the cluster match the rows, level-triggered.

Each pass starts from nothing but the database, the run directories and what Ray answers, so a restart needs no recovery
of its own. One pass: adopt jobs started by hand, advance every live job, claim and submit while there is room; beside
it, make Serve offer every deployment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pydantic import ValidationError

from api.services.serving import Serving
from api.services.tracker import Tracker
from api.settings import Settings
from eda_service.artifacts.rundir import RunDir
from eda_service.distributed.ray_jobs import ClusterUnreachableError, RayJobs
from eda_service.distributed.ray_token import auth_headers, token_path
from eda_service.distributed.serve_config import ServeApi
from eda_service.errors import ArtifactCorruptError, EdaError
from eda_service.jobstore import Job, JobStore

logger = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 15.0


class Dispatcher:
    """Reconciles rows, files, Ray Jobs and Serve.

    Args:
        store: The queue.
        settings: Where the cluster is and how long to wait for what.
        clock: Seconds since the epoch.
    """

    def __init__(self, store: JobStore, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        headers = auth_headers(settings.ray_token_path or token_path(settings.home))
        self._ray = RayJobs(settings.ray_dashboard_url, headers)
        self.serving = Serving(store, ServeApi(settings.ray_dashboard_url, headers), settings.serve_port)
        self._tracker = Tracker(store, settings, self._ray, clock=clock)
        self._known = store.known_ids()
        self._waiting: dict[str, str] = {}
        self._wake, self._stopping = threading.Event(), threading.Event()
        # Serve has a thread of its own: its first PUT takes many seconds, and a cancel must not wait for that.
        passes = {"dispatcher": self.run_once, "serving": self._serve_once}
        self._threads = [
            threading.Thread(target=self._loop, args=(one_pass,), name=name, daemon=True)
            for name, one_pass in passes.items()
        ]
        self.last_pass_at = clock()
        self.is_ray_reachable = False

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after the current pass; running jobs go on and the next dispatcher finds them again."""
        self._stopping.set()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_STOP_TIMEOUT_S)
        self._ray.close()
        self.serving.close()

    def wake(self) -> None:
        """Start the next pass now."""
        self._wake.set()

    def run_once(self) -> None:
        """One pass. A job that cannot be advanced does not hold up the others."""
        reachable = self._ray.is_reachable()
        if reachable != self.is_ray_reachable:
            logger.info("the Ray dashboard at %s is %s", self._ray.dashboard_url, "up" if reachable else "away")
        self.is_ray_reachable = reachable
        self._adopt_foreign()
        for job in self._store.occupying():
            self._advance(job)
        if reachable:
            while (claimed := self._store.claim(max_running=self._settings.max_running)) is not None:
                self._advance(claimed)
        self.last_pass_at = self._clock()

    def _advance(self, job: Job) -> None:
        try:
            self._tracker.advance(job)
        except ClusterUnreachableError as error:
            if self._waiting.get(job.id) != error.message:
                self._waiting[job.id] = error.message
                self._store.add_event(job.id, "waiting_for_cluster", error.message, level="warning")
        except EdaError as error:
            self._tracker.fail(job, error)
        except Exception:
            # The edge of a thread that must live: the traceback is logged and the job is looked at again.
            logger.exception("cannot advance %s", job.id)

    def _adopt_foreign(self) -> None:
        runs = self._settings.home / "runs"
        if not runs.is_dir():
            return
        for path in runs.iterdir():
            if path.name in self._known or not (path / "job.json").is_file():
                continue
            self._known.add(path.name)
            run = RunDir(path)
            facts = run.read_job()
            if facts.get("origin") != "ray" or path.name in self._store.known_ids():
                continue
            try:
                self._store.adopt(path.name, run.config(), created_at=int(facts["created_at"]))
                logger.info("adopted %s, started on the cluster by hand", path.name)
            except (ArtifactCorruptError, ValidationError, KeyError) as error:
                logger.warning("%s is not a job: %s", path, error)

    def _serve_once(self) -> None:
        if self.is_ray_reachable and self._settings.serve:
            self.serving.reconcile()

    def _loop(self, one_pass: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            try:
                one_pass()
            except Exception:
                # Same edge as in `_advance`: a full disk or a locked database passes, a dead dispatcher would not.
                logger.exception("a dispatcher pass failed")
            self._wake.wait(self._settings.dispatch_interval_s)
            self._wake.clear()

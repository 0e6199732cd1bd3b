"""The dispatcher: makes the cluster match the database in repeated passes (level-triggered).

Each pass starts from the database, the run directories and Ray's answers alone, so a restart needs no recovery. One
pass adopts jobs that have no row, ends those whose row cannot be read, advances every live job, and claims and submits
jobs while there is room. In parallel, another pass makes Serve offer every deployment. Each step, and each object in a
step, is handled by itself: an error of one is reported once and delays none of the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence

from api.deployments import live
from api.deployments.drift import DriftWatch
from api.deployments.live import Live
from api.deployments.loading import LoadWatch
from api.deployments.readaptation import Readaptation
from api.deployments.replicas import ReplicaClient
from api.dispatcher.adoption import Adopter
from api.dispatcher.serve_applications import Serving
from api.dispatcher.tracker import AttemptTracker
from api.dispatcher.webhooks import Webhooks
from api.metrics.instruments import Instruments
from api.packs.exports import forget_old_exports
from api.packs.packs import PackService
from api.settings import Settings
from api.troubles import Troubles
from eda_service.capacity import Machines
from eda_service.errors import ArtifactCorruptError, EdaError, LeaseLostError, StorageError
from eda_service.jobstore import Deployment, Job, JobStore
from eda_service.raycluster.jobs_api import ClusterUnreachableError, RayJobs
from eda_service.raycluster.nodes import RayCluster
from eda_service.raycluster.serve_api import ServeApi
from eda_service.raycluster.serve_plan import Listen, ReplicaPlacement
from eda_service.raycluster.token import auth_headers, token_path

logger = logging.getLogger(__name__)

_DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError)  # what is raised by data of another form
_STOP_TIMEOUT_S = 15.0
_TIDY_INTERVAL_S = 3600.0
_MISFITS_INTERVAL_S = 10.0
_DAY_S = 86_400


class Dispatcher:
    """Reconciles rows, files, Ray Jobs and Serve.

    Args:
        store: Jobs and the other rows of the database.
        settings: Settings with the cluster's address and the time limits.
        instruments: Counters of this process.
        clock: Clock in seconds since the epoch.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        instruments: Instruments | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self._instruments = instruments or Instruments()
        headers = auth_headers(settings.ray_token_path or token_path(settings.home))
        self._ray = RayJobs(settings.ray_dashboard_url, headers)
        self.cluster = RayCluster(settings.ray_dashboard_url, headers)
        listen = Listen(settings.serve_host, settings.serve_port, settings.serve_proxy_location)
        placement = ReplicaPlacement(settings.serve_gpus, settings.serve_max_replicas_per_node)
        self.serving = Serving(store, ServeApi(settings.ray_dashboard_url, headers), listen, placement, settings.limits)
        self._replicas = ReplicaClient(settings.serve_url)
        self._loading = LoadWatch(store, self._replicas, self.wake)
        packs = PackService(store, settings.home)
        readaptation = Readaptation(store, packs, settings, self.wake, clock=clock)
        self.drift = DriftWatch(store, packs, self._replicas, readaptation)
        self._tracker = AttemptTracker(store, settings, self._ray, self._instruments, clock=clock)
        # Several dispatchers may share a database: each holds leases under a name of its own.
        self.holder = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._adoption = Adopter(store, settings, clock=clock)
        self._troubles = Troubles(logger, clock=clock)
        self._tidied_at = self._swept_at = self._misfits_told_at = 0.0
        self._waiting: dict[str, str] = {}
        self._stopping = threading.Event()
        # Serve has a thread of its own: its first PUT takes many seconds, and a cancel must not wait for that.
        # So have webhooks: a receiver may take its time.
        self._webhooks = Webhooks(store.outbox, settings, self._instruments, clock=clock)
        # Each thread has a bell of its own: with one for all, whoever woke first would silence it for the others.
        self._bells = {name: threading.Event() for name in ("dispatcher", "serving", "webhooks", "drift")}
        passes = {
            "dispatcher": (self.run_once, settings.dispatch_interval_s),
            "serving": (self._serve_once, settings.dispatch_interval_s),
            "webhooks": (self._webhooks.run_once, settings.dispatch_interval_s),
            "drift": (self._watch_once, settings.drift_interval_s),
        }
        self._threads = [
            threading.Thread(target=self._loop, args=(self._bells[name], *each), name=name, daemon=True)
            for name, each in passes.items()
        ]
        self.last_pass_at, self.last_pass_s = clock(), 0.0
        self.is_ray_reachable = False

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after the current pass; running jobs go on, and the next dispatcher finds them again."""
        self._stopping.set()
        for bell in self._bells.values():
            bell.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_STOP_TIMEOUT_S)
        self._store.leases.release(holder=self.holder)
        self._ray.close()
        self.cluster.close()
        self.serving.close()
        self._replicas.close()

    def wake(self) -> None:
        """Start the next passes now; drift is still checked at its own times."""
        for name in ("dispatcher", "serving", "webhooks"):
            self._bells[name].set()

    def look(self, deployments: Sequence[Deployment]) -> dict[str, Live]:
        """Return the state of deployments, by name."""
        away = None
        if not self._settings.serve:
            away = "this service does not serve (EDA_SERVE is false)"
        elif not self.is_ray_reachable:
            away = "Ray does not answer"
        return live.look(deployments, self.serving.applications, self._replicas, self._store.loads.all(), away=away)

    def run_once(self) -> None:
        """Make one pass. A job that cannot be advanced does not delay the others."""
        started = time.monotonic()
        session = self._ray.session()
        if (session is not None) != self.is_ray_reachable:
            logger.info("the Ray dashboard at %s is %s", self._ray.dashboard_url, "up" if session else "away")
        self.is_ray_reachable = session is not None
        steps: dict[str, Callable[[], None]] = {
            "forgetting old keys": self._tidy,
            "adopting jobs without a row": self._adopt,
            "ending jobs that cannot be read": lambda: self._end_unreadable(session),
            "advancing live jobs": lambda: self._advance_held(session),
            "starting queued jobs": lambda: self._start_queued(session),
        }
        is_whole = True
        for what, step in steps.items():
            is_whole = self._step(what, step) and is_whole
        self.last_pass_s = time.monotonic() - started
        self._instruments.pass_s.observe(self.last_pass_s)
        self._instruments.show_unreadable(self._store.num_unreadable)
        if is_whole:
            self.last_pass_at = self._clock()
            self._instruments.passed_at.set(self.last_pass_at)

    def _step(self, what: str, step: Callable[[], None]) -> bool:
        """Do one part of a pass; if it fails, the next part is done all the same. Returns whether it succeeded."""
        with self._troubles.caught(what):
            step()
            return True
        return False

    def _adopt(self) -> None:
        try:
            self._adoption.run_once()
        except StorageError as error:
            logger.warning("cannot look for jobs without a row: %s", error.message)

    def _advance_held(self, session: str | None) -> None:
        for job in self._store.leases.hold(holder=self.holder, lease_s=self._settings.lease_s):
            self._advance(job, session)

    def _start_queued(self, session: str | None) -> None:
        settings = self._settings
        cluster = None if session is None else self.cluster.machines()
        while session is not None:
            claimed = self._store.leases.claim(
                max_running=settings.max_running,
                max_running_per_owner=settings.max_running_per_owner,
                holder=self.holder,
                lease_s=settings.lease_s,
                cluster=cluster,
                cluster_grows=settings.cluster_grows,
            )
            if claimed is None:
                break
            if claimed.attempt == 1:
                self._instruments.queue_wait_s.observe(max(0.0, self._clock() - claimed.created_at))
            self._advance(claimed, session)
        self._tell_misfits(cluster)

    def _advance(self, job: Job, session: str | None) -> None:
        """Advance one job by one step. An error of the job delays no other job."""
        what = f"advancing {job.id}"
        try:
            self._advance_or_end(job, session)
        except LeaseLostError as error:
            logger.warning("%s: %s", job.id, error.message)
        except _DAMAGE as error:
            # Files of the job that are not what they should be: perhaps half of a write, which the next look sees whole
            if self._troubles.tell(what, error) >= self._settings.grace_s:
                damaged = _damaged(error)
                self._step(f"ending {job.id}", lambda: self._tracker.give_up(job, damaged))
        except Exception as error:
            # The edge of a thread that must live: the traceback is logged and the job is looked at again.
            self._troubles.tell(what, error)
        else:
            self._troubles.over(what)

    def _advance_or_end(self, job: Job, session: str | None) -> None:
        try:
            self._tracker.advance(job, session)
        except (ClusterUnreachableError, StorageError) as error:  # the attempt may well go on without us
            if self._waiting.get(job.id) != error.message:
                self._waiting[job.id] = error.message
                self._store.events.add(
                    job.id, "waiting_for_cluster", error.message, level="warning", token=job.lease_token
                )
        except LeaseLostError:
            raise
        except EdaError as error:
            self._tracker.fail(job, error)

    def _tidy(self) -> None:
        """Once an hour, remove idempotency keys that are too old to be repeated, and exports of a day ago."""
        now = self._clock()
        if now - self._tidied_at >= _TIDY_INTERVAL_S:
            self._tidied_at = now
            self._store.jobs.forget_keys(before=int(now) - self._settings.idempotency_days * _DAY_S)
            forget_old_exports(self._store, self._settings.home, now)

    def _end_unreadable(self, session: str | None) -> None:
        """End jobs whose rows cannot be read; once an hour, search all rows for them."""
        now = self._clock()
        everything = now - self._swept_at >= _TIDY_INTERVAL_S
        for submission in self._store.leases.end_unreadable(holder=self.holder, everything=everything):
            logger.error("ended the job of %s: its row cannot be read", submission)
            if session is not None:
                with contextlib.suppress(ClusterUnreachableError):
                    self._ray.stop(submission)
        self._swept_at = now if everything else self._swept_at

    def _tell_misfits(self, cluster: Machines | None) -> None:
        """Now and then, report for each job that does not fit the cluster why it does not start."""
        if cluster is not None and self._clock() - self._misfits_told_at >= _MISFITS_INTERVAL_S:
            self._misfits_told_at = self._clock()
            self._store.leases.tell_misfits(cluster)

    def _serve_once(self) -> None:
        if self.is_ray_reachable and self._settings.serve:
            self.serving.reconcile()
            self._loading.run_once(self.serving.applications)

    def _watch_once(self) -> None:
        if self.is_ray_reachable and self._settings.serve:
            self.drift.run_once()

    def _loop(self, bell: threading.Event, one_pass: Callable[[], None], interval_s: float) -> None:
        while not self._stopping.is_set():
            # Same edge as in `_advance`: a full disk or a locked database passes, a dead dispatcher would not.
            self._step(f"a pass of {threading.current_thread().name}", one_pass)
            bell.wait(interval_s)
            bell.clear()


def _damaged(error: Exception) -> ArtifactCorruptError:
    return ArtifactCorruptError(f"what the job has written cannot be used: {type(error).__name__}: {str(error)[:300]}")

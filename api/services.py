"""Everything that the service does, built once from its settings; routes and pages take the parts that they need."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from api.deployments.deployments import DeploymentService
from api.dispatcher.dispatcher import Dispatcher
from api.drafts.drafts import Drafts
from api.files.files import Files
from api.gateway.directory import Directory
from api.gateway.gateway import Gateway
from api.gateway.key_watch import KeyWatch
from api.gateway.limits import Limits
from api.jobs.adaptations import Adaptations
from api.jobs.feed import EventFeed
from api.jobs.jobs import Jobs
from api.jobs.measurements import Measurements
from api.jobs.submission.targets import Targets
from api.jobs.submission.tasks import TaskChecks
from api.metrics.disk import Disk
from api.metrics.history import ServingHistory
from api.metrics.instruments import Instruments
from api.metrics.metrics import Metrics
from api.packs.exports import Exports
from api.packs.packs import PackService
from api.packs.removal import PackRemoval
from api.settings import Settings
from api.ui.sessions import Sessions
from api.vault import open_vault
from eda_service.jobstore import JobStore
from eda_service.targets.files.hub import ModelHub


@dataclass(frozen=True)
class Services:
    """The services over one database.

    Attributes:
        settings: What all of them were built with.
        store: The database.
        dispatcher: Starts jobs, watches them, and keeps Serve as the database says.
        adaptations: Jobs that adapt a draft: their check, their estimate, their submission.
        jobs: Jobs of every kind: looking at them, cancelling, retrying, removing.
        drafts: Base drafts and their imports.
        measurements: Jobs that measure a draft on a target.
        packs: Versions in the registry.
        exports: Jobs that write a pack in the form that an engine reads.
        pack_removal: Their removal.
        files: Uploads.
        deployments: What is served under which name.
        directory: Whose deployment a name is, from memory.
        gateway: Passes inference requests on to Serve.
        feed: Events of jobs, as they come.
        keys: Ends what goes on under a key that was revoked.
        history: Acceptance and speed of deployments over time.
        metrics: What `/metrics` says.
        disk: The sizes of what lies in the home directory.
        limits: Requests and tokens that an owner may use.
        sessions: Logins of browsers.
    """

    settings: Settings
    store: JobStore
    dispatcher: Dispatcher
    adaptations: Adaptations
    jobs: Jobs
    drafts: Drafts
    measurements: Measurements
    packs: PackService
    exports: Exports
    pack_removal: PackRemoval
    files: Files
    deployments: DeploymentService
    directory: Directory
    gateway: Gateway
    feed: EventFeed
    keys: KeyWatch
    history: ServingHistory
    metrics: Metrics
    disk: Disk
    limits: Limits
    sessions: Sessions

    @classmethod
    def over(cls, settings: Settings) -> Services:
        """Open the database that the settings name and build every service over it; nothing runs yet."""
        store = JobStore(settings.store_url, vault=open_vault(settings))
        store.outbox.seal_secrets()
        instruments = Instruments()
        dispatcher = Dispatcher(store, settings, instruments)
        keys, directory, targets = KeyWatch(store.keys), Directory(store), Targets(ModelHub(), settings.hub_at_submit)
        metrics = Metrics(store, directory, instruments, settings, dispatcher.drift)
        packs, files = PackService(store, settings.home), Files(store.files, settings)
        checks = TaskChecks(dispatcher.cluster, cluster_grows=settings.cluster_grows)
        drafts = Drafts(store, settings, dispatcher.wake, packs, targets, checks)

        def changed() -> None:
            directory.forget()
            dispatcher.wake()

        return cls(
            settings=settings,
            store=store,
            dispatcher=dispatcher,
            adaptations=Adaptations(
                store, settings, dispatcher.wake, targets, drafts, files, cluster=dispatcher.cluster
            ),
            jobs=Jobs(store, settings, dispatcher.wake),
            drafts=drafts,
            measurements=Measurements(store, settings, dispatcher.wake, drafts, packs, targets, checks, files),
            packs=packs,
            exports=Exports(store, settings, dispatcher.wake, packs, targets, checks),
            pack_removal=PackRemoval(store, packs, settings),
            files=files,
            deployments=DeploymentService(store, packs, drafts, settings, targets, changed),
            directory=directory,
            gateway=Gateway(settings.serve_url, instruments, keys),
            feed=EventFeed(store),
            keys=keys,
            history=ServingHistory(store.deployments, metrics.readings),
            metrics=metrics,
            disk=Disk(settings.home),
            limits=Limits(settings),
            sessions=Sessions(settings.home),
        )

    def start(self) -> None:
        """Start what runs beside the requests; called in the event loop that answers them."""
        self.deployments.settle()
        self.dispatcher.start()
        self.feed.start()
        self.keys.start()
        self.history.start()

    async def stop(self) -> None:
        """Stop it again, and close connections and database last."""
        self.history.stop()
        await self.keys.stop()
        await self.feed.stop()
        await self.gateway.close()
        self.metrics.close()
        self.dispatcher.stop()
        self.store.close()


def services_of(request: Request) -> Services:
    """The services of the application that a request came to."""
    services: Services = request.app.state.services
    return services

"""What imports, measurements and exports have in common at submit: what the cluster and the hub say of them."""

from __future__ import annotations

from api.jobs.jobs import Queued
from api.jobs.submission.targets import Found
from eda_service.config.tasks import ExportConfig, ImportConfig, MeasureConfig
from eda_service.errors import ClusterShortfallError, InputError
from eda_service.planning.placement import need_of
from eda_service.raycluster.nodes import RayCluster


class TaskChecks:
    """Holds jobs of one process against what there is to run on.

    Args:
        cluster: What there is; None: not known.
        cluster_grows: Whether nodes are added as jobs ask for them.
    """

    def __init__(self, cluster: RayCluster | None, *, cluster_grows: bool = False) -> None:
        self._cluster, self._grows = cluster, cluster_grows

    def queued(self, config: ImportConfig | MeasureConfig | ExportConfig, found: Found, *, force: bool) -> Queued:
        """What goes into the queue.

        Args:
            config: Its names and files are checked.
            found: What was found of what it names.
            force: Whether it is queued although the cluster is too small, or the hub cannot be asked.

        Raises:
            InputError: One of the two, and it is not forced.
        """
        against: list[InputError] = list(found.unasked)
        need = need_of(config)
        there = None if self._cluster is None else self._cluster.machines()
        lack = None if there is None else there.lack(need)
        if lack is not None and not self._grows:
            against.append(
                ClusterShortfallError(
                    f"the job {lack}; set use_gpu to false, let machines join, or set `force` to queue it all the same",
                    param="use_gpu",
                )
            )
        if against and not force:
            raise against[0]
        return Queued(config, need, (*(error.message for error in against), *found.notes))

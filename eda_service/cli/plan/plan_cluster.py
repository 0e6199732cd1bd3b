"""`eda plan --cluster`: whether a cluster of some nodes holds a job, and what each stage takes of it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from eda_service.capacity import Capacity, Machines
from eda_service.cli.jobs.view import needs_table, split_text
from eda_service.client.answers.answers import StageNeed, TargetSplit
from eda_service.config.job import AdaptConfig
from eda_service.errors import InputError
from eda_service.formatting import duration, size
from eda_service.planning.constants import DEVICES
from eda_service.planning.dry_run import stage_needs, target_split
from eda_service.planning.plan import Plan
from eda_service.planning.room import cluster_shortfalls

_CPUS_PER_GPU = 8
_FORM = re.compile(r"([1-9]\d{0,3})x([1-9]\d?)x([a-z0-9]+)")


@dataclass(frozen=True)
class NamedCluster:
    """A cluster of equal nodes.

    Attributes:
        nodes: How many.
        gpus: Of each.
        device: What its GPUs are, as plans call them.
    """

    nodes: int
    gpus: int
    device: str

    @property
    def machines(self) -> Machines:
        """Its nodes, with eight CPUs for each GPU."""
        gpus = self.nodes * self.gpus
        node = Capacity(cpus=_CPUS_PER_GPU * self.gpus, gpus=self.gpus)
        return Machines(Capacity(cpus=_CPUS_PER_GPU * gpus, gpus=gpus), largest=(node,))

    def __str__(self) -> str:
        return f"{self.nodes} node{'s' * (self.nodes > 1)} of {self.gpus} {self.device}"


def parse_cluster(text: str) -> NamedCluster:
    """A cluster as it is named on the command line, e.g. `2x8xh100`.

    Raises:
        InputError: It has another form, or no GPU has that name.
    """
    found = _FORM.fullmatch(text.lower())
    gpus = [name for name, device in DEVICES.items() if device.memory_bytes is not None]
    if found is None or found[3] not in gpus:
        raise InputError(
            f"cluster {text[:32]!r} is not NODESxGPUSxNAME; write for example 2x8xh100, with one of {', '.join(gpus)}",
            param="cluster",
        )
    return NamedCluster(int(found[1]), int(found[2]), found[3])


def cluster_text(config: AdaptConfig, made: Plan, cluster: NamedCluster) -> str:
    """What a job takes of a cluster, and whether it holds it.

    Args:
        config: The job, with the engine that its target will have.
        made: Its plan on such GPUs.
        cluster: The cluster.
    """
    lacks = [error.message for error in cluster_shortfalls(config, cluster.machines, None)]
    split = target_split(made)
    needs = needs_table(StageNeed.model_validate(asdict(need)) for need in stage_needs(made))
    verdict = "does not fit" if lacks or made.lacking else "fits"
    target = "one device" if split is None else split_text(TargetSplit.model_validate(asdict(split)), made.device.name)
    source = "measured" if made.device.is_measured else "assumed utilisation"
    lines = [
        needs,
        "",
        f"target   {target}",
        f"cluster  {cluster}: {verdict}",
        f"disk     {size(made.disk_bytes)}",
        f"time     about {duration(made.seconds)}, {made.device_hours:.0f} device hours ({made.device.name}: {source})",
        *(f"warning: {warning}" for warning in (*lacks, *made.warnings)),
    ]
    return "\n".join(lines)

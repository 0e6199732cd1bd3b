"""What can be known of a job at submit, beyond its names and files: said at once, since a queue is no place to wait for
an error.

Four things may be wrong with the machines rather than with the job, or may change: the disk, the cluster, a tracker, a
hub that does not answer. Those the caller can overrule with `force`; all others are refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from api.jobs.schemas import EstimateBody
from api.jobs.submission.targets import Targets
from eda_service.capacity import Machines, Need
from eda_service.config.job import AdaptConfig
from eda_service.drafts.compatibility import check_extension, check_reads
from eda_service.errors import (
    ArtifactCorruptError,
    BaseDraftMissingError,
    ClusterShortfallError,
    DiskShortfallError,
    InputError,
)
from eda_service.formatting import size
from eda_service.planning.base_draft import draft_config
from eda_service.planning.dry_run import chosen_config, dry_run, expected_plan
from eda_service.planning.engine_need import check_split
from eda_service.planning.estimate import disk_need_bytes
from eda_service.planning.placement import need_of
from eda_service.planning.room import cluster_shortfalls, gpu_of
from eda_service.planning.shapes import shape_beside
from eda_service.raycluster.nodes import RayCluster
from eda_service.records import DraftManifest
from eda_service.selfgen.prompts import general_prompts_file
from eda_service.storage.place import current_place
from eda_service.storage.published.compatibility import check_draft_sizes
from eda_service.storage.published.registry import find_draft_manifest
from eda_service.targets.files.shape import ModelShape
from eda_service.training.tracking import check_installed


@dataclass(frozen=True)
class Verdict:
    """What speaks against a job, if anything, and what it needs.

    Attributes:
        need: What it asks the cluster for.
        shape: Of its target, where that is known.
        unknown: What could not be found out, or may be otherwise on the workers.
        shortfalls: What the disk or the cluster lacks.
        warnings: What is no reason to refuse it.
        gpu: What the cluster's GPUs are, as plans call them; None: not known, or none is used.
    """

    need: Need
    shape: ModelShape | None
    unknown: tuple[InputError, ...]
    shortfalls: tuple[InputError, ...]
    warnings: tuple[str, ...]
    gpu: str | None = None

    @property
    def overruled(self) -> tuple[str, ...]:
        """Everything that speaks against a job which is queued all the same."""
        return (*(error.message for error in (*self.unknown, *self.shortfalls)), *self.warnings)


class Feasibility:
    """Checks configs that have passed `inputs.check`.

    Args:
        home: Where jobs write.
        targets: Looks for targets and data sets.
        cluster: What there is to run on; None: not known.
        cluster_grows: Whether nodes are added as jobs ask for them.
    """

    def __init__(
        self, home: Path, targets: Targets, cluster: RayCluster | None, *, cluster_grows: bool = False
    ) -> None:
        self._home, self._targets, self._cluster, self._grows = home, targets, cluster, cluster_grows

    def judge(self, config: AdaptConfig) -> Verdict:
        """Look at a job.

        Raises:
            InputError: It cannot work, whatever changes around it; a subclass that says which field is at fault.
        """
        _check_reference_prompts(config)
        draft = _manifest(config.base_draft, self._home)
        found = self._targets.look(config)
        check_draft_sizes(draft, config.target.model, found.sizes)
        shape = draft_config(config.base_draft, self._home)
        check_extension(shape, config.train)
        if found.shape is not None:
            check_reads(shape, found.shape.num_layers)
        machines = None if self._cluster is None else self._cluster.machines()
        gpu = self._gpu(config, machines)
        chosen = config if found.shape is None else chosen_config(config, found.shape, gpu=gpu)
        if found.shape is not None:
            check_split(chosen.target, found.shape, shape)
        short = () if machines is None else self._cluster_lacks(config, chosen, machines, gpu, found.shape)
        disk = self._disk(config)
        return Verdict(
            need=need_of(chosen),
            shape=found.shape,
            unknown=(*found.unasked, *_trackers(config)),
            shortfalls=(*(() if disk is None else (disk,)), *(() if self._grows else short)),
            warnings=(*found.notes, *((error.message for error in short) if self._grows else ())),
            gpu=gpu,
        )

    def estimate(self, config: AdaptConfig, verdict: Verdict) -> EstimateBody:
        """What a job would need, with everything that speaks against it.

        Args:
            config: The job.
            verdict: What was found of it.
        """
        shape, guessed = self._shape(config, verdict)
        # The plan says itself what the disk lacks.
        against = (*verdict.unknown, *verdict.shortfalls)
        told = [each.message for each in against if not isinstance(each, DiskShortfallError)]
        found = dry_run(config, self._home, gpu=verdict.gpu, shape=shape, told=told)
        body = EstimateBody.model_validate(asdict(found))
        # What the cluster's GPUs lack, the plan says as well.
        warnings = [each for each in body.warnings if not any(said != each and said.startswith(each) for said in told)]
        return body.model_copy(update={"warnings": [*warnings, *verdict.warnings, *guessed]})

    def _shape(self, config: AdaptConfig, verdict: Verdict) -> tuple[ModelShape, tuple[str, ...]]:
        """The target's shape, or one that it may have, with the warning that says so."""
        if verdict.shape is not None:
            return verdict.shape, ()
        guess = f"{config.target.model} is not on this machine: layers and weights are those of a model of its width"
        return shape_beside(draft_config(config.base_draft, self._home)), (guess,)

    def _disk(self, config: AdaptConfig) -> DiskShortfallError | None:
        need = disk_need_bytes(config, draft_config(config.base_draft, self._home))
        free = current_place().free_bytes(self._home)
        if free is None or need <= free:
            return None
        return DiskShortfallError(
            f"{config.dataset.num_prompts} prompts may need {size(need)} of disk, {size(free)} is free; "
            "lower dataset.num_prompts or selfgen.max_new_tokens, free space, or set `force` to queue it all the same",
            param="dataset.num_prompts",
        )

    def _gpu(self, config: AdaptConfig, machines: Machines | None) -> str | None:
        return gpu_of(machines) if machines is not None and config.train.use_gpu else None

    def _cluster_lacks(
        self, config: AdaptConfig, chosen: AdaptConfig, machines: Machines, gpu: str | None, shape: ModelShape | None
    ) -> tuple[ClusterShortfallError, ...]:
        """What the cluster lacks for a job, and where its target fits one GPU only by what the job does not say."""
        plan = None
        if gpu is not None and shape is not None:
            # As the job was asked for: of an engine that was chosen for it, the size is its own.
            said = config if config.target.engine is not None else _sized(chosen, config)
            plan, _ = expected_plan(said, shape, draft_config(config.base_draft, self._home), self._home, gpu=gpu)
        return cluster_shortfalls(chosen, machines, plan)


def _sized(chosen: AdaptConfig, config: AdaptConfig) -> AdaptConfig:
    target = chosen.target.model_copy(update={"vllm": config.target.vllm})
    return chosen.model_copy(update={"target": target})


def _trackers(config: AdaptConfig) -> tuple[InputError, ...]:
    try:
        check_installed(config.track)
    except InputError as error:
        return (InputError(f"{error.message}; where the workers have it, set `force`", param=error.param),)
    return ()


def _manifest(reference: str, home: Path) -> DraftManifest:
    try:
        return find_draft_manifest(reference, home)
    except ArtifactCorruptError as error:
        raise BaseDraftMissingError(
            f"base draft {reference} cannot be read: its manifest does not parse; register it again, or name another",
            param="base_draft",
        ) from error


def _check_reference_prompts(config: AdaptConfig) -> None:
    wanted, shipped = config.selection.num_reference_prompts, _num_general_prompts()
    if wanted > shipped:
        raise InputError(
            f"selection.num_reference_prompts is {wanted}, {shipped} general prompts are shipped; lower it to "
            f"{shipped} or less",
            param="selection.num_reference_prompts",
        )


@cache
def _num_general_prompts() -> int:
    with general_prompts_file().open("rb") as stream:
        return sum(1 for line in stream if line.strip())

"""Facts about packs from their manifests: their owner and target, and the measurements of their jobs.
`eda_service.storage.published.gate` compares packs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import ArtifactCorruptError
from eda_service.records import ADAPTED, BASE, FixedScores, PackManifest, RivalScore
from eda_service.references import Reference
from eda_service.storage.published.registry import pack_manifest_text, parse_pack_manifest

PROMPTS = "prompts"  # key in the manifest's inputs: hash of the prompts that the held-out ones were split off


class PackEvaluation(BaseModel):
    """The measurements of a pack's job, at the first temperature of its evaluation; speeds at the first
    that was timed.
    """

    model_config = ConfigDict(frozen=True)

    temperature: float
    acceptance_length: float
    base_acceptance_length: float
    speedup: float | None
    base_speedup: float | None = None
    num_prompts: int
    num_draft_tokens: int
    tree: dict[str, int] | None
    dataset: str
    measured_on: str
    compared_by: str
    rivals: tuple[RivalScore, ...] = ()
    unmeasured_rivals: dict[str, str] = {}
    fixed: FixedScores | None = None


@dataclass(frozen=True)
class PackVersion:
    """One published version of a pack.

    Attributes:
        name: Name of the pack.
        version: Number of the version.
        manifest: Manifest of the version; None if it cannot be read.
        evaluation: Measurements of its job; None if the manifest has none.
    """

    name: str
    version: int
    manifest: PackManifest | None
    evaluation: PackEvaluation | None

    @property
    def reference(self) -> str:
        """The version as name@version."""
        return str(Reference(self.name, self.version))

    @property
    def is_pulled(self) -> bool:
        """Whether it was made elsewhere and pulled, so that another service reported its numbers."""
        return self.manifest is not None and bool(self.manifest.source)


def timed_temperature(config: AdaptConfig) -> float:
    """Return the temperature at which speeds are compared: the first that is timed."""
    return (config.evaluation.timed_temperatures or config.evaluation.temperatures)[0]


def measured_on(config: AdaptConfig, num_prompts: int | None = None) -> str:
    """Describe the held-out prompts on which a job measures, in words.

    Args:
        config: Config of the job.
        num_prompts: Number of prompts that were really measured; None: the number in the config.
    """
    held_out, wanted = config.eval_dataset, config.evaluation.num_prompts
    source = (held_out or config.dataset).source
    count = num_prompts or (wanted if held_out is None else min(wanted, held_out.num_prompts))
    if source == "self":
        return f"{count} {'of the ' if held_out is None else ''}prompts that the target wrote itself"
    name = source.rsplit("/", 1)[-1] if source.startswith("/") else source
    return f"{count} prompts {'split off' if held_out is None else 'of'} {name}"


def read_pack(name: str, version: int, home: Path | None = None) -> PackVersion:
    """Read a published version without verifying its files; code that loads the files verifies them.

    Raises:
        NotFoundError: The version does not exist.
    """
    try:
        return _read(name, version, pack_manifest_text(Reference(name, version), home))
    except ArtifactCorruptError:
        return PackVersion(name, version, None, None)


@lru_cache(maxsize=1024)
def _read(name: str, version: int, text: str) -> PackVersion:
    """Parse a manifest, cached: packs are read far more often than published, and equal texts give equal results."""
    manifest = parse_pack_manifest(text, Reference(name, version))
    return PackVersion(name, version, manifest, evaluation_of(manifest))


def evaluation_of(manifest: PackManifest) -> PackEvaluation | None:
    """Return the evaluation in a manifest; None if it has none, or was written by a version with other settings."""
    try:
        config = AdaptConfig.model_validate(manifest.config)
        temperature = config.evaluation.temperatures[0]
    except ValidationError:
        return None
    adapted, base = (manifest.metrics.acceptance_length(draft, temperature) for draft in (ADAPTED, BASE))
    if adapted is None or base is None:
        return None
    evaluation, tree, timed = config.evaluation, config.evaluation.tree, timed_temperature(config)
    return PackEvaluation(
        temperature=temperature,
        acceptance_length=adapted,
        base_acceptance_length=base,
        speedup=manifest.metrics.speedup(ADAPTED, timed),
        base_speedup=manifest.metrics.speedup(BASE, timed),
        num_prompts=evaluation.num_prompts,
        num_draft_tokens=evaluation.depth,
        tree=None if tree is None else tree.model_dump(),
        dataset=(config.eval_dataset or config.dataset).source,
        measured_on=manifest.measured_on or measured_on(config),
        compared_by=_compared_by(manifest, config),
        rivals=manifest.rivals,
        unmeasured_rivals=manifest.unmeasured_rivals,
        fixed=manifest.fixed,
    )


def target_of(manifest: PackManifest) -> TargetSpec | None:
    """Return the target of a pack, as its job named it; None if a version with other settings wrote the manifest."""
    try:
        return AdaptConfig.model_validate(manifest.config).target
    except ValidationError:
        return None


def _compared_by(manifest: PackManifest, config: AdaptConfig) -> str:
    """Make a text that is equal for equal target, prompts and settings."""
    settings = config.evaluation.model_dump(
        mode="json", include={"num_prompts", "max_new_tokens", "num_draft_tokens", "tree"}
    )
    parts: list[Any] = [manifest.target.weights_sha256, settings, config.evaluation.temperatures[0], config.seed]
    if config.eval_dataset is None:
        parts += [config.dataset.model_dump(mode="json"), manifest.inputs.get(PROMPTS)]
    else:
        parts.append(config.eval_dataset.model_dump(mode="json"))
    if manifest.source:
        parts.append(
            f"{manifest.pack} of {manifest.source}"
        )  # measurements from elsewhere are compared with nothing here
    return json.dumps(parts, sort_keys=True)

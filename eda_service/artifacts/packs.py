"""What packs have measured, and which of two is worse: the gate before a served pack is replaced, and `@champion`.

Two acceptance lengths can be compared when they come from the same target, prompts, tree and settings. Otherwise a pack
is held against what its own job measured for the base draft alone, the value without any training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from eda_service.artifacts.registry import find_pack_manifest
from eda_service.config import AdaptConfig
from eda_service.errors import ArtifactCorruptError
from eda_service.records import PackManifest

ADAPTED, BASE = "adapted_draft", "base_draft"
PROMPTS = "prompts"  # in the manifest's inputs: hash of the prompts that the held-out ones were split off


class PackEvaluation(BaseModel):
    """What a pack's job measured, at the first temperature of its evaluation."""

    model_config = ConfigDict(frozen=True)

    temperature: float
    acceptance_length: float
    base_acceptance_length: float
    speedup: float | None
    num_prompts: int
    num_draft_tokens: int
    tree: dict[str, int] | None
    dataset: str
    compared_by: str


@dataclass(frozen=True)
class PackVersion:
    """One published version.

    Attributes:
        name: Of the pack.
        version: Its number.
        manifest: What it says of itself; None when that cannot be read.
        evaluation: What it measured; None when it does not say.
    """

    name: str
    version: int
    manifest: PackManifest | None
    evaluation: PackEvaluation | None

    @property
    def reference(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"


def acceptance_key(draft: str, temperature: float) -> str:
    """The name in a manifest's metrics of a draft's acceptance length."""
    return f"{draft}.acceptance_length.t{temperature:g}"


def read_pack(name: str, version: int, home: Path | None = None) -> PackVersion:
    """A published version, its files not verified: whoever loads them does that.

    Raises:
        NotFoundError: No such version.
    """
    try:
        manifest = find_pack_manifest(f"{name}@{version}", home)
    except ArtifactCorruptError:
        return PackVersion(name, version, None, None)
    return PackVersion(name, version, manifest, evaluation_of(manifest))


def evaluation_of(manifest: PackManifest) -> PackEvaluation | None:
    """The evaluation in a manifest; None when it has none, or was written by a version with other settings."""
    try:
        config = AdaptConfig.model_validate(manifest.config)
        temperature = config.evaluation.temperatures[0]
        lengths = {draft: manifest.metrics[acceptance_key(draft, temperature)] for draft in (ADAPTED, BASE)}
    except (ValidationError, KeyError):
        return None
    evaluation, tree = config.evaluation, config.evaluation.tree
    return PackEvaluation(
        temperature=temperature,
        acceptance_length=lengths[ADAPTED],
        base_acceptance_length=lengths[BASE],
        speedup=manifest.metrics.get(f"{ADAPTED}.speedup.t{temperature:g}"),
        num_prompts=evaluation.num_prompts,
        num_draft_tokens=evaluation.depth,
        tree=None if tree is None else tree.model_dump(),
        dataset=(config.eval_dataset or config.dataset).source,
        compared_by=_compared_by(manifest, config),
    )


def _compared_by(manifest: PackManifest, config: AdaptConfig) -> str:
    """Equal texts: equal target, prompts and settings."""
    settings = config.evaluation.model_dump(
        mode="json", include={"num_prompts", "max_new_tokens", "num_draft_tokens", "tree"}
    )
    parts: list[Any] = [manifest.target.weights_sha256, settings, config.evaluation.temperatures[0], config.seed]
    if config.eval_dataset is None:
        parts += [config.dataset.model_dump(mode="json"), manifest.inputs.get(PROMPTS)]
    else:
        parts.append(config.eval_dataset.model_dump(mode="json"))
    return json.dumps(parts, sort_keys=True)


def regression(new: PackVersion, old: PackVersion | None) -> str | None:
    """Why `new` should not be served instead of `old`, with both numbers; None when it may.

    Args:
        new: The pack that shall be served.
        old: The pack that it would replace; None: the base draft alone is served, or nothing.
    """
    mine = new.evaluation
    if mine is None:
        return None
    before = None if old is None else old.evaluation
    if old is not None and before is not None and before.compared_by == mine.compared_by:
        rival, length = old.reference, before.acceptance_length
    else:
        rival, length = "its base draft alone", mine.base_acceptance_length
    if mine.acceptance_length >= length:
        return None
    return (
        f"pack {new.reference} has acceptance_length {mine.acceptance_length:.3f}, below the {length:.3f} of {rival} "
        "on the same evaluation"
    )


def champion(versions: Sequence[PackVersion]) -> PackVersion | None:
    """The best of those that were measured as the newest was, the newer of equals; None without any measured."""
    measured = [(each, each.evaluation) for each in versions if each.evaluation is not None]
    if not measured:
        return None
    newest = max(measured, key=lambda pair: pair[0].version)[1]
    equal = [pair for pair in measured if pair[1].compared_by == newest.compared_by]
    return max(equal, key=lambda pair: (pair[1].acceptance_length, pair[0].version))[0]

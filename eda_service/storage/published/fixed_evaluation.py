"""The fixed evaluation of a pack's name and target: the same prompts and settings for every version, so that all
versions can be compared and a champion chosen.

The first job of an owner, name and target that measures anything stores its held-out prompts as the fixed evaluation;
all later jobs measure on it too. It is stored beside the packs, readable by the service only, and is part of no pack:
prompts may be private.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from eda_service.config.job import AdaptConfig
from eda_service.errors import ArtifactCorruptError, NotFoundError
from eda_service.measured_rows import Frozen
from eda_service.records import TargetFingerprint
from eda_service.references import Reference
from eda_service.storage.files import sha256_text
from eda_service.storage.published import registry

MAX_PROMPTS = 64


class FixedEvaluation(Frozen):
    """Prompts and settings; drafts propose chains, whatever the jobs use.

    Attributes:
        beside: Arguments of the chat template for each prompt (for example tools); empty: none for any prompt.
    """

    num_draft_tokens: int = Field(ge=1, le=64)
    max_new_tokens: int = Field(ge=8, le=32_768)
    temperature: float = Field(ge=0.0, le=2.0)
    prompts: tuple[tuple[dict[str, Any], ...], ...] = Field(min_length=1, max_length=MAX_PROMPTS)
    beside: tuple[dict[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """The content as it is stored."""
        value = self.model_dump(mode="json", exclude=None if self.beside else {"beside"})
        return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def key_of(owner: str, target: TargetFingerprint) -> str:
    """Make 16 hex digits that name the fixed evaluation of an owner's packs for one target."""
    parts = [owner, target.weights_sha256, target.tokenizer_sha256, target.chat_template_sha256]
    return sha256_text(json.dumps(parts))[:16]


def propose(
    config: AdaptConfig, prompts: Sequence[Sequence[dict[str, Any]]], beside: Sequence[dict[str, Any]]
) -> FixedEvaluation:
    """Make the fixed evaluation that a job proposes, from its own held-out prompts and their template arguments."""
    evaluation = config.evaluation
    return FixedEvaluation(
        num_draft_tokens=evaluation.num_draft_tokens,
        max_new_tokens=evaluation.max_new_tokens,
        temperature=evaluation.temperatures[0],
        prompts=tuple(tuple(messages) for messages in prompts[:MAX_PROMPTS]),
        beside=tuple(beside[:MAX_PROMPTS]) if any(beside[:MAX_PROMPTS]) else (),
    )


def find_or_create(
    name: str, key: str, proposal: FixedEvaluation, home: Path | None = None
) -> tuple[FixedEvaluation, str]:
    """Return the existing fixed evaluation, or store `proposal` as the permanent one; with the sha256 of what is
    stored.

    Raises:
        ArtifactCorruptError: The stored evaluation cannot be used.
    """
    text = registry.find_evaluation(name, key, home)
    if text is None:
        if registry.create_evaluation(name, key, proposal.text, home):
            return proposal, sha256_text(proposal.text)
        text = registry.find_evaluation(name, key, home)
    try:
        return FixedEvaluation.model_validate_json(text or ""), sha256_text(text or "")
    except ValidationError as error:
        raise ArtifactCorruptError(
            f"the fixed evaluation {key} of {name} does not parse; remove it beside the packs, and the next job makes "
            "another"
        ) from error


def scored(name: str, evaluation: str, home: Path | None = None) -> set[str]:
    """Return the packs for which a published version of `name` has a score on a fixed evaluation."""
    found: set[str] = set()
    for version in registry.pack_versions(name, home):
        try:
            fixed = registry.find_pack_manifest(Reference(name, version), home).fixed
        except (ArtifactCorruptError, NotFoundError):
            continue
        if fixed is not None and fixed.evaluation == evaluation:
            found |= fixed.lengths.keys()
    return found

"""Drafts in their wire form."""

from __future__ import annotations

from typing import Any

from api.auth import Caller
from api.drafts.drafts import Drafts, DraftVersion, target_of
from api.jobs.schemas_tasks import DraftBody, DraftDetail


def draft_body(draft: DraftVersion) -> DraftBody:
    """One version, as lists show it."""
    return DraftBody(**_fields(draft))


def draft_detail(draft: DraftVersion, drafts: Drafts, caller: Caller) -> DraftDetail:
    """The same with everything that its manifest says, and the packs over it that the caller sees."""
    manifest = draft.manifest
    return DraftDetail(
        **_fields(draft),
        assumed=[] if manifest is None else list(manifest.assumed),
        overrides={} if manifest is None else manifest.overrides,
        check=None if manifest is None else manifest.check,
        packs=drafts.packs_over(draft, caller),
        trained_on=None if manifest is None else manifest.trained_on,
        metrics={} if manifest is None else manifest.metrics,
    )


def _fields(draft: DraftVersion) -> dict[str, Any]:
    manifest = draft.manifest
    check = None if manifest is None else manifest.check
    best = None if check is None else check.best
    return {
        "id": draft.reference,
        "name": draft.name,
        "version": draft.version,
        "created_at": None if manifest is None else manifest.created_at,
        "shipped": draft.is_shipped,
        "kind": None if manifest is None else manifest.kind,
        "model": target_of(draft),
        "source": None if manifest is None else manifest.source or None,
        "dialect": None if manifest is None else manifest.dialect,
        "acceptance_length": None if check is None or check.declared is None else check.declared.acceptance_length,
        "best_acceptance_length": None if best is None else best.acceptance_length,
        "best_reading": None if best is None else best.overrides,
        "size_bytes": None if manifest is None else sum(entry.size_bytes for entry in manifest.files),
        "job_id": draft.job_id,
    }

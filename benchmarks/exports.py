"""A committed pack as another engine loads it: published into a home of its own, then exported as `eda export` does."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.bench_service import acceptance_length, fingerprint
from benchmarks.workloads import Domain
from eda_service.config.job import TargetSpec
from eda_service.export.calibration import CalibrationSettings
from eda_service.export.export import Exported, ExportRequest, export_draft
from eda_service.export.files.eda_config import Destination, ExportForm

CALIBRATION_PROMPTS = "reasoning-gym:gsm_symbolic?templates=0-79"


def export_pack(
    domain: Domain,
    form: ExportForm,
    out: Path,
    *,
    prompts: str = CALIBRATION_PROMPTS,
    merged_target: Path | None = None,
) -> Exported:
    """Export a pack for vLLM, with chains of 3.

    Args:
        domain: Domain of the pack.
        form: Dense or plugin.
        out: Directory of the export.
        prompts: Prompts for the calibration of a dense export.
        merged_target: Directory to write the target with its adapter merged to.
    """
    from tests.pack_files import put_pack

    with tempfile.TemporaryDirectory(prefix="eda-export-") as name:
        pack = put_pack(
            Path(name),
            domain.target,
            acceptance_length(domain),
            files=domain.pack_dir,
            target=fingerprint(domain),
            base_draft=domain.base_draft,
        )
        request = ExportRequest(
            reference=pack,
            destination=Destination.VLLM,
            form=form,
            out=out,
            target=TargetSpec(model=domain.target),
            merged_target=merged_target,
            calibration=CalibrationSettings(prompts=prompts),
        )
        return export_draft(request, home=Path(name))

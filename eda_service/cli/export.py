"""`eda export`: a pack or base draft for vLLM, SGLang or a hub."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from eda_service.cli.bars import bars
from eda_service.cli.console import JsonOption, err, out, print_json
from eda_service.config.job import TargetSpec
from eda_service.drafts.dialects.record import Dialect
from eda_service.errors import InputError
from eda_service.export.eda_config import Destination, ExportCalibration, ExportForm


def export(
    reference: Annotated[str, typer.Argument(help="Pack or base draft, name@version; without a version the newest.")],
    to: Annotated[Destination, typer.Option("--to", help="Who will load it.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory to write; must not exist.")],
    form: Annotated[
        ExportForm,
        typer.Option(help="dense: unmodified engines load it; plugin: keeps the gate, needs this package there."),
    ] = ExportForm.PLUGIN,
    target: Annotated[
        str | None, typer.Option(help="Target it belongs to; default: the one the pack names. A base draft needs it.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter on --target.")] = None,
    merged_target: Annotated[
        Path | None, typer.Option(help="Write the target with its adapter merged here; must not exist.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="Prompts to calibrate and measure a dense export on, best of your domain; default: general."),
    ] = None,
    num_prompts: Annotated[int, typer.Option(min=8, max=100_000, help="How many of them.")] = 64,
    num_draft_tokens: Annotated[int, typer.Option(min=1, max=16, help="K of the chains.")] = 3,
    dialect: Annotated[
        Dialect | None,
        typer.Option(help="How an EAGLE-3 draft is written; default: as it came, or one that --to reads."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a pack or base draft as a checkpoint that another engine serves."""
    from transformers.utils import logging as transformers_logging

    from eda_service.export.calibration import CalibrationSettings
    from eda_service.export.export import ExportRequest, export_draft

    if adapter is not None and target is None:
        raise InputError("--adapter names an adapter on --target, which is missing; give both", param="adapter")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("eda_service.export").setLevel(logging.INFO)
    transformers_logging.disable_progress_bar()  # it is drawn where nobody looks, too; ours is not
    request = ExportRequest(
        reference=reference,
        destination=to,
        form=form,
        out=out_dir,
        target=None if target is None else _spec(target, adapter),
        merged_target=merged_target,
        dialect=dialect,
        calibration=CalibrationSettings(prompts=prompts, num_prompts=num_prompts, num_draft_tokens=num_draft_tokens),
    )
    with bars() as tell:
        made = export_draft(request, tell=tell)
    if as_json:
        print_json(made)
        return
    eda = made.eda_config
    err.print(f"{eda.source} as {form} for {to}: {made.directory}, read back and equal", markup=False)
    if eda.dialect is not None:
        err.print(f"written as {eda.dialect} writes its drafts", markup=False)
    err.print(_change(eda.calibration), markup=False)
    if made.target_to_merge:
        merged = f"{eda.verifier.model} with the adapter {eda.verifier.adapter}"
        err.print(f"MERGED_TARGET is {merged}; with --merged-target DIR it is written and named here", markup=False)
    out.print(made.serve_command, markup=False)


def _spec(model: str, adapter: str | None) -> TargetSpec:
    try:
        return TargetSpec(model=model, adapter=adapter)
    except ValidationError as error:
        raise InputError(f"--target or --adapter is no name: {error.errors()[0]['msg']}", param="target") from error


def _change(calibration: ExportCalibration | None) -> str:
    if calibration is None:
        return "the export computes what the draft computes: acceptance does not change"
    folded = calibration.gate_weights
    gate = "" if folded is None else f"gate held at {folded[0]:.3f} shared, {folded[1]:.3f} private; "
    return (
        f"{gate}acceptance length {calibration.acceptance_length:.3f} -> "
        f"{calibration.exported_acceptance_length:.3f} ({100 * calibration.change_fraction:+.1f} %), chains of "
        f"{calibration.num_draft_tokens} at T=0 on {calibration.num_measured_prompts} prompts of "
        f"{calibration.prompts}"
    )

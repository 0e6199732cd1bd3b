"""`eda export`: a pack or base draft for vLLM, SGLang or a hub."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from eda_service.cli.arguments import complete_pack
from eda_service.cli.bars import bars
from eda_service.cli.console import JsonOption, UrlOption, err, out, print_json
from eda_service.cli.packs_to_come import of_a_job
from eda_service.config.job import TargetSpec
from eda_service.drafts.dialects.record import Dialect
from eda_service.errors import InputError, NotFoundError
from eda_service.export.files.eda_config import Destination, ExportCalibration, ExportForm
from eda_service.field_errors import first_error

if TYPE_CHECKING:
    from eda_service.export.export import Exported
    from eda_service.export.packed.packs_over import AdaptersPack


def export(
    reference: Annotated[
        str,
        typer.Argument(
            help="Pack or base draft, name@version; without a version the newest.", autocompletion=complete_pack
        ),
    ],
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
    pack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER=PACK",
            help="For one vLLM with many LoRA adapters: REFERENCE is the base draft, and requests of ADAPTER (its name "
            "in --lora-modules) draft with PACK. May be given many times.",
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="ADAPTER=PATH", help="Where ADAPTER lies; default: that of the target its pack names."),
    ] = None,
    places: Annotated[
        int | None,
        typer.Option(min=1, max=512, help="Packs that vLLM has room for, some to come later; default: those given."),
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a pack or base draft as a checkpoint that another engine serves."""
    from transformers.utils import logging as transformers_logging

    from eda_service.export.calibration import CalibrationSettings
    from eda_service.export.export import ExportRequest, export_draft
    from eda_service.export.packed.several import PacksRequest, export_packs

    if adapter is not None and target is None:
        raise InputError("--adapter names an adapter on --target, which is missing; give both", param="adapter")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("eda_service.export").setLevel(logging.INFO)
    transformers_logging.disable_progress_bar()  # it is drawn where nobody looks, too; ours is not
    if pack:
        _require_for_packs(to, form, adapter, merged_target, dialect)
        spec = None if target is None else _spec(target, None)
        several = PacksRequest(reference, _adapters_packs(pack, lora or []), out_dir, spec, places, num_draft_tokens)
        with bars() as on_progress:
            made = export_packs(several, on_progress=on_progress)
        _say(made, form, to, as_json)
        return
    if lora or places is not None:
        raise InputError("--lora and --places are about the packs of --pack, which is missing", param="pack")
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
    try:
        with bars() as on_progress:
            made = export_draft(request, on_progress=on_progress)
    except NotFoundError as error:
        told = of_a_job(reference, url)
        if told is None:
            raise
        raise NotFoundError(told, param=error.param) from error
    _say(made, form, to, as_json)


def _say(made: Exported, form: ExportForm, to: Destination, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    eda = made.eda_config
    err.print(f"{eda.source} as {form} for {to}: {made.directory}, read back and equal", markup=False)
    if eda.dialect is not None:
        err.print(f"written as {eda.dialect} writes its drafts", markup=False)
    for each in eda.packs or ():
        err.print(f"requests of the adapter {each.adapter} draft with {each.source}", markup=False)
    if eda.packs:
        err.print(f"all other requests draft with {eda.source}", markup=False)
    err.print(_change(eda.calibration), markup=False)
    if made.target_to_merge:
        merged = f"{eda.verifier.model} with the adapter {eda.verifier.adapter}"
        err.print(f"MERGED_TARGET is {merged}; with --merged-target DIR it is written and named here", markup=False)
    for need in made.needs:
        err.print(need, markup=False)
    out.print(made.serve_command, markup=False)


def _require_for_packs(
    to: Destination, form: ExportForm, adapter: str | None, merged_target: Path | None, dialect: Dialect | None
) -> None:
    """Refuse what does not go with several packs.

    Raises:
        InputError: With what does.
    """
    if to is not Destination.VLLM or form is not ExportForm.PLUGIN:
        raise InputError("--pack puts several packs into vLLM's plugin; give --to vllm --form plugin", param="pack")
    given = {"--adapter": adapter, "--merged-target": merged_target, "--dialect": dialect}
    for option, value in given.items():
        if value is not None:
            raise InputError(
                f"{option} does not go with --pack: vLLM loads the base model of --target and adds the adapters itself",
                param=option.removeprefix("--").replace("-", "_"),
            )


def _adapters_packs(packs: list[str], loras: list[str]) -> tuple[AdaptersPack, ...]:
    from eda_service.export.packed.packs_over import AdaptersPack

    paths = dict(_pair(text, "lora") for text in loras)
    references = [_pair(text, "pack") for text in packs]
    made = tuple(AdaptersPack(name, reference, paths.pop(name, None)) for name, reference in references)
    if paths:
        raise InputError(f"--lora names {', '.join(sorted(paths))}, for which there is no --pack", param="lora")
    return made


def _pair(text: str, param: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        what = "PACK" if param == "pack" else "PATH"
        raise InputError(f"--{param} {text[:96]!r} is not ADAPTER={what}", param=param)
    return name, value


def _spec(model: str, adapter: str | None) -> TargetSpec:
    try:
        return TargetSpec(model=model, adapter=adapter)
    except ValidationError as error:
        raise first_error(error, TargetSpec, prefix="target.") from error


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

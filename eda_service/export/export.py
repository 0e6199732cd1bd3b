"""Export a pack or a base draft: fold or keep the gate, measure what changes, write, read back, publish."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from eda_service.config.job import Mix, TargetSpec
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.dialects.record import Dialect
from eda_service.drafts.dialects.store import read_dialect
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig, Eagle3Config
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.errors import InputError, TargetIncompatibleError
from eda_service.export.calibration import CalibrationSettings, answer, mean_gate_weights, measure, split
from eda_service.export.command import ServedTarget, serve_command, serving_needs
from eda_service.export.dense import fold, is_gated
from eda_service.export.engine_limits import require_computed, shorter_than_target
from eda_service.export.files.directory import (
    check_written,
    published,
    require_free,
    write_config,
    write_token_map,
    write_weights,
)
from eda_service.export.files.eda_config import Destination, EdaConfig, ExportCalibration, ExportedGate, ExportForm
from eda_service.export.files.values import file_tensors, stored_tensors
from eda_service.export.files.written import contents_of
from eda_service.export.forms import choose_dialect, keeps_vocabulary, require_dialect
from eda_service.export.source import Source, find_source
from eda_service.measured_rows import Frozen
from eda_service.progress import ProgressCallback, no_progress
from eda_service.targets.ends import TargetEnds
from eda_service.targets.files.merged import write_merged
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.load_ends import changed_ends, load_ends
from eda_service.targets.loader import Target, load_target

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportRequest:
    """The source and the destination of an export.

    Attributes:
        reference: Pack or base draft as name@version, or a name for the newest; a pack comes before a base draft of its
            name.
        destination: Engine that will load it.
        form: Dense or plugin.
        out: Directory that does not exist yet.
        target: Target to use instead of the pack's; required for a base draft.
        merged_target: Directory to write the target with its adapter merged to, for other engines to load.
        calibration: Settings of the calibration, for the dense form.
        dialect: Dialect of a draft of kind `eagle3`; None: that of the imported draft, or one that the destination
            reads.
    """

    reference: str
    destination: Destination
    form: ExportForm
    out: Path
    target: TargetSpec | None = None
    merged_target: Path | None = None
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    dialect: Dialect | None = None


class Exported(Frozen):
    """The result of an export.

    Attributes:
        needs: Requirements of the machine that runs `serve_command`, as sentences.
    """

    directory: str
    eda_config: EdaConfig
    serve_command: str
    target_to_merge: bool
    needs: tuple[str, ...] = ()


def export_draft(
    request: ExportRequest, *, home: Path | None = None, on_progress: ProgressCallback = no_progress
) -> Exported:
    """Write an export, whole or not at all.

    Args:
        request: Source and destination of the export.
        home: Root of the registry; None: EDA_HOME.
        on_progress: Function that receives the progress.

    Raises:
        NotFoundError: The pack or base draft does not exist.
        ConflictError: A directory exists already.
        InputError: No target is named, the prompts cannot be used, or the destination does not read the dialect.
        TargetIncompatibleError: The target is not the one the draft was made for, or the destination's engine would
            compute something else.
        ArtifactCorruptError: A source file is damaged, or the export reads back with other values.
    """
    require_free(request.out, "out")
    if request.merged_target is not None:
        require_free(request.merged_target, "merged_target")
    source = find_source(request.reference, home)
    require_dialect(source.loaded.draft.config)
    spec = source.target_spec(request.target)
    found = resolve_target(spec, on_progress)
    on_progress("load", 0, None)
    whole = _needs_answers(source, request) or bool(changed_ends(found))
    return export_source(request, source, load_target(spec) if whole else load_ends(spec), on_progress)


def export_source(
    request: ExportRequest, source: Source, target: TargetEnds, on_progress: ProgressCallback = no_progress
) -> Exported:
    """Write an export of a draft and a target that are already loaded.

    Args:
        request: Source and destination; its `reference` and `target` are ignored.
        source: Draft to export.
        target: Target; a loaded one (`Target`) if the export is calibrated on its answers.
        on_progress: Function that receives the progress.

    Raises:
        ConflictError, InputError, TargetIncompatibleError, ArtifactCorruptError: The errors of `export_draft`.
    """
    config = source.loaded.draft.config
    dialect = _dialect(request, source, config)
    spec = target.spec
    source.check(target.fingerprint)
    check_vocabulary(source.loaded.vocab_W, target)
    require_computed(config, source.loaded.vocab_W, request.destination, request.form, target.lm_head)
    warning = shorter_than_target(config, request.destination, target.max_context)
    if warning is not None:
        logger.warning(warning)
    exported, calibration = _make(source, target, request, on_progress)
    with _merged(request, spec, on_progress):
        on_progress("write", 0, None)
        eda = _write(request, source, target, exported, calibration, dialect)
    command = serve_command(
        request.out.absolute(), _served_target(request, spec), eda, request.calibration.num_draft_tokens
    )
    unmerged = target.fingerprint.adapter is not None and request.merged_target is None
    return Exported(
        directory=str(request.out.absolute()),
        eda_config=eda,
        serve_command=command,
        target_to_merge=unmerged,
        needs=serving_needs(eda, command),
    )


def _needs_answers(source: Source, request: ExportRequest) -> bool:
    """Whether the exported draft differs from the source, so that it is calibrated on answers of the target."""
    draft, vocab_W = source.loaded.draft, source.loaded.vocab_W
    kept = vocab_W is None or keeps_vocabulary(draft.config, request.destination, request.form)
    return (request.form is ExportForm.DENSE and is_gated(draft)) or not kept


def _make(
    source: Source, target: TargetEnds, request: ExportRequest, on_progress: ProgressCallback
) -> tuple[LoadedDraft, ExportCalibration | None]:
    """Make the draft as it is exported, with a measurement of the change if there is one."""
    draft, vocab_W = source.loaded.draft, source.loaded.vocab_W
    kept_W = vocab_W if keeps_vocabulary(draft.config, request.destination, request.form) else None
    stored = stored_tensors(source.base_dir)
    dense = request.form is ExportForm.DENSE
    if not _needs_answers(source, request):
        return LoadedDraft(fold(draft, (1.0, 1.0)) if dense else draft, kept_W), None
    assert isinstance(target, Target), "an export that is calibrated needs a target that answers"
    logger.info("the target answers %d prompts", request.calibration.num_prompts)
    calibrating, measuring = split(answer(target, request.calibration, on_progress, captures=draft.config.captures))
    adapted = LoadedDraft(_rounded(draft, stored, target), vocab_W)
    weights = None
    if isinstance(draft.ffn, SharedPrivateFFN):
        weights = mean_gate_weights(adapted.draft, target, calibrating, request.calibration.num_draft_tokens)
    exported = LoadedDraft(fold(draft, weights or (1.0, 1.0)), kept_W)
    logger.info("measuring acceptance on %d answers", len(measuring))
    on_progress("measure", 0, None)
    calibration = measure(
        target,
        adapted,
        LoadedDraft(_rounded(exported.draft, stored, target), kept_W),
        measuring,
        request.calibration,
        num_calibration_prompts=len(calibrating),
        gate_weights=weights,
    )
    return exported, calibration


def _dialect(request: ExportRequest, source: Source, config: DraftConfig) -> Dialect | None:
    """Choose the dialect of an EAGLE-3 draft; None for EAGLE-1, which engines read in one way.

    Raises:
        InputError: The destination does not read the dialect.
    """
    if isinstance(config, Eagle3Config):
        return choose_dialect(request.dialect, read_dialect(source.base_dir), request.destination, request.form)
    if request.dialect not in (None, Dialect.EAGLE1):
        raise InputError(
            f"--dialect {request.dialect} is one of EAGLE-3, {source.reference} is of kind {config.kind}; leave it out",
            param="dialect",
        )
    return None


def _rounded(draft: Draft, stored: Mapping[str, Tensor], target: Target) -> Draft:
    """Copy a draft with the values of the file, in the target's dtype."""
    rounded = copy.deepcopy(draft)
    rounded.load_state_dict(file_tensors(draft, stored))
    return rounded.to(target.device, target.dtype).requires_grad_(False)


def check_vocabulary(vocab_W: Tensor | None, target: TargetEnds) -> None:
    """Refuse a draft vocabulary with tokens that the target does not have.

    Raises:
        TargetIncompatibleError: The vocabulary has such a token.
    """
    size = target.lm_head.vocab_size
    if vocab_W is not None and int(vocab_W.max()) >= size:
        raise TargetIncompatibleError(
            f"draft vocabulary names token {int(vocab_W.max())}, the target has {size}; name the draft's own target",
            param="target",
        )


def _write(
    request: ExportRequest,
    source: Source,
    target: TargetEnds,
    exported: LoadedDraft,
    calibration: ExportCalibration | None,
    dialect: Dialect | None,
) -> EdaConfig:
    draft, vocab_W = exported.draft, exported.vocab_W
    contents = contents_of(source, target, exported, request.destination, request.form, dialect)
    with published(request.out, "out") as staging:
        ffn = draft.ffn
        named = {contents.names.get(name, name): tensor for name, tensor in contents.tensors.items()}
        eda = EdaConfig(
            source=source.reference,
            method=source.method,
            base_draft=source.base_draft,
            source_sha256=source.sha256,
            weights_sha256=write_weights(staging, named),
            destination=request.destination,
            form=request.form,
            gate=_gate(source.loaded.draft, request.form),
            draft=contents.draft,
            private=draft.private,
            scale=ffn.scale if isinstance(ffn, SharedPrivateFFN) else 1.0,
            draft_vocab_size=None if vocab_W is None else len(vocab_W),
            verifier=target.fingerprint,
            calibration=calibration,
            dialect=dialect,
        )
        write_config(staging, contents.config(eda))
        if vocab_W is not None and dialect is None and request.destination is Destination.SGLANG:
            write_token_map(staging, vocab_W)
        check_written(staging, eda, contents.tensors, vocab_W)
    return eda


def _gate(draft: Draft, form: ExportForm) -> ExportedGate:
    if draft.private is None:
        return ExportedGate.NONE
    if form is ExportForm.DENSE:
        return ExportedGate.FOLDED
    return ExportedGate.SOFTMAX if draft.private.mix is Mix.SOFTMAX else ExportedGate.SUM


@contextmanager
def _merged(request: ExportRequest, spec: TargetSpec, on_progress: ProgressCallback) -> Iterator[None]:
    """Write the target merged where that is asked for; it takes its place only when the block, which puts the export
    into its own, has ended well: of an export that is broken off neither is there.
    """
    if request.merged_target is None:
        yield
        return
    with published(request.merged_target, "merged_target") as staging:
        on_progress("merge", 0, None)
        write_merged(spec, staging)
        yield


def _served_target(request: ExportRequest, spec: TargetSpec) -> ServedTarget:
    """Return the target that the engine must load."""
    if request.merged_target is not None:
        return ServedTarget(str(request.merged_target.absolute()))
    found = resolve_target(spec)
    if found.adapter_dir is not None:
        return ServedTarget("MERGED_TARGET")
    return ServedTarget(str(found.model_dir)) if found.revision is None else ServedTarget(found.model, found.revision)

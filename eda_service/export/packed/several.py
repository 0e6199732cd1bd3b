"""`eda export BASE_DRAFT --pack ADAPTER=PACK ...`: several packs over one base draft, for one vLLM with many adapters.

The export holds the base draft once, which requests without an adapter use, and the own parts of each pack: private
expert and gate; for EAGLE-1 also fc and the draft vocabulary, if a pack has its own. Inside vLLM each request drafts
with its adapter's pack (`draft_packs`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eda_service.config.job import TargetSpec
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.dialects import names
from eda_service.drafts.draft_config import Eagle3Config
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.errors import InputError
from eda_service.export.command import ServedAdapter, ServedTarget, serve_command, serving_needs
from eda_service.export.engine_limits import require_computed, shorter_than_target
from eda_service.export.export import Exported, check_vocabulary
from eda_service.export.files.directory import check_written, published, require_free, write_config, write_weights
from eda_service.export.files.eda_config import (
    Destination,
    EdaConfig,
    ExportedGate,
    ExportedPack,
    ExportForm,
    PackPlaces,
)
from eda_service.export.files.values import file_tensors, stored_tensors
from eda_service.export.files.written import Contents, contents_of
from eda_service.export.forms import DEFAULT_DIALECT, require_dialect
from eda_service.export.packed.pack_parts import VOCABULARIES, in_export, own_parts, shared_sha256
from eda_service.export.packed.packs_over import AdaptersPack, FoundPack, find_pack_over, token_ids
from eda_service.export.source import BASE_DRAFT, Source, find_source
from eda_service.progress import ProgressCallback, no_progress
from eda_service.targets.ends import TargetEnds
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.load_ends import load_ends

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PacksRequest:
    """The source and the destination of an export of several packs.

    Attributes:
        reference: Base draft as name@version.
        packs: Packs over the base draft.
        out: Directory that does not exist yet.
        target: The base target, without an adapter.
        places: Number of places for packs; None: as many as packs.
        num_draft_tokens: Number of tokens K of the chains, for the printed command.
    """

    reference: str
    packs: tuple[AdaptersPack, ...]
    out: Path
    target: TargetSpec | None
    places: int | None = None
    num_draft_tokens: int = 3


def export_packs(
    request: PacksRequest, *, home: Path | None = None, on_progress: ProgressCallback = no_progress
) -> Exported:
    """Write an export of several packs for vLLM, whole or not at all.

    Args:
        request: Source and destination of the export.
        home: Root of the registry; None: EDA_HOME.
        on_progress: Function that receives the progress.

    Raises:
        NotFoundError: The base draft or a pack does not exist.
        ConflictError: The directory exists already.
        InputError: A name is given twice, a pack is over another base draft or has changed what packs must share, or
            no target is named.
        TargetIncompatibleError: A pack is not for an adapter on this target, or vLLM would compute something else.
        ArtifactCorruptError: A source file is damaged, or the export reads back with other values.
    """
    require_free(request.out, "out")
    places = _check_names(request)
    base = find_source(request.reference, home)
    if base.method != BASE_DRAFT:
        raise InputError(
            f"{base.reference} is a pack; name the base draft that the packs are over, {base.base_draft}, and the pack "
            "with --pack ADAPTER=PACK",
            param="reference",
        )
    config = base.loaded.draft.config
    require_dialect(config)
    spec = base.target_spec(request.target)
    on_progress("load", 0, None)
    resolve_target(spec, on_progress)
    target = load_ends(spec)
    if target.fingerprint.adapter is not None:
        raise InputError(
            f"{spec.model} is a base model with the adapter {target.fingerprint.adapter}, and vLLM adds adapters by "
            "itself; name the base model alone with --target",
            param="target",
        )
    base.check(target.fingerprint)
    found = [find_pack_over(pack, base, target, home) for pack in request.packs]
    for each in (base, *(pack.source for pack in found)):
        check_vocabulary(each.loaded.vocab_W, target)
        require_computed(config, each.loaded.vocab_W, Destination.VLLM, ExportForm.PLUGIN, target.lm_head)
    warning = shorter_than_target(config, Destination.VLLM, target.max_context)
    if warning is not None:
        logger.warning(warning)
    on_progress("write", 0, None)
    eda = _write(request, base, target, found, places)
    served = resolve_target(spec)
    words = ServedTarget(str(served.model_dir))
    if served.revision is not None:
        words = ServedTarget(served.model, served.revision)
    adapters = [ServedAdapter(each.adapter, each.adapter_dir) for each in found]
    command = serve_command(request.out.absolute(), words, eda, request.num_draft_tokens, adapters)
    return Exported(
        directory=str(request.out.absolute()),
        eda_config=eda,
        serve_command=command,
        target_to_merge=False,
        needs=serving_needs(eda, command),
    )


def _check_names(request: PacksRequest) -> int:
    adapters = [pack.adapter for pack in request.packs]
    twice = sorted({name for name in adapters if adapters.count(name) > 1})
    if twice:
        raise InputError(f"--pack names the adapter {twice[0]!r} twice; an adapter has one pack", param="pack")
    places = len(adapters) if request.places is None else request.places
    if places < len(adapters):
        raise InputError(
            f"--places {places} is room for fewer than the {len(adapters)} packs; raise it or leave it out",
            param="places",
        )
    return places


def _write(
    request: PacksRequest, base: Source, target: TargetEnds, found: Sequence[FoundPack], places: int
) -> EdaConfig:
    sources = [each.source for each in found]
    stored = stored_tensors(base.base_dir)
    is_eagle3 = isinstance(base.loaded.draft.config, Eagle3Config)
    has_fuse = any(names.FC in (source.loaded.trained or ()) for source in sources)
    has_vocabulary = any(token_ids(source.loaded.vocab_W) != token_ids(base.loaded.vocab_W) for source in sources)
    vocab_W = _union([base, *sources]) if has_vocabulary else base.loaded.vocab_W
    exported = LoadedDraft(base.loaded.draft, vocab_W)
    dialect = DEFAULT_DIALECT if is_eagle3 else None
    contents = contents_of(base, target, exported, Destination.VLLM, ExportForm.PLUGIN, dialect)
    tensors = contents.tensors
    if has_vocabulary:
        _add_vocabularies(tensors, [base, *sources], vocab_W, places - len(found), base.loaded.draft.config.vocab_size)
    for number, source in enumerate(sources):
        whole = file_tensors(source.loaded.draft, stored)
        tensors |= in_export(number, own_parts(whole, with_fuse=has_fuse))
    rows = len(tensors[names.D2T]) if names.D2T in tensors else None
    widths = [source.loaded.draft.private.private_width for source in sources if source.loaded.draft.private]
    room = PackPlaces(
        count=places,
        width=max(widths),
        has_fuse=has_fuse,
        has_vocabulary=has_vocabulary,
        shared_sha256=shared_sha256(tensors, has_fuse=has_fuse, has_vocabulary=has_vocabulary),
    )
    with published(request.out, "out") as staging:
        eda = EdaConfig(
            source=base.reference,
            method=base.method,
            base_draft=base.base_draft,
            source_sha256=base.sha256,
            weights_sha256=write_weights(staging, _named(contents)),
            destination=Destination.VLLM,
            form=ExportForm.PLUGIN,
            gate=ExportedGate.NONE,
            draft=contents.draft,
            private=None,
            scale=1.0,
            draft_vocab_size=rows,
            verifier=target.fingerprint,
            calibration=None,
            dialect=dialect,
            packs=tuple(_exported(each) for each in found),
            places=room,
        )
        write_config(staging, contents.config(eda))
        check_written(staging, eda, tensors, base.loaded.vocab_W)
    return eda


def _named(contents: Contents) -> dict[str, Tensor]:
    return {contents.names.get(name, name): tensor for name, tensor in contents.tensors.items()}


def _exported(found: FoundPack) -> ExportedPack:
    draft = found.source.loaded.draft
    assert draft.private is not None
    ffn = draft.ffn
    return ExportedPack(
        adapter=found.adapter,
        source=found.source.reference,
        source_sha256=found.source.sha256,
        private=draft.private,
        scale=ffn.scale if isinstance(ffn, SharedPrivateFFN) else 1.0,
        verifier=found.verifier,
    )


def _union(sources: Sequence[Source]) -> Tensor | None:
    """Join the tokens that any of the drafts scores, ascending; None for all."""
    scored = [source.loaded.vocab_W for source in sources]
    known = [each for each in scored if each is not None]
    if len(known) < len(scored):
        return None
    union_W = torch.unique(torch.cat(known))
    return None if len(union_W) == sources[0].loaded.draft.config.vocab_size else union_W


def _add_vocabularies(
    tensors: dict[str, Tensor], sources: Sequence[Source], union_W: Tensor | None, free: int, vocab_size: int
) -> None:
    """Add the rows that each draft scores, and spare rows: for every free place a whole vocabulary, and a quarter of
    one, because a pack that takes another's place has other tokens.
    """
    token_U = torch.arange(vocab_size)
    if union_W is not None:
        widest = max(len(each.loaded.vocab_W) for each in sources[1:] if each.loaded.vocab_W is not None)
        spare = min(vocab_size - len(union_W), free * widest + widest // 4)
        token_U = torch.cat([union_W.long(), torch.full((spare,), vocab_size)])
        head_UD = tensors[names.HEAD]
        tensors[names.HEAD] = torch.cat([head_UD, head_UD.new_zeros(spare, head_UD.shape[1])])
        tensors[names.D2T] = token_U - torch.arange(len(token_U))
    is_own = [
        token_U < vocab_size if each.loaded.vocab_W is None else torch.isin(token_U, each.loaded.vocab_W.long())
        for each in sources
    ]
    tensors[VOCABULARIES] = torch.stack(is_own)

"""The contents of an export's files except its `eda_config`: the tensors, their names and the engine's own config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.dialects.names import D2T, T2D
from eda_service.drafts.dialects.record import BaseTarget, Dialect
from eda_service.drafts.dialects.store import extra_tensors, read_dialect
from eda_service.drafts.draft_config import DraftConfig, Eagle3Config
from eda_service.export.eagle3 import engine_parts, written_form
from eda_service.export.files.contents import config_of, tensors_of
from eda_service.export.files.eda_config import Destination, EdaConfig, ExportForm
from eda_service.export.files.values import file_tensors, stored_tensors, widest
from eda_service.export.source import Source
from eda_service.targets.ends import TargetEnds


@dataclass(frozen=True)
class Contents:
    """The contents of an export's files.

    Attributes:
        draft: Config of the exported draft.
        tensors: Tensors by their names here.
        names: Names in the file of those tensors that have another one there.
        config: Function from `eda_config` to the content of `config.json`.
    """

    draft: DraftConfig
    tensors: dict[str, Tensor]
    names: dict[str, str]
    config: Callable[[EdaConfig], dict[str, Any]]


def contents_of(
    source: Source,
    target: TargetEnds,
    exported: LoadedDraft,
    destination: Destination,
    form: ExportForm,
    dialect: Dialect | None,
) -> Contents:
    """Collect the contents for a destination.

    Args:
        source: Draft and its origin.
        target: Target whose rows of the head are included with a draft vocabulary.
        exported: The draft as it is exported.
        destination: Engine that will load it.
        form: Dense or plugin.
        dialect: Dialect of an EAGLE-3 draft.

    Raises:
        TargetIncompatibleError: The destination does not support a part of the draft.
    """
    config, vocab_W = exported.draft.config, exported.vocab_W
    tensors = file_tensors(exported.draft, stored_tensors(source.base_dir))
    if not isinstance(config, Eagle3Config) or dialect is None:
        tensors = tensors_of(config, tensors, vocab_W, target.lm_head, destination)
        dtype = str(widest(tensors)).removeprefix("torch.")
        return Contents(config, tensors, {}, lambda eda: config_of(eda, target.max_context, dtype))
    fingerprint, record = target.fingerprint, read_dialect(source.base_dir)
    extras = {name: at.load() for name, at in extra_tensors(source.base_dir).items() if name in (D2T, T2D)}
    parts = engine_parts(config, tensors, vocab_W, target.lm_head, destination, dialect, extras)
    layout = BaseTarget(
        num_layers=fingerprint.num_layers,
        vocab_size=fingerprint.vocab_size,
        hidden_size=fingerprint.hidden_size,
        max_position_embeddings=target.max_context,
    )
    written = written_form(parts, dialect, layout, record, destination, form, target_model=fingerprint.model)
    return Contents(
        parts.config,
        parts.tensors,
        {name: written.name(name) for name in parts.tensors},
        lambda eda: {**written.config, "eda_config": eda.model_dump(mode="json")},
    )

"""Reading a published directory with a draft into a config and tensors of this project.

The order is: the files and their headers, pickled files converted first (`conversion`); drafts of other kinds refused
by their names (`foreign`); the kind and the config from tensors and settings (`kinds`); the tensors against the config
(`shapes`); the vocabulary (`vocabulary`); at last every number (`tensors`). Only converted files are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from eda_service.drafts.dialects import names
from eda_service.drafts.dialects.changes import require_same_computation
from eda_service.drafts.dialects.conversion import ImportLimits, convert
from eda_service.drafts.dialects.files import TensorFile, pickled_files, read_config, tensor_files, unread_weights
from eda_service.drafts.dialects.foreign import require_ours, require_plain_weights
from eda_service.drafts.dialects.kinds import dialect_of, kind_of
from eda_service.drafts.dialects.kinds import read_config as read_draft_config
from eda_service.drafts.dialects.overrides import parse_overrides
from eda_service.drafts.dialects.record import (
    Assumption,
    BaseTarget,
    Dialect,
    DialectRecord,
    SourceFile,
    SourceTensor,
)
from eda_service.drafts.dialects.refusal import PARAM, refusal
from eda_service.drafts.dialects.settings import Fields, Settings
from eda_service.drafts.dialects.shapes import expected_shapes, require_shapes
from eda_service.drafts.dialects.shared_fields import Source
from eda_service.drafts.dialects.tensors import WEIGHT_DTYPES, TensorAt, require_dtypes, sha256_of_sound
from eda_service.drafts.dialects.vocabulary import draft_vocabulary
from eda_service.drafts.draft_config import CONFIGS, DraftConfig, Eagle3Config
from eda_service.errors import UnsafeDraftError

_MAPS = (names.D2T, names.T2D)


@dataclass(frozen=True)
class ReadDraft:
    """A draft that was read; its data is still in the files it came in.

    Attributes:
        config: Config of the draft.
        tensors: Tensors that the draft computes with, by canonical name.
        extras: Other tensors in the files, by their name in the file.
        vocab_W: Token ids (W) of its head's rows, int32; None: all of the target's.
        record: Description of the files.
    """

    config: DraftConfig
    tensors: Mapping[str, TensorAt]
    extras: Mapping[str, TensorAt]
    vocab_W: Tensor | None
    record: DialectRecord

    @property
    def dialect(self) -> Dialect:
        """The dialect of the files."""
        return self.record.dialect

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        """Every value that the files do not say plainly, with the reason for it."""
        return self.record.assumed


def read_source(
    directory: Path,
    target: BaseTarget,
    *,
    overrides: Mapping[str, str] | None = None,
    scratch: Path | None = None,
    limits: ImportLimits | None = None,
) -> ReadDraft:
    """Read a draft from a directory.

    Args:
        directory: Directory with `config.json` and the weights.
        target: The base target that it drafts for.
        overrides: Fields of the draft's config by name, as text; they replace the values of the files.
        scratch: Empty directory for the safetensors converted from pickled files, to be kept while the draft is used;
            None: pickled files are refused.
        limits: Limits on converting; None: the defaults.

    Raises:
        DraftIncompatibleError: The files hold no draft that can be computed here, are damaged, contradict themselves,
            or are for another target.
        UnsafeDraftError: A header does not describe its file, or a pickled file holds more than tensors.
        InputError: An override names no field, or its value does not fit the field.
    """
    config, config_text = read_config(directory)
    settings = Settings(config)
    files = _open(directory, scratch, limits or ImportLimits())
    found = _tensors(files)
    require_ours(found, settings)
    require_plain_weights(found, settings)
    known, unknown = _by_canonical_name(found)
    shapes = {name: at.shape for name, at in known.items()}
    maps = {name: known.pop(name) for name in _MAPS if name in known}
    kind = kind_of(shapes)
    require_same_computation(settings, kind)
    require_dtypes(known, WEIGHT_DTYPES)
    fields = Fields(parse_overrides(overrides or {}, CONFIGS[kind]))
    published = {name: at.name for name, at in known.items()}
    dialect = dialect_of(kind, published, settings)
    draft = read_draft_config(Source(settings, shapes, target, fields), kind, dialect)
    require_shapes(draft, shapes, published)
    tensors = {name: known[name] for name in expected_shapes(draft)}
    switched_off = {at.name: at for name, at in known.items() if name not in tensors}
    _require_meant(draft, switched_off, known, fields)
    _require_harmless(draft, unknown)
    vocab_W = _vocabulary(draft, maps, settings, target, fields)
    checked = {at.name: name for name, at in known.items()}
    record = DialectRecord(
        dialect=dialect,
        kind=kind,
        target=target,
        files=tuple(_source_file(file, checked) for file in files),
        tensors=tuple(_source_tensor(at, tensors) for at in found.values()),
        model_prefix=_model_prefix(published),
        layer_prefix=_layer_prefix(published),
        config_text=config_text,
        unread_keys=settings.unread(),
        unread_files=unread_weights(directory, _published_paths(directory, files)),
        assumed=tuple(fields.assumed),
        overrides=dict(overrides or {}),
    )
    extras = {**unknown, **switched_off, **{at.name: at for at in maps.values()}}
    return ReadDraft(draft, tensors, extras, vocab_W, record)


def _open(directory: Path, scratch: Path | None, limits: ImportLimits) -> tuple[TensorFile, ...]:
    paths = tensor_files(directory)
    if paths:
        return tuple(TensorFile.of(path) for path in paths)
    pickled = pickled_files(directory)
    if scratch is None:
        raise UnsafeDraftError(
            f"{directory} holds the draft as {pickled[0].name}, a pickle, which is a program; only safetensors are "
            "read here: import the draft, which converts it in a process of its own, or publish it as safetensors",
            param=PARAM,
        )
    return convert(pickled, scratch, limits)


def _tensors(files: tuple[TensorFile, ...]) -> dict[str, TensorAt]:
    found: dict[str, TensorAt] = {}
    for file in files:
        for name in file.places:
            if name in found:
                raise refusal(
                    f"{name} stands in {found[name].file.name} and in {file.name}; each tensor belongs into one file: "
                    "save the draft again"
                )
            found[name] = TensorAt(file, name)
    return found


def _by_canonical_name(found: Mapping[str, TensorAt]) -> tuple[dict[str, TensorAt], dict[str, TensorAt]]:
    """Split tensors into known ones (with the maps of the vocabulary), by canonical name, and the rest, by name in the
    file.
    """
    known: dict[str, TensorAt] = {}
    unknown: dict[str, TensorAt] = {}
    for name, at in found.items():
        canonical = names.canonical_name(name)
        if canonical not in names.KNOWN and canonical not in _MAPS and not names.is_each_norm(canonical):
            unknown[name] = at
        elif canonical in known:
            raise refusal(
                f"{known[canonical].name} and {name} are both {canonical}; leave the one that belongs to the draft"
            )
        else:
            known[canonical] = at
    return known, unknown


def _require_meant(
    draft: DraftConfig, left: Mapping[str, TensorAt], known: Mapping[str, TensorAt], fields: Fields
) -> None:
    """Refuse a known tensor that this draft does not compute with, unless the caller has set the field that leaves it
    out.
    """
    canonical = {at.name: name for name, at in known.items()}
    for name in left:
        field = _FIELD_OF.get(canonical[name], "fc_norm" if names.is_each_norm(canonical[name]) else "")
        if field in fields.overridden:
            continue
        extra = (
            "; EAGLE-1 has neither an input norm nor a final norm: drafts of NeMo AutoModel and HASS that have them "
            "are another architecture"
        )
        raise refusal(
            f"the file has {name} {list(left[name].shape)}, which a draft of kind {draft.kind} with this config does "
            f"not compute with{extra if draft.kind == 'eagle1' and 'norm' in name else ''}; import a draft without it"
        )


_FIELD_OF = {
    names.EMBEDDING: "own_embedding",
    names.HEAD: "own_head",
    names.INPUT_NORM: "norm_before_fc",
    names.JOINT_NORM: "fc_norm",
    names.HIDDEN_NORM: "has_hidden_norm",
    names.FC: "layers",
    names.FC_BIAS: "fc_bias",
    names.attention("o", "bias"): "o_bias",
    **{names.attention(each, "bias"): "qkv_bias" for each in "qkv"},
    **{names.head_norm(each): "qk_norm" for each in "qk"},
}
"""The config field that says whether a draft has a tensor, for tensors that may be left out."""


def _require_harmless(draft: DraftConfig, unknown: Mapping[str, TensorAt]) -> None:
    odd = sorted(name for name in unknown if not names.is_buffer(name))
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        shown = ", ".join(f"{name[:96]} {list(unknown[name].shape)}" for name in odd[:3])
        raise refusal(
            f"the file has tensors that no draft of kind {draft.kind} here computes with: {shown}{more}; what they "
            "would do is not known, so it cannot be computed: import a draft without them"
        )


def _vocabulary(
    draft: DraftConfig, maps: Mapping[str, TensorAt], settings: Settings, target: BaseTarget, fields: Fields
) -> Tensor | None:
    d2t, t2d = maps.get(names.D2T), maps.get(names.T2D)
    if isinstance(draft, Eagle3Config):
        size = draft.draft_vocab_size
    else:
        size = (
            d2t.shape[0] if d2t is not None and d2t.shape else settings.whole("draft_vocab_size") or target.vocab_size
        )
    return draft_vocabulary(d2t, t2d, draft_vocab_size=size, vocab_size=target.vocab_size, fields=fields)


def _source_file(file: TensorFile, checked: Mapping[str, str]) -> SourceFile:
    return SourceFile(
        name=file.name,
        size_bytes=file.identity.size_bytes,
        sha256=sha256_of_sound(file, checked),
        header=file.header_text(),
        pickled=file.pickled,
    )


def _source_tensor(at: TensorAt, tensors: Mapping[str, TensorAt]) -> SourceTensor:
    canonical = names.canonical_name(at.name)
    used = canonical in tensors and tensors[canonical].name == at.name
    return SourceTensor(
        name=at.name, file=at.file.name, dtype=at.dtype, shape=at.shape, canonical=canonical if used else None
    )


def _model_prefix(published: Mapping[str, str]) -> Literal["", "model."]:
    return "model." if any(name.startswith(names.MODEL) for name in published.values()) else ""


def _layer_prefix(published: Mapping[str, str]) -> Literal["layers.0.", "midlayer."]:
    called = (name.removeprefix(names.MODEL) for name in published.values())
    return "midlayer." if any(name.startswith(names.MIDLAYER) for name in called) else "layers.0."


def _published_paths(directory: Path, files: tuple[TensorFile, ...]) -> list[Path]:
    return [directory / (file.name if file.pickled is None else file.pickled.name) for file in files]

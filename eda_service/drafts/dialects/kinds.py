"""The kind of a draft, found from its tensors, and its config. Imports no torch.

An EAGLE-3 layer reads embedding and state side by side, so its queries have twice the draft's width; an EAGLE-1 layer
reads the output of fc. Only that decides the kind, not the name that a config gives to the draft.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from eda_service.drafts.dialects import names
from eda_service.drafts.dialects.flags import read_flags
from eda_service.drafts.dialects.layers import read_layers
from eda_service.drafts.dialects.record import Dialect
from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.dialects.settings import EAGLE, Settings
from eda_service.drafts.dialects.shapes import Shape
from eda_service.drafts.dialects.shared_fields import Source, read_shared
from eda_service.drafts.draft_config import CONFIGS, DraftConfig
from eda_service.field_errors import field_error

_LINEAR_TYPES = ("linear", "dynamic")


def kind_of(shapes: Mapping[str, Shape]) -> str:
    """Return `eagle1` or `eagle3`.

    Raises:
        DraftIncompatibleError: The tensors belong to neither kind.
    """
    query, out = shapes.get(names.attention("q")), shapes.get(names.attention("o"))
    if query is None or out is None or len(query) != 2 or len(out) != 2:
        raise refusal(
            f"the file has no {names.attention('q')} and {names.attention('o')} of two dimensions (it has "
            f"{', '.join(sorted(shapes)[:4]) or 'no tensors'}, ...); a draft of kind EAGLE-1 or EAGLE-3 has both: "
            "fetch it again, or name the directory of a draft"
        )
    width, d = query[1], out[0]
    if width == 2 * d:
        return "eagle3"
    fc = shapes.get(names.FC)
    if width == d and fc == (d, 2 * d):
        return "eagle1"
    raise refusal(
        f"{names.attention('q')} has shape {list(query)} and {names.FC} {'is not there' if fc is None else list(fc)}; "
        f"with hidden_size {d}, EAGLE-3 reads {2 * d} wide, and EAGLE-1 reads {d} wide behind fc.weight {[d, 2 * d]}: "
        "this is neither; import the draft as it was published"
    )


def dialect_of(kind: str, published: Mapping[str, str], settings: Settings) -> Dialect:
    """Return the dialect in which the files are written.

    Args:
        kind: Kind of the draft.
        published: Names in the files by canonical name, of all known tensors.
        settings: Settings of the draft's `config.json`.
    """
    called = set(published.values())
    has_target_type = bool(settings.value("target_model_type", "")[0])
    is_midlayer = any(name.startswith(names.MIDLAYER) for name in called)
    signs = (
        (Dialect.NEMO, any(name.startswith(names.MODEL) for name in called)),
        (Dialect.SPECULATORS, settings.is_speculators or bool(settings.value("speculators_model_type", "")[0])),
        (Dialect.EAGLE1, kind == "eagle1"),
        (Dialect.ANGELSLIM, has_target_type),
        (Dialect.EAGLE3, is_midlayer and names.EMBEDDING in published),
        (Dialect.SPECFORGE, is_midlayer),
        (Dialect.DEEPSPEC, bool(settings.ids("target_layer_ids", "")[1])),
    )
    return next((dialect for dialect, is_seen in signs if is_seen), Dialect.MODELOPT)


def read_config(source: Source, kind: str, dialect: Dialect) -> DraftConfig:
    """Read the draft's config, of the class that its kind has.

    Raises:
        DraftIncompatibleError: Settings, tensors and target do not fit together.
    """
    source.settings.value("model_type")
    source.settings.value("architectures")
    read_shared(source)
    if kind == "eagle3":
        _read_eagle3(source, dialect)
    else:
        _read_eagle1(source)
    try:
        return CONFIGS[kind].model_validate({**source.fields.found, "kind": kind})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise refusal(f"{field_error(first, name=where)}; correct config.json, or --set the field") from error


def _read_eagle1(source: Source) -> None:
    settings, fields, d = source.settings, source.fields, source.fields.found["hidden_size"]
    fields.take("target_hidden_size", lambda: _target_width(source, d))
    if fields.found["target_hidden_size"] not in (None, d):
        raise refusal(
            f"the target's states are {fields.found['target_hidden_size']} wide, an EAGLE-1 draft of hidden_size {d} "
            f"reads {d}; import the draft for the target that it was trained for"
        )
    scaling, theta = fields.found["rope_scaling"], fields.found["rope_theta"]
    if scaling is not None and scaling.rope_type in _LINEAR_TYPES and theta != 10_000:
        fields.assume(
            "rope_theta",
            theta,
            "the authors' code takes 10000 where the scaling is linear, engines take what is written",
        )
    said = settings.whole("draft_vocab_size")
    if said not in (None, source.target.vocab_size) and not source.has(names.D2T):
        raise refusal(
            f"config.json: draft_vocab_size is {said}, an EAGLE-1 draft scores the target's {source.target.vocab_size} "
            f"tokens unless the file has {names.D2T}; correct it"
        )


def _read_eagle3(source: Source, dialect: Dialect) -> None:
    settings, fields, shapes = source.settings, source.fields, source.shapes
    d, num_layers = fields.found["hidden_size"], settings.whole("num_target_layers")
    if num_layers not in (None, source.target.num_layers):
        raise refusal(
            f"config.json: num_target_layers is {num_layers}, the target has {source.target.num_layers}; import the "
            "draft for the target that it was trained for"
        )
    width = fields.take("target_hidden_size", lambda: _target_width(source, d)) or d
    layers = fields.take("layers", lambda: _layers(source, width))
    if layers and layers[-1] > source.target.num_layers:
        raise refusal(
            f"layers is {list(layers)}, and the target has {source.target.num_layers}; --set layers of the target's"
        )
    fields.take("own_head", lambda: _own_head(source))
    fields.take("draft_vocab_size", lambda: _draft_vocab_size(source))
    fields.take("logit_scale", lambda: settings.number("logit_scale") or 1.0)
    if not fields.found["own_head"] and fields.found["logit_scale"] != 1:
        raise refusal(
            f"config.json: logit_scale is {fields.found['logit_scale']:g}, and the file has no {names.HEAD} that it "
            "could scale: the target's head has a scale of its own; import a draft with its own head"
        )
    tied = settings.flag("tie_word_embeddings")
    if tied and names.HEAD not in shapes and names.EMBEDDING in shapes and "own_head" not in fields.overridden:
        raise refusal(
            f"config.json: tie_word_embeddings is true, the file has {names.EMBEDDING} and no {names.HEAD}: engines "
            "score by the target's head then, transformers by the draft's embedding; save the head, or --set "
            "own_head=false"
        )
    read_flags(source, dialect)


def _target_width(source: Source, d: int) -> int | None:
    """Return the width of the target's states; None if it is the draft's own width, as the config expects."""
    said, target = source.settings.whole("target_hidden_size"), source.target.hidden_size
    if said not in (None, target):
        raise refusal(
            f"config.json: target_hidden_size is {said}, the target's states are {target} wide; import the draft for "
            "the target that it was trained for"
        )
    if said is None and target != d:
        source.fields.assume(
            "target_hidden_size", target, f"the config has none, and the target's is not the draft's {d}"
        )
    return None if target == d else target


def _layers(source: Source, width: int) -> tuple[int, ...]:
    settings, fc = source.settings, source.shapes.get(names.FC)
    said = settings.flag("use_aux_hidden_state", EAGLE, "")
    if fc is None:
        if said:
            raise refusal(
                "config.json: eagle_config.use_aux_hidden_state is true, and the file has no fc.weight that would read "
                "those states; fetch the draft again"
            )
        if said is None:
            source.fields.assume(
                "layers", [], "the file has no fc.weight, so the draft reads the target's last state, normed"
            )
        return ()
    if said is False:
        raise refusal(
            "config.json: eagle_config.use_aux_hidden_state is false, and the file has fc.weight, which reads such "
            "states; correct it, or --set layers='[...]'"
        )
    if len(fc) != 2 or fc[1] % width:
        raise refusal(
            f"fc.weight has shape {list(fc)}, its width is no multiple of the {width} of the target's states; import "
            "the draft for the target that it was trained for"
        )
    return read_layers(settings, source.fields, source.target, fc[1] // width)


def _own_head(source: Source) -> bool:
    if names.HEAD in source.shapes:
        return True
    source.fields.assume(
        "own_head", False, f"the file has no {names.HEAD}, so the target's head scores, as in the engines"
    )
    return False


def _draft_vocab_size(source: Source) -> int:
    said, fields = source.settings.whole("draft_vocab_size"), source.fields
    if said is not None:
        return said
    for name in (names.HEAD, names.D2T):
        if source.shapes.get(name):
            found = source.shapes[name][0]
            if found != source.target.vocab_size:
                fields.assume("draft_vocab_size", found, f"the config has none; it is the first dimension of {name}")
            return found
    return source.target.vocab_size

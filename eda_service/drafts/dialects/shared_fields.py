"""Reading of the config fields that drafts of every kind have, from a file's settings and tensors. Imports no torch.

If the settings lack a value, the tensors decide, and an assumption is recorded. If the settings contradict the tensors,
either the tensors decide and an assumption is recorded (biases), or the draft is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from eda_service.drafts.dialects import names
from eda_service.drafts.dialects.record import BaseTarget
from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.dialects.rope import read_scaling, read_theta
from eda_service.drafts.dialects.settings import Fields, Settings
from eda_service.drafts.dialects.shapes import Shape

_DEFAULT_EPSILON = 1e-6  # transformers' value for a Llama config without one
_SUFFIX = "; fetch the draft again, or --set {field}={value}"


@dataclass(frozen=True)
class Source:
    """The settings and tensors that a config is read from.

    Attributes:
        shapes: Shapes of the tensors by canonical name.
    """

    settings: Settings
    shapes: dict[str, Shape]
    target: BaseTarget
    fields: Fields

    def has(self, *tensors: str) -> bool:
        """Whether one of these tensors is in the files."""
        return any(name in self.shapes for name in tensors)

    def size(self, field: str, key: str, tensor: str, dimension: int) -> int:
        """Return a size from the settings, else from a tensor's dimension.

        Args:
            field: Field of the draft's config.
            key: Key of the settings.
            tensor: Canonical name of the tensor that shows the size.
            dimension: Index of the dimension in that tensor.
        """
        return self.fields.take(field, lambda: self._size(field, key, tensor, dimension))

    def _size(self, field: str, key: str, tensor: str, dimension: int) -> int:
        said = self.settings.whole(key)
        if said is not None:
            return said
        shape = self.shapes.get(tensor)
        if shape is None or len(shape) <= dimension:
            raise refusal(
                f"config.json has no {key}, and the file has no {tensor} that shows it; fetch the draft again"
            )
        self.fields.assume(field, shape[dimension], f"the config has no {key}; it is a dimension of {tensor}")
        return shape[dimension]

    def part(self, field: str, *, is_there: bool, said: bool | None, what: str, if_silent: str | None = None) -> bool:
        """Whether a draft has a part that has tensors of its own and a setting that announces it.

        Args:
            field: Field of the draft's config.
            is_there: Whether the files have the tensors.
            said: Value of the setting; None: absent.
            what: Name of the tensors and of the setting, for a message.
            if_silent: Assumption to record if the tensors exist and the setting is absent; None: record nothing.

        Raises:
            DraftIncompatibleError: The settings and the files contradict each other.
        """
        return self.fields.take(field, lambda: self._part(field, is_there, said, what, if_silent))

    def _part(self, field: str, is_there: bool, said: bool | None, what: str, if_silent: str | None) -> bool:
        if said is None:
            if is_there and if_silent:
                self.fields.assume(field, True, if_silent)
            return is_there
        if said != is_there:
            seen = "has" if is_there else "does not have"
            raise refusal(
                f"config.json says that {field} is {str(said).lower()}, and the file {seen} "
                f"{what}{_SUFFIX.format(field=field, value=str(is_there).lower())}, if you know what it was trained "
                "with"
            )
        return is_there


def read_shared(source: Source) -> None:
    """Read every field of `DraftConfig` except the width of the target's states.

    Raises:
        DraftIncompatibleError: A field contradicts the tensors or the target.
    """
    settings, fields, shapes = source.settings, source.fields, source.shapes
    d = source.size("hidden_size", "hidden_size", names.FFN_NORM, 0)
    _read_heads(source, d)
    source.size("expert_width", "intermediate_size", names.ffn("gate"), 0)
    fields.take("vocab_size", lambda: _vocab_size(source))
    fields.take("rope_theta", lambda: read_theta(settings, fields, source.target))
    fields.take("rope_scaling", lambda: read_scaling(settings, fields, fields.found["head_dim"]))
    fields.take("rms_norm_eps", lambda: _epsilon(source))
    _read_biases(source)
    fields.take("own_embedding", lambda: names.EMBEDDING in shapes)
    if settings.word("hidden_act") is None and settings.word("hidden_activation") is None:
        fields.assume("hidden_act", "silu", "the config names no activation, and engines take transformers' default")
    _read_positions(source)


def _read_heads(source: Source, d: int) -> None:
    settings, fields = source.settings, source.fields
    heads = fields.take("num_heads", lambda: _needed(settings.whole("num_attention_heads"), "num_attention_heads"))
    rows, kv_rows = (source.shapes.get(names.attention(each), (0,))[0] for each in "qk")
    head_dim = fields.take("head_dim", lambda: _head_dim(source, d, heads, rows))
    kv_heads = fields.take("num_kv_heads", lambda: _kv_heads(source, heads, head_dim, kv_rows))
    if head_dim % 2:
        raise refusal(f"head_dim is {head_dim}, an even one is needed by its rotation; correct it or --set head_dim=N")
    if heads % kv_heads:
        raise refusal(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}; correct them, or --set "
            "num_heads=N and num_kv_heads=N"
        )


def _needed(value: int | None, key: str) -> int:
    if value is None:
        raise refusal(f"config.json has no {key}, and no tensor shows it; add it, or --set num_heads=N")
    return value


def _head_dim(source: Source, d: int, heads: int, rows: int) -> int:
    said = source.settings.whole("head_dim")
    usual = d // heads
    if said is None:
        if rows and rows != heads * usual and rows % heads == 0:
            source.fields.assume(
                "head_dim", rows // heads, f"the config has none, and q_proj has {rows} rows for {heads} heads"
            )
            return rows // heads
        return usual
    if said * heads != rows and usual * heads == rows:
        source.fields.assume("head_dim", usual, f"the config says {said}, and q_proj has {rows} rows for {heads} heads")
        return usual
    return said


def _kv_heads(source: Source, heads: int, head_dim: int, kv_rows: int) -> int:
    said = source.settings.whole("num_key_value_heads")
    if said is None and kv_rows and kv_rows != heads * head_dim and kv_rows % head_dim == 0:
        found = kv_rows // head_dim
        source.fields.assume(
            "num_kv_heads", found, f"the config has none, and k_proj has {kv_rows} rows of heads of width {head_dim}"
        )
        return found
    return heads if said is None else said


def _vocab_size(source: Source) -> int:
    said, target = source.settings.whole("vocab_size"), source.target.vocab_size
    if said not in (None, target):
        raise refusal(
            f"config.json: vocab_size is {said}, the target has {target} tokens; import the draft for the target that "
            "it was trained for"
        )
    return target


def _epsilon(source: Source) -> float:
    said = source.settings.number("rms_norm_eps")
    if said is None:
        source.fields.assume(
            "rms_norm_eps", _DEFAULT_EPSILON, "the config names none, and engines take transformers' default"
        )
        return _DEFAULT_EPSILON
    return said


def _read_biases(source: Source) -> None:
    """Read the biases from the tensors: `bias` means fc's to some tools and attention's to others, and
    is often wrong.
    """
    settings = source.settings
    qkv = source.has(*(names.attention(each, "bias") for each in "qkv"))
    out, fc = source.has(names.attention("o", "bias")), source.has(names.FC_BIAS)
    bias, attention_bias = settings.flag("bias"), settings.flag("attention_bias")
    qkv_said, fc_said = settings.flag("qkv_bias"), settings.flag("fc_bias")
    of_attention = attention_bias if qkv_said is None else qkv_said
    _bias(source, "qkv_bias", qkv, of_attention, "q_proj.bias")
    _bias(source, "o_bias", out, attention_bias, "o_proj.bias", is_needed=False)
    _bias(source, "fc_bias", fc, bias if fc_said is None else fc_said, "fc.bias", is_needed=fc_said is True or not qkv)


def _bias(
    source: Source, field: str, is_there: bool, said: bool | None, tensor: str, *, is_needed: bool = True
) -> None:
    def read() -> bool:
        if said and not is_there and is_needed:
            raise refusal(
                f"config.json says that there is a {tensor}, and the file has "
                f"none{_SUFFIX.format(field=field, value='false')} if it was trained without"
            )
        if said is not None and said != is_there:
            source.fields.assume(
                field,
                is_there,
                f"the config says {str(said).lower()}, and the file {'has' if is_there else 'has no'} {tensor}",
            )
        return is_there

    source.fields.take(field, read)


def _read_positions(source: Source) -> None:
    """Record it if the draft's config has fewer positions than the target, because engines cut off or
    fail beyond them.
    """
    said, target = source.settings.whole("max_position_embeddings"), source.target.max_position_embeddings
    if said is not None and target is not None and said < target:
        source.fields.assume(
            "max_position_embeddings",
            target,
            f"the draft's config says {said}, fewer than the target's, beyond which its acceptance falls; it is used, "
            "and handed back, for all of the target's",
        )

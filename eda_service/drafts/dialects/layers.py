"""The target's states that an EAGLE-3 draft reads: each dialect counts layers in its own way. Imports no torch.

Here they are counted as in transformers' `hidden_states`: i is the state after i layers, 0 the embedding.

| Key                                              | Counts                            | Here       |
|--------------------------------------------------|-----------------------------------|------------|
| `eagle_aux_hidden_state_layer_ids` at the top    | as here (speculators, vLLM)       | as it is   |
| `aux_hidden_state_layer_ids` at the top          | as here (speculators)             | as it is   |
| `eagle_config.layer_ids`                         | as here (vLLM)                    | as it is   |
| `eagle_config.eagle_aux_hidden_state_layer_ids`  | outputs of layers, from 0         | one more   |
| `target_layer_ids` at the top                    | outputs of layers, from 0         | one more   |
| none                                             |                                   | 2, N/2, N-3 |
"""

from __future__ import annotations

from eda_service.drafts.dialects.record import BaseTarget
from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.dialects.settings import EAGLE, Fields, Settings

_IDS = "eagle_aux_hidden_state_layer_ids"
_AS_HERE = ((_IDS, ("",)), ("aux_hidden_state_layer_ids", ("",)), ("layer_ids", (EAGLE,)))
_OUTPUTS = ((_IDS, (EAGLE,)), ("target_layer_ids", ("",)))
_SET = "correct it, or --set layers='[...]', counting the states after so many layers"


def default_layers(num_layers: int) -> tuple[int, ...]:
    """Return the layers that every writer and engine takes if the config names none."""
    return (2, num_layers // 2, num_layers - 3)


def read_layers(settings: Settings, fields: Fields, target: BaseTarget, num_states: int) -> tuple[int, ...]:
    """Read the indices of the states, in ascending order.

    Args:
        settings: Settings of the draft's `config.json`.
        fields: Fields of the config, in which assumptions are recorded.
        target: Base target, whose layers they are.
        num_states: Number of states that fc reads, from its width.

    Raises:
        DraftIncompatibleError: The number of layers differs, they are not ascending, or the target lacks one of them.
    """
    plain = [
        (key, ids) for name, groups in _AS_HERE if (found := settings.ids(name, *groups))[1] for key, ids in [found]
    ]
    outputs = [
        (key, ids) for name, groups in _OUTPUTS if (found := settings.ids(name, *groups))[1] for key, ids in [found]
    ]
    if plain:
        key, written = plain[0]
        layers = written
        _compare(fields, key, layers, [*plain[1:], *((other, _after(other, ids, target)) for other, ids in outputs)])
        if layers == tuple(each - 1 for each in default_layers(target.num_layers)):
            fields.assume(
                "layers",
                list(layers),
                f"{key} is taken as it stands, though it is the usual choice less one, as a converter leaves it that "
                "copies counts of outputs; one more each may be meant",
            )
    elif outputs:
        key, written = outputs[0]
        layers = _after(key, written, target)
        _compare(fields, key, layers, [(other, _after(other, ids, target)) for other, ids in outputs[1:]])
        fields.assume("layers", list(layers), _why(key, written, layers, target))
    else:
        key, written, layers = "", (), _default(fields, target, num_states)
    _require_count(settings, key, layers, num_states)
    _require_in_target(key, written, layers, target)
    return layers


def _after(key: str, outputs: tuple[int, ...], target: BaseTarget) -> tuple[int, ...]:
    """Convert layer outputs counted from 0 into indices of states. The last layer's output is N-1; so if a key that
    some writers fill with states has N, it already counts states (NVIDIA's drafts for gpt-oss do).
    """
    counts_states = key.startswith(EAGLE) and max(outputs) == target.num_layers
    return outputs if counts_states else tuple(each + 1 for each in outputs)


def _why(key: str, written: tuple[int, ...], layers: tuple[int, ...], target: BaseTarget) -> str:
    if layers == written:
        return (
            f"{key} names {target.num_layers}, which no output of {target.num_layers} layers counted from 0 has, so it "
            "is taken as it stands"
        )
    if layers == default_layers(target.num_layers):
        return f"{key} counts outputs of layers from 0, so each is one more here; that gives the usual choice"
    if written == default_layers(target.num_layers):
        return (
            f"{key} counts outputs of layers from 0, so each is one more here; as it stands it would be the usual "
            "choice, which may be meant"
        )
    return f"{key} counts outputs of layers from 0, so each is one more here"


def _default(fields: Fields, target: BaseTarget, num_states: int) -> tuple[int, ...]:
    layers = default_layers(target.num_layers)
    usable = num_states == len(layers) and list(layers) == sorted(set(layers)) and layers[0] >= 0
    if not usable:
        raise refusal(
            f"config.json names no layers, fc.weight reads {num_states} states, and the usual choice for a target of "
            f"{target.num_layers} layers would be {list(layers)}; {_SET}"
        )
    fields.assume(
        "layers", list(layers), "the config names none, and every writer and engine takes 2, N/2 and N-3 then"
    )
    return layers


def _compare(fields: Fields, key: str, layers: tuple[int, ...], others: list[tuple[str, tuple[int, ...]]]) -> None:
    """Record an assumption for each further list of layers in the config that differs from the one that is used."""
    for other, ids in others:
        if ids != layers:
            fields.assume("layers", list(layers), f"{key} says it; {other} would say {list(ids)}")


def _require_count(settings: Settings, key: str, layers: tuple[int, ...], num_states: int) -> None:
    if len(layers) != num_states:
        raise refusal(
            f"config.json: {key} names {len(layers)} layers, fc.weight reads {num_states} states of the target; {_SET}"
        )
    for name in ("num_aux_hidden_states", "num_aux_layers"):
        said = settings.whole(name)
        if said is not None and said != num_states:
            raise refusal(
                f"config.json: {name} is {said}, fc.weight reads {num_states} states of the target; correct it"
            )


def _require_in_target(key: str, written: tuple[int, ...], layers: tuple[int, ...], target: BaseTarget) -> None:
    if list(layers) != sorted(set(layers)):
        raise refusal(f"config.json: {key} is {list(written)}, ascending numbers are needed, each once; {_SET}")
    if layers[0] < 0 or layers[-1] > target.num_layers:
        raise refusal(
            f"config.json: {key} is {list(written)}, the states after {list(layers)} layers, and the target has "
            f"{target.num_layers}; import the draft for the target that it was trained for, or {_SET}"
        )

"""The settings of a model's `generation_config.json`: values that a request may leave out, and settings that no engine
here supports, which are refused by name.

The values are those that vLLM takes from the file (`--generation-config auto`), and the suppressed tokens, which
transformers' `generate` takes too. The table of all keys is in docs/reference/generation-config.md. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from eda_service.errors import TargetIncompatibleError, TargetNotFoundError
from eda_service.storage.inputs import bounded_json

FILE = "generation_config.json"
_PARAM = "target.model"


@dataclass(frozen=True)
class GenerationDefaults:
    """Values for a request that does not set them; None and an empty set: the file does not set them.

    Attributes:
        temperature: Sampling temperature; 0 is greedy.
        top_k: Number of most likely tokens that are kept; 0: all tokens.
        repetition_penalty: Penalty over prompt and answer; presence and frequency penalties are over the answer.
        max_new_tokens: Largest number of tokens of an answer.
        suppress_token_ids: Tokens that are never chosen.
        begin_suppress_token_ids: Tokens that are never chosen as an answer's first token.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_new_tokens: int | None = None
    suppress_token_ids: frozenset[int] = frozenset()
    begin_suppress_token_ids: frozenset[int] = frozenset()

    def within(self, vocab_size: int) -> GenerationDefaults:
        """Drop tokens that have no logit: they can never be chosen anyway."""
        return replace(
            self,
            suppress_token_ids=frozenset(each for each in self.suppress_token_ids if each < vocab_size),
            begin_suppress_token_ids=frozenset(each for each in self.begin_suppress_token_ids if each < vocab_size),
        )

    @property
    def said(self) -> dict[str, float | int | list[int]]:
        """Return the values that the file sets, under its own keys, as a record keeps them."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name.replace("_token_ids", "_tokens"): sorted(value) if isinstance(value, frozenset) else value
            for name, value in found.items()
            if value is not None and value != frozenset()
        }


NO_DEFAULTS: Final = GenerationDefaults()


def read_generation_defaults(model_dir: Path) -> GenerationDefaults:
    """Read the defaults of a directory's model; a directory without the file has none.

    Raises:
        TargetNotFoundError: The file is not JSON of a model.
        TargetIncompatibleError: The file sets an unsupported setting, or a value out of its range.
    """
    path = model_dir / FILE
    if not path.exists():
        return NO_DEFAULTS
    try:
        found = bounded_json.read_object(path)
    except (ValueError, OSError) as error:
        raise TargetNotFoundError(f"{path} is no JSON of a model: {error}; save it again", param=_PARAM) from error
    return parse_generation_defaults(found, name=str(path))


def parse_generation_defaults(found: Mapping[str, Any], *, name: str) -> GenerationDefaults:
    """Parse the defaults from a file's object.

    Args:
        found: JSON object of the file.
        name: Name of the file, for messages.

    Raises:
        TargetIncompatibleError: The file sets an unsupported setting, or a value out of its range.
    """
    for key, is_neutral in _NOT_COMPUTED.items():
        value = found.get(key)
        if value is not None and not is_neutral(value):
            raise TargetIncompatibleError(
                f"{name} sets {key} to {str(value)[:60]}, which changes answers and is not computed here; remove it "
                "from the file, or serve the model without it",
                param=_PARAM,
            )
    numbers: dict[str, Any] = {
        key: _number(found[key], key, name, *rule) for key, rule in _NUMBERS.items() if found.get(key) is not None
    }
    top_k = numbers.get("top_k")
    return GenerationDefaults(
        **{**numbers, "top_k": 0 if top_k == -1 else top_k},
        suppress_token_ids=_ids(found, "suppress_tokens", name),
        begin_suppress_token_ids=_ids(found, "begin_suppress_tokens", name),
    )


def require_vllm_computes(defaults: GenerationDefaults) -> None:
    """Refuse settings for which vLLM has no parameter.

    Raises:
        TargetIncompatibleError: The file suppresses tokens at an answer's beginning.
    """
    if defaults.begin_suppress_token_ids:
        raise TargetIncompatibleError(
            f"{FILE} sets begin_suppress_tokens, which vLLM cannot do; remove it from the file, or use engine eda",
            param=_PARAM,
        )


_Rule = tuple[bool, Callable[[float], bool], str]

# By key: whether the value is a whole number, the test of allowed values, and the allowed values in words.
_NUMBERS: Final[Mapping[str, _Rule]] = {
    "temperature": (False, lambda value: 0.0 <= value <= 2.0, "0 to 2"),
    "top_p": (False, lambda value: 0.0 < value <= 1.0, "above 0 up to 1"),
    "top_k": (True, lambda value: value >= -1, "1 or more; 0 and -1 keep all tokens"),
    "min_p": (False, lambda value: 0.0 <= value <= 1.0, "0 to 1"),
    "repetition_penalty": (False, lambda value: 0.0 < value < math.inf, "above 0"),
    "presence_penalty": (False, lambda value: -2.0 <= value <= 2.0, "-2 to 2"),
    "frequency_penalty": (False, lambda value: -2.0 <= value <= 2.0, "-2 to 2"),
    "max_new_tokens": (True, lambda value: value >= 1, "1 or more"),
}


def _number(value: Any, key: str, name: str, is_whole: bool, is_allowed: Callable[[float], bool], words: str) -> Any:
    kinds = int if is_whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not is_allowed(value):
        raise TargetIncompatibleError(
            f"{name} sets {key} to {str(value)[:60]}, allowed is {words}; correct it in the file or remove it",
            param=_PARAM,
        )
    return value if is_whole else float(value)


def _ids(found: Mapping[str, Any], key: str, name: str) -> frozenset[int]:
    """Read token ids; transformers' own files have -1 as a placeholder of an empty list, which suppresses nothing."""
    value = found.get(key)
    ids = [] if value is None else value
    if not isinstance(ids, list) or any(not isinstance(each, int) or isinstance(each, bool) for each in ids):
        raise TargetIncompatibleError(
            f"{name} sets {key} to {str(value)[:60]}, allowed is a list of token ids; correct it in the file or "
            "remove it",
            param=_PARAM,
        )
    return frozenset(each for each in ids if each >= 0)


def _at_most(limit: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and value <= limit


def _is(neutral: float) -> Callable[[Any], bool]:
    return lambda value: bool(value == neutral)


def _is_empty(value: Any) -> bool:
    return value in ([], {}, (), "", False)


def _never(_value: Any) -> bool:
    return False


# Keys that change which tokens are chosen, or where an answer ends, and their values without effect.
_NOT_COMPUTED: Final[Mapping[str, Callable[[Any], bool]]] = {
    "bad_words_ids": _is_empty,
    "constraints": _is_empty,
    "dola_layers": _is_empty,
    "encoder_no_repeat_ngram_size": _at_most(0),
    "encoder_repetition_penalty": _is(1.0),
    "epsilon_cutoff": _at_most(0),
    "eta_cutoff": _at_most(0),
    "exponential_decay_length_penalty": _is_empty,
    "force_words_ids": _is_empty,
    "forced_bos_token_id": _never,
    "forced_eos_token_id": _never,
    "guidance_scale": _is(1.0),
    "min_length": _at_most(0),
    "min_new_tokens": _at_most(0),
    "no_repeat_ngram_size": _at_most(0),
    "num_beam_groups": _at_most(1),
    "num_beams": _at_most(1),
    "penalty_alpha": _at_most(0),
    "sequence_bias": _is_empty,
    "stop_strings": _is_empty,
    "token_healing": _is_empty,
    "top_h": _never,
    "typical_p": _is(1.0),
    "watermarking_config": _is_empty,
}

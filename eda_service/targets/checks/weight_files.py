"""The safetensors files of a model's directory that hold its weights, and their headers. Imports no torch.

The files are chosen as transformers does: `model.safetensors`, else the files that `model.safetensors.index.json`
names. Other files (for example the author's own `consolidated.safetensors`, a second copy under other names) are not
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eda_service.errors import TargetIncompatibleError, TargetNotFoundError
from eda_service.storage.inputs import bounded_json
from eda_service.storage.inputs.tensor_header import TensorPlace, read_header

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_PARAM = "target.model"
_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel or DistributedDataParallel",
    "base_model.model.": "PEFT, around the base of an adapter",
    "_fsdp_wrapped_module.": "FSDP",
}
"""Wrappers that put a word in front of every tensor's name if it is not removed before saving."""


def weight_files(model_dir: Path) -> tuple[Path, ...]:
    """List the files, sorted.

    Raises:
        TargetNotFoundError: No file has one of these names, or the index names a file that does not exist.
        TargetIncompatibleError: The index is not valid.
    """
    if (model_dir / WEIGHTS).is_file():
        return (model_dir / WEIGHTS,)
    index = model_dir / INDEX
    if not index.is_file():
        others = sorted(path.name for path in model_dir.glob("*.safetensors"))
        raise TargetNotFoundError(
            f"{model_dir} has neither {WEIGHTS} nor {INDEX}"
            f"{', but ' + ', '.join(others[:3]) if others else ''}; save the model with its own `save_pretrained`",
            param=_PARAM,
        )
    try:
        places = bounded_json.read_object(index).get("weight_map")
    except (ValueError, OSError) as error:
        raise TargetIncompatibleError(f"{index} cannot be read: {error}; save it again", param=_PARAM) from error
    if not isinstance(places, dict) or not places or not all(_is_file_name(each) for each in places.values()):
        raise TargetIncompatibleError(
            f"{index} has no weight_map from tensors to files of this directory; save it again", param=_PARAM
        )
    names = sorted(set(places.values()))
    gone = [name for name in names if not (model_dir / name).is_file()]
    if gone:
        raise TargetNotFoundError(
            f"{index} names {', '.join(each[:64] for each in gone[:3])}"
            f"{f' and {len(gone) - 3} more files' if len(gone) > 3 else ''}, not there ({len(names) - len(gone)} of "
            f"{len(names)} files are); copy the missing ones, or save the model again",
            param=_PARAM,
        )
    return tuple(model_dir / name for name in names)


def weight_headers(model_dir: Path) -> dict[str, TensorPlace]:
    """Read the place of every tensor of a model, by its name in the files.

    Raises:
        TargetNotFoundError, TargetIncompatibleError: The errors of `weight_files`; or a tensor is in two files with
            different shapes.
        UnsafeCheckpointError: A header does not describe its file.
    """
    found: dict[str, TensorPlace] = {}
    for path in weight_files(model_dir):
        header = read_header(path, param=_PARAM)
        odd = sorted(name for name in found.keys() & header.keys() if found[name].shape != header[name].shape)
        if odd:
            raise TargetIncompatibleError(
                f"{path} holds {odd[0][:96]} in another shape than another file of {model_dir}; save the model again",
                param=_PARAM,
            )
        found |= header
    return found


def require_unwrapped(model_dir: Path, names: Mapping[str, object]) -> None:
    """Check that tensor names carry no prefix of a wrapper, which no engine reads.

    Raises:
        TargetIncompatibleError: Every name carries such a prefix.
    """
    for prefix, wrapper in _WRAPPERS.items():
        if names and all(name.startswith(prefix) for name in names):
            raise TargetIncompatibleError(
                f"every tensor in {model_dir} has {prefix!r} in front of its name ({next(iter(names))[:96]}): it was "
                f"saved from inside {wrapper}; take the prefix off, or save the model inside with `save_pretrained`",
                param=_PARAM,
            )


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value.endswith(".safetensors") and "/" not in value and len(value) <= 255

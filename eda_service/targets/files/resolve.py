"""Resolving a target's name to directories on this machine: pinned, safetensors only, no remote code.

A name is looked up in this order: a tuned target shipped with the package, an embedded model, a model hub id, a local
directory (a relative one is written `./name`). A GGUF file is not a target; the embedded model's is converted when it
is fetched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from eda_service.config.job import TargetSpec
from eda_service.errors import TargetIncompatibleError, TargetNotFoundError, UnsafeCheckpointError
from eda_service.names import is_model_id, is_name
from eda_service.progress import ProgressCallback, no_progress
from eda_service.storage.inputs import bounded_json
from eda_service.storage.inputs.tensor_header import read_header
from eda_service.targets.adapters.check import check_adapter
from eda_service.targets.checks.config_check import check_settings
from eda_service.targets.embedded import EMBEDDED, fetch
from eda_service.targets.files.given import GivenDirectory, look_at
from eda_service.targets.files.tokenizer_settings import require_own_files

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_MAX_BYTES = {"config.json": 1 << 20, "adapter_config.json": 1 << 20, "tokenizer.json": 256 << 20}
_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]
HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class ResolvedTarget:
    """The directories of a target, and its names.

    Attributes:
        given: Directories that were named by path, with their state at the time they were checked.
    """

    model_dir: Path
    adapter_dir: Path | None
    model: str
    revision: str | None
    adapter: str | None
    given: tuple[GivenDirectory, ...] = ()

    def require_unchanged(self) -> None:
        """Check, after reading, that the files were not replaced meanwhile.

        Raises:
            ArtifactCorruptError: The files were replaced.
        """
        for directory in self.given:
            directory.require_unchanged()


def shipped_targets() -> Path:
    """Return the directory of the tuned targets in the package."""
    return Path(str(resources.files("eda_service"))) / "assets" / "tuned_targets"


def known_targets() -> list[str]:
    """List the targets that have a name in this project: embedded ones and shipped tuned ones."""
    root = shipped_targets()
    shipped = [path.name for path in root.iterdir() if is_name(path.name)] if root.is_dir() else []
    return sorted([*EMBEDDED, *shipped])


def shipped_base(model: str) -> str | None:
    """Return the base model of a tuned target shipped with the package; None for every other name."""
    if not is_name(model):
        return None
    adapter = shipped_targets() / model / "adapter_config.json"
    if not adapter.exists():
        return None
    return str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])


def resolve_target(spec: TargetSpec, on_progress: ProgressCallback = no_progress) -> ResolvedTarget:
    """Find a target and check that its files are of the supported kinds.

    Args:
        spec: Name of the target, and of its adapter.
        on_progress: Function that receives the progress of fetching a model; the hub's client draws its own bars.

    Raises:
        TargetNotFoundError: The name, directory, revision or adapter does not exist.
        InputError: A directory that a request named leads out of the allowed roots.
        ArtifactCorruptError: The files were changed while they were checked.
        UnsafeCheckpointError: Weights exist only in a pickled format.
        TargetIncompatibleError: The model is not decoder-only, or the adapter is not a LoRA adapter.
    """
    base = shipped_base(spec.model)
    if base is not None:
        shipped = _check_adapter(shipped_targets() / spec.model)
        return ResolvedTarget(_check_model(fetch(base, on_progress)), shipped, base, None, spec.model)
    model_dir, revision, model_given = _find(spec.model, spec.revision, param="target.model", on_progress=on_progress)
    _check_model(model_dir)
    adapter_dir, adapter_given = None, None
    if spec.adapter is not None:
        adapter_dir, _, adapter_given = _find(spec.adapter, None, param="target.adapter")
        check_adapter(_check_adapter(adapter_dir), model_dir)
    given = tuple(each for each in (model_given, adapter_given) if each is not None)
    found = ResolvedTarget(model_dir, adapter_dir, spec.model, revision, spec.adapter, given)
    found.require_unchanged()
    return found


def is_ours(model: str) -> bool:
    """Whether a target is shipped with the package, or fetched by it from a package registry."""
    return model in EMBEDDED or (is_name(model) and (shipped_targets() / model).is_dir())


def is_here(spec: TargetSpec) -> bool:
    """Whether a target's files are on this machine, or come from a package registry rather than from the model hub."""
    return is_ours(spec.model) or not is_model_id(spec.model)


def hub_error(name: str, error: Exception, *, param: str) -> TargetNotFoundError:
    """Make the error that the hub does not have a model, or cannot be asked."""
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return TargetNotFoundError(
        f"{name!r} is no shipped or embedded model ({', '.join(known_targets())}), no directory here, and the model "
        f"hub could not be reached ({reason}); check the name or the network",
        param=param,
    )


def _find(
    name: str, revision: str | None, *, param: str, on_progress: ProgressCallback = no_progress
) -> tuple[Path, str | None, GivenDirectory | None]:
    """Return the directory, the commit on the hub if it is from there, and the checked state if it was
    named by path.
    """
    if name in EMBEDDED:
        return fetch(name, on_progress), None, None
    if is_model_id(name):
        return *_from_hub(name, revision, param=param), None
    try:
        path = Path(name).expanduser()
        is_dir, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a home of an unknown user, a NUL
        raise TargetNotFoundError(f"{name[:128]!r} is no directory here: {error}", param=param) from error
    if is_dir:
        given = look_at(path, param=param)
        return given.path, None, given
    if is_file:
        raise TargetNotFoundError(f"{name} is a file; give the directory that holds config.json", param=param)
    raise TargetNotFoundError(f"{name[:128]!r} is no directory here and no model id (owner/name)", param=param)


def _from_hub(name: str, revision: str | None, *, param: str) -> tuple[Path, str]:
    """Download the pinned files of a hub repository; the commit is part of the snapshot's path."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=_FILES, etag_timeout=HUB_TIMEOUT_S))
    except RepositoryNotFoundError as error:
        raise TargetNotFoundError(
            f"the model hub has no {name!r}, or your token may not read it", param=param
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise hub_error(name, error, param=param) from error
    return path, path.name


def _check_model(directory: Path) -> Path:
    config = directory / "config.json"
    if not config.exists():
        raise TargetNotFoundError(f"{directory} has no config.json; it is no model directory", param="target.model")
    _check_safetensors(directory, "*.safetensors", param="target.model")
    for path in sorted(directory.glob("*.json")):
        if path.name != "tokenizer.json":
            _read_json(path, param="target.model")
        elif path.stat().st_size > _MAX_BYTES[path.name]:
            raise UnsafeCheckpointError(
                f"{path} has {path.stat().st_size} bytes, at most {_MAX_BYTES[path.name]} are read",
                param="target.model",
            )
    require_own_files(directory, param="target.model")
    check_settings(_read_json(config, param="target.model"), directory)
    return directory


def _check_adapter(directory: Path) -> Path:
    config = directory / "adapter_config.json"
    if not config.exists():
        raise TargetNotFoundError(f"{directory} has no adapter_config.json; it is no adapter", param="target.adapter")
    kind = _read_json(config, param="target.adapter").get("peft_type")
    if kind != "LORA":
        raise TargetIncompatibleError(
            f"{directory} is an adapter of kind {str(kind)[:32]}, only LORA is read here; merge it into its base with "
            "PEFT (`merge_and_unload`) and name the merged model, or train a LoRA adapter",
            param="target.adapter",
        )
    require_own_files(directory, param="target.adapter")
    _check_safetensors(directory, "adapter_model.safetensors", param="target.adapter")
    return directory


def _read_json(path: Path, *, param: str) -> dict[str, Any]:
    try:
        return bounded_json.read_object(path, max_bytes=_MAX_BYTES.get(path.name, bounded_json.MAX_BYTES))
    except (ValueError, OSError) as error:
        raise TargetNotFoundError(f"{path} is no JSON of a model: {error}; save it again", param=param) from error


def _check_safetensors(directory: Path, pattern: str, *, param: str) -> None:
    found = sorted(directory.glob(pattern))
    for path in found:
        read_header(path, param=param)
    if found:
        return
    pickled = sorted(path.name for kind in _PICKLED for path in directory.glob(kind))
    if pickled:
        raise UnsafeCheckpointError(
            f"{directory} holds only pickled weights ({', '.join(pickled[:3])}), which can run code when read; "
            "convert them with `safetensors` and remove them",
            param=param,
        )
    raise TargetNotFoundError(f"{directory} has no {pattern}; copy the weights there, or save them again", param=param)

"""A base target for an import: always its sizes and tokenizer, and its weights if they are on this machine.

Reading a draft needs only a config. A model of the hub whose weights are not on this machine is not fetched for that;
steps that would need them are left out, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eda_service.config.job import TargetSpec
from eda_service.errors import TargetIncompatibleError, TargetNotFoundError
from eda_service.names import is_model_id
from eda_service.storage.files import sha256_text
from eda_service.targets.chat.chat import load_tokenizer, target_tokenizer
from eda_service.targets.checks.check import check_target, load_config
from eda_service.targets.files.given import GivenDirectory, look_at
from eda_service.targets.files.hub import cached_model
from eda_service.targets.files.resolve import HUB_TIMEOUT_S, ResolvedTarget, hub_error, is_ours, resolve_target

_PARAM = "target.model"
_CONFIG_FILES = ["*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]


@dataclass(frozen=True)
class BaseModel:
    """The known facts and files of a base target.

    Attributes:
        model: Name of the target.
        revision: Commit on the hub; None for a directory.
        config: Config as transformers reads it.
        tokenizer_sha256: Hash of the tokenizer; empty if the tokenizer is not on this machine.
        resolved: Files of the target, if its weights are on this machine.
        lacking: Reason that the target cannot be run here; None if it can.
        notes: Notes for the target's user, as sentences.
    """

    model: str
    revision: str | None
    config: Any
    tokenizer_sha256: str
    resolved: ResolvedTarget | None
    lacking: str | None
    notes: tuple[str, ...] = ()


def find_base(spec: TargetSpec) -> BaseModel:
    """Look for a base target, and read its sizes.

    Raises:
        TargetNotFoundError: The target does not exist, or the hub cannot be asked.
        TargetIncompatibleError, UnsafeCheckpointError: The target is not a decoder-only model, or is not supported
            here.
    """
    if spec.adapter is not None:
        raise TargetIncompatibleError(
            "a draft is imported for a base model, and `adapter` names a fine-tune of one; leave it out, and adapt the "
            "imported draft to it afterwards",
            param="target.adapter",
        )
    here = _config_alone(spec)
    if here is None:
        resolved = resolve_target(spec)
        notes = () if is_ours(spec.model) else check_target(resolved)
        config = load_config(resolved.model_dir)
        digest = sha256_text(target_tokenizer(resolved).backend_tokenizer.to_str())
        resolved.require_unchanged()
        return BaseModel(resolved.model, resolved.revision, config, digest, resolved, None, notes)
    lacking = f"the weights of {spec.model} are not on this machine"
    found = BaseModel(spec.model, here.revision, load_config(here.directory), _tokenizer(here.directory), None, lacking)
    if here.given is not None:
        here.given.require_unchanged()
    return found


@dataclass(frozen=True)
class _SmallFiles:
    """The files of a target's config and tokenizer.

    Attributes:
        given: Identity of a directory that was named by path, at the time it was checked.
    """

    directory: Path
    revision: str | None = None
    given: GivenDirectory | None = None


def _config_alone(spec: TargetSpec) -> _SmallFiles | None:
    """Find the config and tokenizer of a target whose weights are not here; None if the weights are here too."""
    if is_ours(spec.model):
        return None
    if is_model_id(spec.model):
        if cached_model(spec.model, spec.revision) is not None:
            return None
        directory = _small_files(spec.model, spec.revision)
        return _SmallFiles(directory, directory.name)
    directory = Path(spec.model).expanduser()
    if not (directory / "config.json").is_file() or any(directory.glob("*.safetensors")):
        return None
    if any(directory.glob("*.bin")):
        return None  # refused by `resolve_target`, with its message
    given = look_at(directory, param=_PARAM)
    return _SmallFiles(given.path, given=given)


def _small_files(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = Path(
            snapshot_download(name, revision=revision, allow_patterns=_CONFIG_FILES, etag_timeout=HUB_TIMEOUT_S)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise hub_error(name, error, param=_PARAM) from error
    if not (path / "config.json").is_file():
        raise TargetNotFoundError(f"the hub's {name} has no config.json, so it is no model; name another", param=_PARAM)
    return path


def _tokenizer(directory: Path) -> str:
    if not (directory / "tokenizer.json").is_file():
        return ""
    return sha256_text(load_tokenizer(directory).backend_tokenizer.to_str())

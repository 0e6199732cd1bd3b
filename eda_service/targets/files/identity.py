"""The identity of a target: hashes of its files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from eda_service.records import TargetFingerprint
from eda_service.storage.files import sha256_file, sha256_text
from eda_service.storage.inputs.beneath import FileIdentity
from eda_service.targets.files.resolve import ResolvedTarget


def fingerprint(resolved: ResolvedTarget, tokenizer: Any, config: Any) -> TargetFingerprint:
    """Identify a target by its files: hashes of weights, tokenizer and chat template, and its shape. Call it after
    everything is read, because it ends with the check that the files are unchanged.

    Raises:
        ArtifactCorruptError: A file has changed since the target was resolved.
    """
    files = sorted(resolved.model_dir.glob("*.safetensors"))
    if resolved.adapter_dir is not None:
        files += sorted(resolved.adapter_dir.glob("*.safetensors"))
    found = TargetFingerprint(
        model=resolved.model,
        revision=resolved.revision,
        adapter=resolved.adapter,
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        tokenizer_sha256=sha256_text(tokenizer.backend_tokenizer.to_str()),
        chat_template_sha256=sha256_text(str(tokenizer.chat_template)),
        weights_sha256=sha256_text("".join(_sha256(path, FileIdentity.of(path.stat())) for path in files)),
    )
    resolved.require_unchanged()
    return found


@lru_cache(maxsize=256)
def _sha256(path: Path, _: FileIdentity) -> str:
    """Hash a file, once per state of the file: variants over the same base do not hash it again."""
    return sha256_file(path)

"""A base draft in a registry that says what a test wants it to be; its weights are one byte."""

from __future__ import annotations

from pathlib import Path

from eda_service.drafts.draft_config import Eagle1Config
from eda_service.records import DraftManifest
from eda_service.storage.files import file_entry, write_json


def put_draft(
    home: Path,
    name: str = "small",
    version: int = 1,
    *,
    hidden_size: int = 32,
    vocab_size: int = 112,
    tokenizer_sha256: str = "t" * 64,
) -> Path:
    """Register a draft, by default of the tiny targets' sizes; returns its directory."""
    directory = home / "drafts" / name / str(version)
    directory.mkdir(parents=True)
    shape = Eagle1Config(
        hidden_size=hidden_size,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        expert_width=64,
        vocab_size=vocab_size,
        rope_theta=1e4,
        rms_norm_eps=1e-6,
    )
    write_json(directory / "config.json", shape.model_dump(mode="json"))
    (directory / "draft.safetensors").write_bytes(b"w")
    write_draft_manifest(directory, hidden_size, vocab_size, tokenizer_sha256)
    return directory


def write_draft_manifest(directory: Path, hidden_size: int, vocab_size: int, tokenizer_sha256: str) -> None:
    """Register the files that lie in `drafts/<name>/<version>`."""
    manifest = DraftManifest(
        name=directory.parent.name,
        version=int(directory.name),
        created_at=1,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        tokenizer_sha256=tokenizer_sha256,
        files=tuple(file_entry(directory, path) for path in sorted(directory.iterdir())),
        trained_on="a tiny random target",
        num_train_tokens=0,
        config={},
        library_versions={},
        metrics={},
    )
    write_json(directory / "manifest.json", manifest.model_dump(mode="json"))

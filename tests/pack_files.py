"""Packs in a registry that say what a test wants them to have measured; their weights are one byte, or a test's own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eda_service.config.job import AdaptConfig
from eda_service.records import FixedScores, PackManifest, PackMetrics, RivalScore, Stage, TargetFingerprint
from eda_service.storage.files import file_entry, write_json
from eda_service.storage.published.registry import pack_versions, publish_pack, reserve_version, stage_pack

WEIGHTS = "w" * 64


def put_pack(
    home: Path,
    name: str,
    acceptance_length: float,
    *,
    base: float = 1.4,
    job_id: str | None = None,
    base_draft: str = "small@1",
    base_draft_sha256: str = "d",
    weights_sha256: str = WEIGHTS,
    target: TargetFingerprint | None = None,
    model: str = "org/model",
    files: Path | None = None,
    prompts: str = "p",
    method: str = "eda",
    created_at: int = 1,
    speedup: float | None = None,
    base_speedup: float | None = None,
    rivals: Mapping[str, float | tuple[float, float]] | None = None,
    unmeasured: Mapping[str, str] | None = None,
    fixed: tuple[str, Mapping[str, float]] | None = None,
    source: str = "",
    **config: Any,
) -> str:
    """Publish the next version of a pack; returns name@version.

    Args:
        home: Root of the registry.
        name: Of the pack.
        acceptance_length: What the pack measured at T=0.
        base: What the base draft alone measured.
        job_id: The job that published it; None: nobody's.
        base_draft: name@version that it was trained beside.
        base_draft_sha256: Hash of that draft's files.
        weights_sha256: Of the target that it was made for.
        target: The whole fingerprint, instead of one that is made up.
        model: As its job named the target.
        files: Directory with `pack.json` and `pack.safetensors`.
        created_at: When, in seconds since the epoch.
        prompts: Stands for the hash of the prompts.
        method: What was trained.
        speedup: Of the pack over decoding without a draft; None: speed was not measured.
        base_speedup: Of the base draft alone.
        rivals: name@version to what the pack's job measured for it: acceptance length, or that and speedup.
        unmeasured: name@version to why it could not be measured.
        fixed: A fixed evaluation, and the acceptance lengths there by name@version.
        source: From where it was pulled; empty: it was made here.
        config: Fields of its AdaptConfig.
    """
    version = reserve_version(name, job_id, home) if job_id is not None else max([0, *pack_versions(name, home)]) + 1
    staging = stage_pack(name, version, home)
    if files is None:
        (staging / "pack.safetensors").write_bytes(b"x")
    else:
        shutil.copytree(files, staging, dirs_exist_ok=True)
    settings = AdaptConfig.model_validate({"target": {"model": model}, **config})
    manifest = PackManifest(
        source=source,
        stage=Stage.PUBLISH,
        created_at=created_at,
        seconds=1.0,
        config=settings.model_dump(mode="json"),
        seed=settings.seed,
        library_versions={},
        inputs={"prompts": prompts},
        files=tuple(file_entry(staging, path) for path in sorted(staging.iterdir())),
        pack=f"{name}@{version}",
        method=method,
        base_draft=base_draft,
        base_draft_sha256=base_draft_sha256,
        target=target or fingerprint(weights_sha256=weights_sha256),
        num_parameters=10,
        num_trainable=4,
        metrics=PackMetrics(
            {"adapted_draft.acceptance_length.t0": acceptance_length, "base_draft.acceptance_length.t0": base}
            | {
                f"{draft}.speedup.t0": value
                for draft, value in (("adapted_draft", speedup), ("base_draft", base_speedup))
                if value is not None
            }
        ),
        rivals=tuple(_rival(pack, measured) for pack, measured in (rivals or {}).items()),
        unmeasured_rivals=dict(unmeasured or {}),
        fixed=None if fixed is None else FixedScores(evaluation=fixed[0], lengths=dict(fixed[1])),
    )
    write_json(staging / "manifest.json", manifest.model_dump(mode="json"))
    publish_pack(staging, name, version, home)
    return f"{name}@{version}"


def _rival(pack: str, measured: float | tuple[float, float]) -> RivalScore:
    length, speedup = measured if isinstance(measured, tuple) else (measured, None)
    return RivalScore(pack=pack, acceptance_length=length, speedup=speedup)


def fingerprint(**fields: Any) -> TargetFingerprint:
    """A target that is made up, with some facts of its own."""
    made_up = {
        "model": "org/model",
        "revision": None,
        "adapter": None,
        "model_type": "llama",
        "hidden_size": 32,
        "vocab_size": 112,
        "num_layers": 2,
        "tokenizer_sha256": "t",
        "chat_template_sha256": "c",
        "weights_sha256": WEIGHTS,
    }
    return TargetFingerprint.model_validate({**made_up, **fields})

"""A target as one directory that any engine loads: its adapter merged, safetensors, tokenizer, chat template and
generation config.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from eda_service.config.job import TargetSpec
from eda_service.targets.adapters.merge import merge_adapter
from eda_service.targets.chat.chat import target_tokenizer
from eda_service.targets.checks.shards import require_unambiguous
from eda_service.targets.files.generation_defaults import FILE
from eda_service.targets.files.resolve import resolve_target


def write_merged(spec: TargetSpec, directory: Path) -> None:
    """Write the model in bfloat16 into an existing directory.

    Raises:
        TargetNotFoundError: The target does not exist.
        TargetIncompatibleError: The adapter does not fit its base.
    """
    found = resolve_target(spec)
    require_unambiguous(found.model_dir)
    dtype = torch.float32 if spec.dtype == "float32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(
        found.model_dir, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    if found.adapter_dir is not None:
        model = merge_adapter(model, found.adapter_dir)
    model.generation_config = GenerationConfig()  # the file is copied as it is; the library refuses to save odd ones
    model.save_pretrained(directory)
    if (found.model_dir / FILE).is_file():
        shutil.copyfile(found.model_dir / FILE, directory / FILE)
    target_tokenizer(found).save_pretrained(directory)

"""A LoRA adapter added to the weights of its base, so that the result computes what PEFT computes without merging.

Token embedding and head may share one matrix. PEFT adds an update only to the module that it was trained on; merged
into the shared matrix it would change the other module as well. So the two get matrices of their own first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eda_service.errors import TargetIncompatibleError
from eda_service.targets.adapters.check import changed_modules, read_config, whole_modules, whole_rows
from eda_service.targets.told import lacks_memory

_ENDS = ("embed_tokens", "lm_head")


def merge_adapter(model: Any, adapter_dir: Path) -> Any:
    """Add a LoRA adapter to the weights of a transformers model.

    Raises:
        TargetIncompatibleError: The adapter does not fit.
    """
    from peft import LoraConfig, PeftModel

    try:
        config = LoraConfig.from_pretrained(str(adapter_dir), local_files_only=True)
        # Names from the file instead of the author's regular expressions; see `adapters.check`.
        config.target_modules = set(changed_modules(adapter_dir))
        config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
        _resize(model, adapter_dir)
        if _changes_one_end(adapter_dir):
            _part_ends(model)
        adapted = PeftModel.from_pretrained(model, str(adapter_dir), config=config, local_files_only=True)
        merged = adapted.merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        if lacks_memory(error):
            raise
        raise TargetIncompatibleError(
            f"adapter {adapter_dir} does not fit its base: {error}; name the base it was trained on",
            param="target.adapter",
        ) from error
    return merged


def _resize(model: Any, adapter_dir: Path) -> None:
    """Resize the base's vocabulary to that of the adapter, which contains the rows."""
    rows = whole_rows(adapter_dir)
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)


def _changes_one_end(adapter_dir: Path) -> bool:
    """Whether embedding or head is changed apart from the other: by an update, or by a whole matrix of its own.

    A matrix that the adapter contains only because the trainer resized it serves as both, if the two are tied.
    """
    updated = {name.rsplit(".", 1)[-1] for name in changed_modules(adapter_dir)}
    apart = updated | set(map(str, read_config(adapter_dir).get("modules_to_save") or ()))
    carried = {name.rsplit(".", 1)[-1] for name in whole_modules(adapter_dir)}
    return bool(apart & set(_ENDS)) or carried == {"lm_head"}


def _part_ends(model: Any) -> None:
    """Give the head a matrix of its own if it shares the embedding's."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight.data_ptr() == head.weight.data_ptr():
        head.weight = torch.nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False

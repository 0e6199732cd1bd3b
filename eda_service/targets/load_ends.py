"""Loading a target's embedding and head from its files, without its layers, for a job whose target runs in another
engine.

Shapes: D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from eda_service.config.job import EngineKind, TargetSpec
from eda_service.errors import TargetIncompatibleError
from eda_service.storage.inputs.tensor_header import read_header
from eda_service.targets.adapters.check import changed_modules, whole_modules
from eda_service.targets.chat.chat import load_stop_token_ids, target_tokenizer
from eda_service.targets.checks.check import check_target, load_config
from eda_service.targets.checks.weight_files import weight_files
from eda_service.targets.ends import TargetEnds, choose_dtype, context_note, max_context_of
from eda_service.targets.files.generation_defaults import read_generation_defaults
from eda_service.targets.files.identity import fingerprint
from eda_service.targets.files.resolve import ResolvedTarget, resolve_target
from eda_service.targets.head import make_head
from eda_service.targets.told import told

_CPU = torch.device("cpu")
_PARAM = "target.model"


def load_ends(spec: TargetSpec, *, device: torch.device = _CPU) -> TargetEnds:
    """Read a target's metadata, token embedding and head; no layer is read.

    Args:
        spec: Name of the target, and of its adapter.
        device: Device of the two matrices.

    Raises:
        TargetNotFoundError, TargetIncompatibleError, UnsafeCheckpointError: The errors of `load_target`; or an adapter
            changes embedding or head, which only the project's own engine supports.
        ArtifactCorruptError: The files were changed while they were read.
    """
    resolved = resolve_target(spec)
    with told(spec.model):
        return _load(spec, resolved, device)


def _load(spec: TargetSpec, resolved: ResolvedTarget, device: torch.device) -> TargetEnds:
    _require_own_ends(resolved)
    notes = check_target(resolved, engine=EngineKind.VLLM)
    tokenizer, config = target_tokenizer(resolved), load_config(resolved.model_dir)
    dtype = choose_dtype(spec, device)
    tensors = {
        name: tensor.to(device=device, dtype=dtype) for name, tensor in _read(resolved.model_dir, config).items()
    }
    head = make_head(tensors.get("head", tensors["embed"]), tensors.get("bias"), config)
    stop_ids = load_stop_token_ids(resolved.model_dir, tokenizer)
    return TargetEnds(
        spec=spec,
        fingerprint=fingerprint(resolved, tokenizer, config),
        tokenizer=tokenizer,
        config=config,
        lm_head=head,
        embed=nn.Embedding.from_pretrained(tensors["embed"], freeze=True),
        stop_token_ids=frozenset(token for token in stop_ids if token < head.vocab_size),
        max_context=max_context_of(config),
        dtype=dtype,
        device=device,
        notes=(*notes, *context_note(config)),
        defaults=read_generation_defaults(resolved.model_dir).within(head.vocab_size),
    )


def changed_ends(resolved: ResolvedTarget) -> list[str]:
    """List the modules of embedding and head that a target's adapter changes."""
    if resolved.adapter_dir is None:
        return []
    changed = {*changed_modules(resolved.adapter_dir), *whole_modules(resolved.adapter_dir)}
    return sorted(name for name in changed if name.rsplit(".", 1)[-1] in {"embed_tokens", "lm_head"})


def _require_own_ends(resolved: ResolvedTarget) -> None:
    """Refuse an adapter that changes embedding or head."""
    ends = changed_ends(resolved)
    if ends:
        raise TargetIncompatibleError(
            f"adapter {resolved.adapter} changes {', '.join(ends)}, which vLLM does not add to a model it serves; "
            "merge the adapter into the model, save that and name it as target.model, or set target.engine to eda",
            param="target.adapter",
        )


def _read(model_dir: Path, config: Any) -> dict[str, Tensor]:
    """Read `embed` (V, D), and `head` (V, D) and `bias` (V,) if the files have them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = {id(module): name for name, module in model.named_modules()}
    embed, head = (f"{names[id(module)]}" for module in (model.get_input_embeddings(), model.get_output_embeddings()))
    wanted = {"embed": f"{embed}.weight", "head": f"{head}.weight", "bias": f"{head}.bias"}
    places = {name: path for path in weight_files(model_dir) for name in read_header(path, param=_PARAM)}
    prefix = f"{model.base_model_prefix}."
    found: dict[str, Tensor] = {}
    for end, name in wanted.items():
        stored = next((each for each in (name, name.removeprefix(prefix), prefix + name) if each in places), None)
        if stored is not None and not (end == "head" and config.tie_word_embeddings):
            found[end] = _tensor(places, stored)
    missing = "embed" not in found or ("head" not in found and not config.tie_word_embeddings)
    if missing or not all(each.is_floating_point() for each in found.values()):
        raise TargetIncompatibleError(
            f"{model_dir} has no {wanted['embed'] if 'embed' not in found else wanted['head']} of plain numbers; save "
            "the model with its embedding and lm_head unquantised",
            param=_PARAM,
        )
    return found


def _tensor(places: Mapping[str, Path], name: str) -> Tensor:
    with safe_open(places[name], framework="pt") as file:
        found: Tensor = file.get_tensor(name)
        return found

"""Adapters as PEFT saves them: what is served computes what PEFT computes without merging.

Oracle: `PeftModel` over transformers' own model, unmerged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import CHAT_TEMPLATE, build_tokenizer
from transformers import AutoModelForCausalLM

from api.endpoint.engines.base_group import place_of
from eda_service.config.job import TargetSpec
from eda_service.errors import TargetIncompatibleError
from eda_service.targets.adapters.check import check_adapter
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.files.merged import write_merged
from eda_service.targets.loader import Target, load_target

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, while it makes what is to be read

IDS_BL = torch.randint(3, 112, (2, 9), generator=torch.Generator().manual_seed(0))
LINEARS = ["q_proj", "down_proj"]

CASES: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "linears": ("llama", {"target_modules": LINEARS}, None),
    "head of a tied base": ("llama", {"target_modules": ["lm_head", "q_proj"]}, None),
    "embedding of a tied base": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}, None),
    "both ends of a tied base": ("llama", {"target_modules": ["embed_tokens", "lm_head"]}, None),
    "whole head of a tied base": ("llama", {"target_modules": LINEARS, "modules_to_save": ["lm_head"]}, None),
    "whole embedding of a tied base": ("llama", {"target_modules": LINEARS, "modules_to_save": ["embed_tokens"]}, None),
    "head of its own": ("qwen2", {"target_modules": ["lm_head", "q_proj"]}, None),
    "biases of its linears": ("qwen2", {"target_modules": LINEARS, "bias": "lora_only"}, None),
    "all biases": ("qwen2", {"target_modules": LINEARS, "bias": "all"}, None),
    "more tokens, tied": ("llama", {"target_modules": LINEARS}, 120),
    "more tokens": ("qwen2", {"target_modules": LINEARS}, 120),
    "rank by module": ("llama", {"target_modules": LINEARS, "rank_pattern": {"q_proj": 2}}, None),
    "rank stabilised": ("llama", {"target_modules": LINEARS, "use_rslora": True}, None),
    "weight-decomposed embedding": ("llama", {"target_modules": ["embed_tokens"], "use_dora": True}, None),
    "weight-decomposed": ("llama", {"target_modules": LINEARS, "use_dora": True}, None),
}


def write(base: Path, directory: Path, settings: dict[str, Any], rows: int | None) -> None:
    """An adapter over a base, its own tensors and biases random, saved by PEFT."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(std=0.2)
            elif "modules_to_save" in name or (parameter.requires_grad and name.endswith("bias")):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    adapted.save_pretrained(directory)


def peft_logits(base: Path, directory: Path, rows: int | None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, directory).eval()(IDS_BL).logits.detach()


def our_logits(target: Target) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = target.head(target.forward(IDS_BL, target.new_cache(2, 32), [0, 0]).head_in)
    return out


@pytest.mark.parametrize("case", CASES)
def test_a_merged_adapter_computes_what_peft_computes(
    case: str, target_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    family, settings, rows = CASES[case]
    base = target_dir(family)
    write(base, tmp_path / "adapter", settings, rows)
    wanted_BLV = peft_logits(base, tmp_path / "adapter", rows)
    spec = TargetSpec(model=str(base), adapter=str(tmp_path / "adapter"), dtype="float32")
    torch.testing.assert_close(our_logits(load_target(spec)), wanted_BLV, rtol=1e-3, atol=1e-2)
    (tmp_path / "merged").mkdir()
    write_merged(spec, tmp_path / "merged")
    merged = load_target(TargetSpec(model=str(tmp_path / "merged"), dtype="float32"))
    torch.testing.assert_close(our_logits(merged), wanted_BLV, rtol=1e-3, atol=1e-2)
    stays_beside = case in {"linears", "rank by module", "rank stabilised"}
    assert (place_of(spec).adapter_dir is not None) is stays_beside


def test_a_rank_that_the_settings_do_not_say_is_refused(target_dir: Callable[[str], Path], tmp_path: Path) -> None:
    """Stacked, the scaling was taken from the settings; merged, PEFT refused it."""
    write(target_dir("llama"), tmp_path, {"target_modules": LINEARS}, None)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "r": 8}))
    with pytest.raises(TargetIncompatibleError, match=r"has rank 4, its adapter_config\.json says 8"):
        load_target(TargetSpec(model=str(target_dir("llama")), adapter=str(tmp_path), dtype="float32"))


Q_PROJ = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"target_modules": ["down_proj"]}, "it changes model.layers.0.self_attn.q_proj, which target_modules"),
        ({"target_modules": r".*\.down_proj"}, "it changes model.layers.0.self_attn.q_proj, which target_modules"),
        ({"layers_to_transform": [0]}, "it changes model.layers.1."),
        ({"layers_to_transform": 0, "layers_pattern": "layers"}, "it changes model.layers.1."),
        ({"exclude_modules": ["q_proj"]}, "it changes model.layers.0.self_attn.q_proj"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head, and no such matrix is in the file"),
        ({"layers_to_transform": [0, 1]}, None),
        ({"target_modules": r".*\.(q_proj|down_proj)$"}, None),
        ({"target_modules": r"a?a?a?a?\.down_proj"}, None),  # too many repeats
        ({"target_modules": r"(.*)+\.down_proj"}, None),  # may take for ever; the names in the file are taken
        ({"init_lora_weights": "pissa_niter_4"}, "each time in another way"),
    ],
)
def test_settings_and_file_name_the_same_modules(
    settings: dict[str, Any], told: str | None, target_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    """PEFT leaves out, with a warning, what the settings do not name; here it was served."""
    write(target_dir("llama"), tmp_path, {"target_modules": LINEARS}, None)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    if told is None:
        check_adapter(tmp_path, target_dir("llama"))
        return
    with pytest.raises(TargetIncompatibleError) as caught:
        check_adapter(tmp_path, target_dir("llama"))
    assert told in caught.value.message


def test_half_an_update_is_refused(target_dir: Callable[[str], Path], tmp_path: Path) -> None:
    """PEFT draws the other half by chance."""
    write(target_dir("llama"), tmp_path, {"target_modules": LINEARS}, None)
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if name != Q_PROJ}, path)
    with pytest.raises(TargetIncompatibleError, match=r"layers\.1\.self_attn\.q_proj has lora_B and no lora_A"):
        check_adapter(tmp_path, target_dir("llama"))


def test_embedding_and_head_of_different_sizes_are_refused(target_dir: Callable[[str], Path], tmp_path: Path) -> None:
    write(target_dir("qwen2"), tmp_path, {"target_modules": LINEARS}, 120)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    (head,) = [name for name in tensors if "lm_head" in name]
    save_file({**tensors, head: tensors[head][:118].contiguous()}, path)
    with pytest.raises(TargetIncompatibleError, match="118 and 120 rows"):
        load_target(TargetSpec(model=str(target_dir("qwen2")), adapter=str(tmp_path), dtype="float32"))


@pytest.mark.parametrize("brings", ["template", "tokenizer", "nothing", "the base's own"])
def test_the_adapters_tokenizer_and_template_win(
    brings: str, target_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    base, adapter = target_dir("llama"), tmp_path / "adapter"
    write(base, adapter, {"target_modules": LINEARS}, None)
    other = CHAT_TEMPLATE.replace("'\n' + message['content']", "': ' + message['content']")
    if brings == "template":
        (adapter / "chat_template.jinja").write_text(other)
    elif brings == "tokenizer":
        tokenizer = build_tokenizer()
        tokenizer.chat_template = other
        tokenizer.save_pretrained(adapter)
    elif brings == "the base's own":
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(base / name, adapter / name)
    spec = TargetSpec(model=str(base), adapter=str(adapter), dtype="float32")
    target, is_own = load_target(spec), brings in {"template", "tokenizer"}
    got = target.tokenizer.decode(render_prompt(target.tokenizer, [{"role": "user", "content": "a"}]))
    assert got.startswith("<|im_start|>user: a" if is_own else "<|im_start|>user\na")
    assert (place_of(spec).adapter_dir is None) is is_own
    (tmp_path / "merged").mkdir()
    write_merged(spec, tmp_path / "merged")
    merged = load_target(TargetSpec(model=str(tmp_path / "merged"), dtype="float32"))
    assert merged.fingerprint.chat_template_sha256 == target.fingerprint.chat_template_sha256

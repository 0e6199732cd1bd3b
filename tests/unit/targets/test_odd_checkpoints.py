"""Checkpoints of strangers: each kind of oddity is told from the files alone, by its value, with the next step, and the
load says the same; what is odd and sound is loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from odd_checkpoints import DOWN, Change, both, prefixed, quantised, settings, shards, tensors, text, without
from tiny_models import CHAT_TEMPLATE, build_tokenizer, write_adapter

from eda_service.config.job import TargetSpec
from eda_service.errors import InputError
from eda_service.targets.checks.check import check_target
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.loader import load_target

pytestmark = pytest.mark.slow


def tokens_added(template: str) -> Change:
    """A tokenizer with one more token, which the model has no embedding for."""

    def change(directory: Path) -> None:
        tokenizer = build_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(directory)

    return change


def linked(directory: Path) -> None:
    """As the hub's cache: the weights lie elsewhere."""
    path = directory / "model.safetensors"
    path.rename(directory.parent / "blob")
    path.symlink_to(directory.parent / "blob")


def truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def copied(directory: Path) -> None:
    shutil.copy(directory / "model.safetensors", directory / "consolidated.safetensors")


def renamed(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "weights.safetensors")


ROPE = {"rope_type": "default", "rope_theta": 1e4}
CODE = {"AutoConfig": "a.C", "AutoModelForCausalLM": "a.M"}
NAMED = [{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "x"}]
NO_TEMPLATE = without("chat_template.jinja")
GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
NO_END = (settings(GENERATION, eos_token_id=None), settings(TOKENIZER, eos_token=None))

# Words of the message: what is wrong, by its name or value.
REFUSED: dict[str, tuple[Change, str]] = {
    **{
        f"quantised {method}": (quantised(method), f"is quantised ({method})")
        for method in ("bitsandbytes", "gptq", "awq", "compressed-tensors", "fp8")
    },
    "quantised by a word": (settings(quantization_config="int4"), "is quantised (int4)"),
    "int8 without a word": (
        tensors(lambda found: {name: each.to(torch.int8) for name, each in found.items()}),
        "has dtype I8",
    ),
    # other kinds of models
    "encoder": (settings(model_type="bert", architectures=["BertModel"]), "holds BertModel; a decoder-only"),
    "encoder and decoder": (settings(model_type="t5", architectures=None), "is of type t5"),
    "vision and language": (settings(architectures=["LlavaForConditionalGeneration"]), "LlavaForConditionalGeneration"),
    "qwen2_vl": (settings(model_type="qwen2_vl", architectures=None), "is of type qwen2_vl"),
    "gemma3 with its eyes": (settings(model_type="gemma3", architectures=None), "made of text_config, vision_config"),
    "classifier": (settings(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
    "architectures no list": (settings(architectures="LlamaForCausalLM"), "architectures is LlamaForCausalLM"),
    "code of its own": (settings(model_type="mine", auto_map=CODE), "brings code of its own (auto_map)"),
    "unknown family": (settings(model_type="mine"), "cannot read it as 'mine'"),
    "no family": (settings(model_type=...), "model_type is None"),
    "adapter beside": (text("adapter_config.json", "{}"), "holds an adapter"),
    # config.json
    "no config": (without("config.json"), "has no config.json"),
    "config broken": (text("config.json", "{"), "config.json is no JSON"),
    "config an array": (text("config.json", "[]"), "holds no JSON object"),
    "config huge": (text("config.json", json.dumps({"a": "x" * (2 << 20)})), "the limit is 1048576"),
    "config deep": (text("config.json", "[" * 100_000), "nested too deeply"),
    "dtype unknown": (settings(dtype="float8"), "no attribute 'float8'"),
    **{
        f"{name} {value!r}": (settings(**{name: value}), f"{name} is {value}, a whole number from")
        for name, value in {
            "hidden_size": 0,
            "num_attention_heads": -4,
            "num_key_value_heads": 0,
            "head_dim": 0,
            "num_hidden_layers": 10**9,
            "vocab_size": float("nan"),
        }.items()
    },
    "heads in unequal groups": (settings(num_key_value_heads=3), "4 is no multiple of num_key_value_heads 3"),
    "heads of odd width": (settings(head_dim=7), "even rotary dimension"),
    "layer types too many": (settings(layer_types=["full_attention"] * 5), "layer_types has 5 entries for 2 layers"),
    "layer types unknown": (settings(layer_types=["full_attention", "spiral"]), "layer_types"),
    "window of nothing": (settings(sliding_window=0), "sliding_window is 0"),
    "rope unknown": (settings(rope_parameters={**ROPE, "rope_type": "spiral"}), "rope_type is 'spiral'"),
    "rope old and unknown": (
        settings(rope_parameters=..., rope_scaling={"type": "spiral", "factor": 2.0}),
        "rope_type is 'spiral'",
    ),
    "rope without factor": (settings(rope_parameters={**ROPE, "rope_type": "yarn"}), "factor"),
    "rope base 0": (settings(rope_parameters={**ROPE, "rope_theta": 0}), "rope_theta is 0"),
    "epsilon no number": (settings(rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
    "activation unknown": (settings(hidden_act="wiggle"), "hidden_act is 'wiggle'"),
    "padding beyond": (settings(pad_token_id=5000), "pad_token_id is 5000"),
    "end no number": (settings(eos_token_id="2"), "eos_token_id"),
    # weights
    "pickled": (both(without("model.safetensors"), text("pytorch_model.bin", "x")), "pytorch_model.bin"),
    "a shard gone": (shards(without_last=True), "names model-00002-of-00002.safetensors, not there (1 of 2"),
    "index outside": (
        both(shards(), settings("model.safetensors.index.json", weight_map={"a": "../x.safetensors"})),
        "no weight_map",
    ),
    "index gone": (both(shards(), without("model.safetensors.index.json")), "neither model.safetensors nor"),
    "named otherwise": (renamed, "but weights.safetensors"),
    "truncated": (truncated, "is no sound safetensors file"),
    "vocabulary smaller": (settings(vocab_size=100), "112 x 32 in the file, the config needs 100 x 32"),
    "one missing": (tensors(lambda t: {k: v for k, v in t.items() if k != DOWN}), f"missing: {DOWN}"),
    "one more": (tensors(lambda found: {**found, "x.y": found[DOWN].clone()}), "not of this model: x.y"),
    "layers missing": (settings(num_hidden_layers=3), "missing: model.layers.2."),
    "layers left over": (settings(num_hidden_layers=1), "not of this model: model.layers.1."),
    **{
        f"wrapped {prefix}": (prefixed(prefix), f"{prefix!r} in front of its name")
        for prefix in ("_orig_mod.", "module.", "base_model.model.")
    },
    # tokenizer
    "no tokenizer": (without("tokenizer.json"), "there is no tokenizer.json"),
    "sentencepiece alone": (
        both(without("tokenizer.json"), text("tokenizer.model", "x")),
        "there is no tokenizer.json",
    ),
    "tokenizer broken": (text("tokenizer.json", "{"), "the tokenizer in"),
    "tokenizer of code": (
        settings(TOKENIZER, tokenizer_class="My", auto_map={"AutoTokenizer": ["a.My", None]}),
        "custom code",
    ),
    "special tokens broken": (text("special_tokens_map.json", "{"), "special_tokens_map.json is no JSON"),
    "a special token no text": (settings(TOKENIZER, eos_token=5), "eos_token"),
    "a length no number": (settings(TOKENIZER, model_max_length="x"), "the tokenizer in"),
    # generation_config.json
    "generation broken": (text(GENERATION, "{"), f"{GENERATION} is no JSON"),
    "generation odd": (settings(GENERATION, cache_implementation="zap"), f"{GENERATION} cannot be used"),
}

# What completes texts and cannot converse: a job needs it, a deployment does not.
WORDLESS: dict[str, tuple[Change, str]] = {
    "no template": (NO_TEMPLATE, "no chat template"),
    "template of a processor": (both(NO_TEMPLATE, text("chat_template.json", "{}")), "no chat template"),
    "templates without default": (both(NO_TEMPLATE, settings(TOKENIZER, chat_template=NAMED)), "rag, tool_use"),
    "templates in a directory": (both(NO_TEMPLATE, text("additional_chat_templates/rag.jinja", "x")), "named rag"),
    "template no text": (both(NO_TEMPLATE, settings(TOKENIZER, chat_template=5)), "is a int"),
    "template broken": (text("chat_template.jinja", "{% for m in messages %}{{ m }"), "TemplateSyntaxError"),
    "template refuses": (text("chat_template.jinja", "{{ raise_exception('never') }}"), "TemplateError: never"),
    "template silent": (text("chat_template.jinja", "{# nothing #}"), "renders nothing"),
    "template of tokens beyond": (tokens_added("<|new|>" + CHAT_TEMPLATE), "writes '<|new|>' (id 112)"),
    "no end": (both(settings(eos_token_id=None), *NO_END), "names no token that ends"),
    "end beyond": (both(settings(eos_token_id=5000), *NO_END), "only 5000, beyond its 112 tokens"),
}

SOUND: dict[str, Change] = {
    "as saved": settings(),
    "in shards": shards(),
    "in two copies": copied,
    "linked": linked,
    "with original files": text("original/params.json", "{}"),
    "without the decoder's prefix": tensors(lambda t: {k.removeprefix("model."): v for k, v in t.items()}),
    "float16": tensors(lambda found: {name: each.half() for name, each in found.items()}),
    "old buffers": tensors(lambda t: {**t, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    "head not there": settings(tie_word_embeddings=False),
    "code for a known family": settings(auto_map=CODE),
    "attention of its own choice": settings(_attn_implementation="flash_attention_9"),
    "template by name": both(
        NO_TEMPLATE, settings(TOKENIZER, chat_template=[*NAMED, {"name": "default", "template": CHAT_TEMPLATE}])
    ),
    "tokenizer class unknown": settings(TOKENIZER, tokenizer_class="NoSuchTokenizer"),
    "no padding": settings(TOKENIZER, pad_token=...),
    "tokens beyond, unused": tokens_added(CHAT_TEMPLATE),
    "ends by list": settings(eos_token_id=[2, 0, 5000]),
    "generation with unknown words": settings(GENERATION, frobnicate=3),
    "no experts": settings(num_local_experts=0),
}

CONFIG = "adapter_config.json"


def lora(change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor] | None]) -> Change:
    """An adapter's tensors, each with another name and value, or left out."""
    return tensors(
        lambda found: dict(new for item in found.items() if (new := change(*item)) is not None),
        "adapter_model.safetensors",
    )


ADAPTERS: dict[str, tuple[Change, str]] = {
    **{
        f"of kind {kind}": (settings(CONFIG, peft_type=kind), f"an adapter of kind {kind}, only LORA")
        for kind in ("PREFIX_TUNING", "IA3", "VERA", "LOHA", None)
    },
    "DoRA without magnitudes": (settings(CONFIG, use_dora=True), "has no lora_magnitude_vector"),
    "of a classifier": (settings(CONFIG, task_type="SEQ_CLS"), "task_type is 'SEQ_CLS'"),
    "bias unknown": (settings(CONFIG, bias="some"), "bias is 'some'"),
    "start unknown": (settings(CONFIG, init_lora_weights="zap"), "init_lora_weights is 'zap'"),
    "bias without one": (settings(CONFIG, lora_bias=True), "of the base has no bias"),
    "rank no number": (settings(CONFIG, r="8"), "r is '8'"),
    "dropout no number": (settings(CONFIG, lora_dropout="x"), "lora_dropout is 'x'"),
    "head not there": (settings(CONFIG, modules_to_save=["lm_head"]), "modules_to_save names lm_head"),
    "unknown setting": (settings(CONFIG, frobnicate=True), "'frobnicate'"),
    "settings broken": (text(CONFIG, "{"), f"{CONFIG} is no JSON"),
    "half of an update": (
        lora(lambda name, each: None if "1.mlp.up_proj.lora_B" in name else (name, each)),
        "has lora_A and no lora_B",
    ),
    "nothing": (lora(lambda name, each: None), "no update"),
    "layers that are not there": (
        lora(lambda name, each: (name.replace("layers.1.", "layers.9."), each)),
        "changes model.layers.9.",
    ),
    "of integers": (lora(lambda name, each: (name, each.to(torch.int8))), "has dtype I8"),
    "pickled": (
        both(without("adapter_model.safetensors"), text("adapter_model.bin", "x")),
        "adapter_model.bin",
    ),
}
SOUND_ADAPTERS: dict[str, Change] = {
    "no base named": settings(CONFIG, base_model_name_or_path=...),
    "targets by a word": settings(CONFIG, target_modules="all-linear"),
    **{
        f"in {dtype}": lora(lambda name, each, dtype=dtype: (name, each.to(dtype)))  # type: ignore[misc]
        for dtype in (torch.float16, torch.bfloat16)
    },
}


@pytest.fixture
def model(tmp_path: Path, target_dir: Callable[[str], Path]) -> Path:
    """A copy of the tiny Llama, to be changed."""
    return Path(shutil.copytree(target_dir("llama"), tmp_path / "model"))


@pytest.fixture(scope="module")
def sound_adapter(target_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(target_dir("llama"), tmp_path_factory.mktemp("adapter") / "sound", seed=0)


def refusal(act: Callable[[], object]) -> InputError:
    """What is raised; anything but an error of ours fails."""
    with pytest.raises(InputError) as caught:
        act()
    assert ";" in caught.value.message, "no next step"
    return caught.value


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_told_from_the_files_and_by_the_load(name: str, model: Path) -> None:
    change, words = REFUSED[name]
    change(model)
    spec = TargetSpec(model=str(model), dtype="float32")
    error = refusal(lambda: check_target(resolve_target(spec)))
    assert words in error.message
    assert str(model) in error.message
    assert error.param == "target.model"
    assert refusal(lambda: load_target(spec)).message == error.message


@pytest.mark.parametrize("name", WORDLESS)
def test_what_cannot_converse_is_no_jobs_target(name: str, model: Path) -> None:
    """It can complete texts, so it may be deployed."""
    change, words = WORDLESS[name]
    change(model)
    resolved = resolve_target(TargetSpec(model=str(model)))
    assert words in refusal(lambda: check_target(resolved)).message
    check_target(resolved, converses=False)


@pytest.mark.parametrize("name", SOUND)
def test_what_is_odd_and_sound_is_loaded(name: str, model: Path) -> None:
    SOUND[name](model)
    spec = TargetSpec(model=str(model), dtype="float32")
    notes = check_target(resolve_target(spec))
    assert load_target(spec).notes == notes
    assert len(notes) == (name == "head not there")


def test_weights_that_are_no_numbers_are_told_by_the_load(model: Path) -> None:
    tensors(lambda found: {**found, DOWN: found[DOWN] * float("nan")})(model)
    spec = TargetSpec(model=str(model), dtype="float32")
    check_target(resolve_target(spec))
    assert "are not finite" in refusal(lambda: load_target(spec)).message


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_that_cannot_work_is_told_from_its_files(
    name: str, sound_adapter: Path, target_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    change, words = ADAPTERS[name]
    adapter = Path(shutil.copytree(sound_adapter, tmp_path / "adapter"))
    change(adapter)
    spec = TargetSpec(model=str(target_dir("llama")), adapter=str(adapter))
    error = refusal(lambda: resolve_target(spec))
    assert words in error.message
    assert str(adapter) in error.message
    assert error.param == "target.adapter"


@pytest.mark.parametrize("name", SOUND_ADAPTERS)
def test_an_adapter_that_is_odd_and_sound_is_loaded(
    name: str, sound_adapter: Path, target_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(sound_adapter, tmp_path / "adapter"))
    SOUND_ADAPTERS[name](adapter)
    spec = TargetSpec(model=str(target_dir("llama")), adapter=str(adapter), dtype="float32")
    check_target(resolve_target(spec))
    load_target(spec)

"""Tiny random targets of four families with a real byte-level BPE tokenizer, and drafts for them.

Hidden size 32, two layers, grouped-query attention, 112 tokens: production code paths in milliseconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from eda_service.config.loss import LossConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import save_base_draft
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig, Eagle1Config, Eagle3Config
from eda_service.drafts.kinds import make_draft
from eda_service.storage.samples.shards import Sample
from eda_service.targets.loader import Target
from eda_service.training.batches import Batch
from eda_service.training.loss import DraftLoss
from tests.draft_files import write_draft_manifest

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
VOCAB_SIZE = 112
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_STD = 0.35
STATES = ("draft_in", "head_in")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE over printable ASCII with a dozen learnt merges and ChatML's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=_SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the user and the assistant", "user and assistant", "the other one"] * 8, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def family_config(family: str, **changes: Any) -> PretrainedConfig:
    """A tiny config of one family, with changes; Qwen3's heads are wider than hidden_size / num_heads on purpose."""
    common: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": [2, 0],
        "bos_token_id": 0,
        "pad_token_id": 0,
    }
    common |= changes
    if family == "llama":
        return LlamaConfig(**common, tie_word_embeddings=True)
    if family == "qwen2":
        return Qwen2Config(**common, tie_word_embeddings=False)
    if family == "qwen3":
        return Qwen3Config(**{"head_dim": 16, **common}, tie_word_embeddings=False)
    return MistralConfig(**common, sliding_window=None, tie_word_embeddings=False)


def write_target(directory: Path, family: str, *, seed: int = 0, **changes: Any) -> Path:
    """A random model of a family, saved as a Hugging Face directory; weights are wide so that answers vary."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(family_config(family, **changes), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=_STD)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            else:
                parameter.uniform_(0.7, 1.3)
    model.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


def write_adapter(model_dir: Path, directory: Path, *, seed: int, std: float = 0.2, **settings: Any) -> Path:
    """A random LoRA adapter for a model, saved by peft; all seven linears unless the settings say otherwise."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": LINEARS} | settings))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=std)
    adapted.save_pretrained(directory)
    return directory


def draft_config(target: Target) -> DraftConfig:
    """The shape of a draft for a tiny target."""
    config = target.config
    return Eagle1Config(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=target.head_dim,
        expert_width=config.intermediate_size,
        vocab_size=config.vocab_size,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
    )


def random_draft(target: Target, *, seed: int = 0) -> Draft:
    """A draft of the right shape with random weights, in float32."""
    torch.manual_seed(seed)
    return make_draft(draft_config(target))


def random_eagle3(target: Target, *, seed: int = 0, **changes: Any) -> Draft:
    """An EAGLE-3 draft of a width of its own over both layers, with an embedding, a head and 90 tokens of its own."""
    shape = draft_config(target).model_dump() | {
        "hidden_size": 24,
        "target_hidden_size": target.config.hidden_size,
        "own_embedding": True,
        "layers": (1, 2),
        "draft_vocab_size": 90,
        "norm_before_residual": True,
    }
    torch.manual_seed(seed)
    return make_draft(Eagle3Config(**shape | changes))


def fit_draft(
    target: Target,
    *,
    steps: int = 150,
    seed: int = 0,
    draft: Draft | None = None,
    vocab_W: Tensor | None = None,
) -> Draft:
    """A draft trained for a moment on what the target writes greedily, so that some of its tokens are accepted."""
    draft = random_draft(target, seed=seed) if draft is None else draft
    engine = Engine(target, max_batch=16, max_tokens=64, capture_features=True, captures=draft.config.captures)
    rng = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(3, VOCAB_SIZE, (4,), generator=rng).tolist() for _ in range(16)]
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, SamplingParams(max_new_tokens=24))
    rows, known = [], []
    for i, outputs in run_to_end(engine).items():
        answer = [token for output in outputs for token in output.new_token_ids]
        if len(answer) == 24:
            states = outputs[-1].states
            assert states is not None
            rows.append(prompts[int(i)] + answer)
            known.append(states.each(lambda x: torch.cat([x, x.new_zeros(1, x.shape[1])])))
    token_ids_BL = torch.tensor(rows)
    mask_BL = torch.ones_like(token_ids_BL, dtype=torch.bool)
    known_BL = mask_BL.clone()
    known_BL[:, -1] = False
    features_BLC, head_in_BLD = (torch.stack([getattr(each, name) for each in known]).clone() for name in STATES)
    batch = Batch(token_ids_BL, features_BLC, mask_BL, known_BL, head_in_BLD if draft.config.captures else None)
    loss = DraftLoss(draft, LossConfig(cross_entropy_weight=1.0, unroll_steps=2), vocab_W)
    optimizer = torch.optim.Adam(draft.parameters(), lr=5e-3)
    lm_head = dataclasses.replace(target.lm_head, rows_VD=target.head_weight.clone()).take(vocab_W)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(batch, target.embed, lm_head).total.backward()
        optimizer.step()
    return draft


def register_draft(
    home: Path, draft: Draft, target: Target, *, name: str = "tiny", version: int = 1, vocab_W: Tensor | None = None
) -> Path:
    """Put a draft into `<home>/drafts/<name>/<version>` with a manifest that fits the target."""
    directory = home / "drafts" / name / str(version)
    directory.mkdir(parents=True)
    save_base_draft(directory, draft, vocab_W)
    fingerprint = target.fingerprint
    write_draft_manifest(directory, fingerprint.hidden_size, fingerprint.vocab_size, fingerprint.tokenizer_sha256)
    return directory


def random_samples(lengths: Sequence[int]) -> list[Sample]:
    """Samples with prompts of three tokens and hidden states of the tiny targets' width, [L-1, 32]."""
    rng = torch.Generator().manual_seed(0)
    return [
        Sample(
            f"s{i}",
            torch.randint(3, VOCAB_SIZE, (n,), generator=rng).tolist(),
            3,
            torch.randn(n - 1, 32, generator=rng),
        )
        for i, n in enumerate(lengths)
    ]

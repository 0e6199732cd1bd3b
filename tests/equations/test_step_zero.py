"""Step 0 of an adaptation is the base draft, and only what its method trains ever moves (Section 4 of the paper).

Oracles: the base draft's own output, bit for bit; the trained sets written out by name; parameter counts of Table 4.

Shapes: B samples, L positions, D hidden.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eda_service.config.job import Method, Mix, TrainConfig
from eda_service.config.loss import LossConfig
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import Eagle1Config, PrivateConfig, parameter_counts
from eda_service.drafts.freezing import count_parameters, frozen_sha256, prepare, trained_state
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.drafts.unroll import unroll
from eda_service.targets.loader import Target
from eda_service.training.batches import Batch
from eda_service.training.loss import DraftLoss

FORMS = {
    "eda_softmax": TrainConfig(method=Method.EDA, mix=Mix.SOFTMAX),
    "eda_sum": TrainConfig(method=Method.EDA, mix=Mix.SUM),
    "eda_softmax_small": TrainConfig(method=Method.EDA, mix=Mix.SOFTMAX, private_width_fraction=0.5),
    "eda_sum_small": TrainConfig(method=Method.EDA, mix=Mix.SUM, private_width_fraction=0.5),
    "eda_train_fc": TrainConfig(method=Method.EDA, train_fc=True),
    "eda_train_attention": TrainConfig(method=Method.EDA, train_attention=True),
    "full_ft": TrainConfig(method=Method.FULL_FT),
    "lora": TrainConfig(method=Method.LORA, lora_rank=4),
}
all_forms = pytest.mark.parametrize("form", list(FORMS))

_PRIVATE = {f"layers.0.mlp.private.{name}_proj.weight" for name in ("gate", "up", "down")}
_GATE = {"layers.0.mlp.gate.proj.weight"}
_LINEARS = {
    "fc",
    *(f"layers.0.self_attn.{name}_proj" for name in "qkvo"),
    *(f"layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")),
}
TRAINED = {
    "eda_softmax": _PRIVATE | _GATE,
    "eda_sum": _PRIVATE,
    "eda_softmax_small": _PRIVATE | _GATE,
    "eda_sum_small": _PRIVATE,
    "eda_train_fc": _PRIVATE | _GATE | {"fc.weight"},
    "eda_train_attention": _PRIVATE | _GATE | {f"layers.0.self_attn.{name}_proj.weight" for name in "qkvo"},
    "full_ft": {f"{name}.weight" for name in _LINEARS} | {"layers.0.post_attention_layernorm.weight"},
    "lora": {f"{name}.lora_{side}.default.weight" for name in _LINEARS for side in "AB"},
}


def sample_batch(target: Target) -> Batch:
    rng = torch.Generator().manual_seed(2)
    token_ids_BL = torch.randint(3, 112, (3, 10), generator=rng)
    features_BLD = torch.randn(3, 10, target.config.hidden_size, generator=rng)
    mask_BL = torch.ones(3, 10, dtype=torch.bool)
    return Batch(token_ids_BL, features_BLD, mask_BL, mask_BL.clone())


def outputs(draft: Draft, target: Target) -> list[Tensor]:
    batch = sample_batch(target)
    with torch.no_grad():
        return list(unroll(draft, target.embed, batch.token_ids_BL, batch.features_BLD, 3))


def train(draft: Draft, target: Target, *, steps: int = 3, learning_rate: float = 1e-2) -> None:
    loss = DraftLoss(draft, LossConfig(cross_entropy_weight=1.0))
    optimizer = torch.optim.AdamW([p for p in draft.parameters() if p.requires_grad], lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(sample_batch(target), target.embed, target.lm_head).total.backward()
        optimizer.step()


@all_forms
def test_step_zero_equals_the_base_draft(tiny_target: Target, tiny_draft: Draft, form: str) -> None:
    wanted = outputs(tiny_draft, tiny_target)
    adapted = prepare(copy.deepcopy(tiny_draft), FORMS[form], seed=3)
    for got_BSD, wanted_BSD in zip(outputs(adapted, tiny_target), wanted, strict=True):
        assert torch.equal(got_BSD, wanted_BSD)


@all_forms
def test_training_then_differs_from_the_base_draft(tiny_target: Target, tiny_draft: Draft, form: str) -> None:
    """The companion of step 0: the same comparison does see an adaptation that trained."""
    wanted = outputs(tiny_draft, tiny_target)
    adapted = prepare(copy.deepcopy(tiny_draft), FORMS[form], seed=3)
    train(adapted, tiny_target)
    assert not torch.allclose(outputs(adapted, tiny_target)[0], wanted[0], atol=1e-4)


def test_retrain_starts_elsewhere(tiny_target: Target, tiny_draft: Draft) -> None:
    wanted = outputs(tiny_draft, tiny_target)
    fresh = prepare(copy.deepcopy(tiny_draft), TrainConfig(method=Method.RETRAIN), seed=3)
    assert not torch.allclose(outputs(fresh, tiny_target)[0], wanted[0], atol=1e-2)
    assert all(p.requires_grad for p in fresh.parameters())


def test_full_width_is_neutral_for_any_gate(tiny_target: Target, tiny_draft: Draft) -> None:
    """E_s = E_p, so g_s E_s + g_p E_p = E_s however the gate decides."""
    wanted = outputs(tiny_draft, tiny_target)
    adapted = prepare(copy.deepcopy(tiny_draft), FORMS["eda_softmax"], seed=3)
    module = adapted.layer.mlp
    assert isinstance(module, SharedPrivateFFN)
    assert module.gate is not None
    torch.nn.init.normal_(module.gate.proj.weight, std=2.0)
    for got_BSD, wanted_BSD in zip(outputs(adapted, tiny_target), wanted, strict=True):
        torch.testing.assert_close(got_BSD, wanted_BSD, rtol=1e-4, atol=1e-5)


@all_forms
def test_trained_set_by_name(tiny_draft: Draft, form: str) -> None:
    adapted = prepare(tiny_draft, FORMS[form], seed=0)
    assert {name for name, p in adapted.named_parameters() if p.requires_grad} == TRAINED[form]
    assert trained_state(adapted).keys() == TRAINED[form]


@all_forms
def test_frozen_tensors_are_bit_identical_after_training(tiny_target: Target, tiny_draft: Draft, form: str) -> None:
    base = {name: p.detach().clone() for name, p in tiny_draft.named_parameters()}
    adapted = prepare(tiny_draft, FORMS[form], seed=0)
    before, start = frozen_sha256(adapted), {name: p.detach().clone() for name, p in adapted.named_parameters()}
    train(adapted, tiny_target)
    assert frozen_sha256(adapted) == before
    for name, parameter in adapted.named_parameters():
        if name in TRAINED[form]:
            assert not torch.equal(parameter, start[name]), f"{name} did not train"
        else:
            original = name.replace(".mlp.shared.", ".mlp.").replace(".base_layer", "")
            assert torch.equal(parameter, base[original]), f"{name} moved"


def test_frozen_hash_sees_one_changed_bit(tiny_draft: Draft) -> None:
    adapted = prepare(tiny_draft, FORMS["eda_softmax"], seed=0)
    before = frozen_sha256(adapted)
    with torch.no_grad():
        weight = adapted.fc.weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(10.0))
    assert frozen_sha256(adapted) != before


@pytest.mark.parametrize("form", ["eda_softmax", "eda_softmax_small"])
def test_gate_learns_with_a_joint_softmax(tiny_target: Target, tiny_draft: Draft, form: str) -> None:
    """After the experts have parted the gate has a gradient: the released code's gates never get one."""
    adapted = prepare(tiny_draft, FORMS[form], seed=0)
    train(adapted, tiny_target, steps=2)
    module = adapted.layer.mlp
    assert isinstance(module, SharedPrivateFFN)
    assert module.gate is not None
    gradient = module.gate.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().max().item() > 1e-6
    # A joint softmax sees only the difference of the two logits: the rows' gradients are opposite.
    torch.testing.assert_close(gradient[0], -gradient[1], rtol=1e-3, atol=1e-7)
    assert module.gate.proj.weight.abs().max().item() > 1e-3


def test_sum_mix_has_no_gate_to_train(tiny_draft: Draft) -> None:
    module = prepare(tiny_draft, FORMS["eda_sum"], seed=0).layer.mlp
    assert isinstance(module, SharedPrivateFFN)
    assert module.gate is None


@all_forms
def test_counts_follow_the_closed_form(tiny_draft: Draft, form: str) -> None:
    config = FORMS[form]
    shape = tiny_draft.config
    total, trained = count_parameters(prepare(tiny_draft, config, seed=0))
    if config.method is Method.LORA:
        base, _ = parameter_counts(shape, None, train_fc=False)
        assert total == base + trained
        return
    width = round(shape.expert_width * config.private_width_fraction)
    private = PrivateConfig(private_width=width, mix=config.mix) if config.method is Method.EDA else None
    options = {"train_fc": config.train_fc, "train_attention": config.train_attention}
    assert (total, trained) == parameter_counts(shape, private, **options)


def test_table_4_of_the_paper() -> None:
    """d = 3584, m = 18944: 462.4M with two full experts; half-width private expert, gate and fc are 127.5M of them."""
    shape = Eagle1Config(
        hidden_size=3584,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        expert_width=18944,
        vocab_size=152_064,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
    )
    full, _ = parameter_counts(shape, PrivateConfig(private_width=18944), train_fc=False)
    _, trained = parameter_counts(shape, PrivateConfig(private_width=9472), train_fc=True)
    assert round(full / 1e6, 1) == 462.4
    assert round(trained / 1e6, 1) == 127.5
    assert round(100 * trained / full, 1) == 27.6


@pytest.mark.parametrize(
    "shape",
    [(576, 9, 3, 64, 1536), (3584, 28, 4, 128, 18944), (4096, 32, 8, 128, 14336), (896, 14, 2, 64, 4864)],
    ids=["smollm2-135m", "qwen2-7b", "llama-3-8b", "qwen2-0.5b"],
)
def test_full_size_private_expert_is_at_most_half(shape: tuple[int, ...]) -> None:
    hidden_size, num_heads, num_kv_heads, head_dim, width = shape
    config = Eagle1Config(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        expert_width=width,
        vocab_size=1000,
        rope_theta=1e4,
        rms_norm_eps=1e-5,
    )
    total, trained = parameter_counts(config, PrivateConfig(private_width=width), train_fc=False)
    assert 0.2 < trained / total <= 0.5


def test_tiny_draft_s_real_counts_are_at_most_half(tiny_draft: Draft) -> None:
    total, trained = count_parameters(prepare(tiny_draft, FORMS["eda_softmax"], seed=0))
    assert 0 < trained / total <= 0.5


def test_a_second_private_expert_is_refused(tiny_draft: Draft) -> None:
    adapted = prepare(tiny_draft, FORMS["eda_softmax"], seed=0)
    with pytest.raises(ValueError, match="has a private expert already"):
        adapted.add_private(PrivateConfig(private_width=8))


def test_same_seed_same_start(tiny_target: Target, new_draft: Callable[..., Draft]) -> None:
    """Fresh weights depend on the seed alone: two workers start alike."""
    one, two = (prepare(new_draft(tiny_target), FORMS["eda_sum_small"], seed=9) for _ in range(2))
    other = prepare(new_draft(tiny_target), FORMS["eda_sum_small"], seed=10)
    name = "layers.0.mlp.private.gate_proj.weight"
    assert torch.equal(trained_state(one)[name], trained_state(two)[name])
    assert not torch.equal(trained_state(one)[name], trained_state(other)[name])

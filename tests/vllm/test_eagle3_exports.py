"""An adapted EAGLE-3 draft inside a real vLLM: unmodified with the dense form, and with the plugin, gate and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_packs import publish_adapted
from eagle3_drafts import eagle3_config, fit_eagle3, learn
from eagle3_files import ODD_W
from recording import MAX_TOKENS, NUM_DRAFTED, Decoded, Job, own_engine, prompts, run_vllm
from tiny_models import register_draft

from eda_service.config.job import Mix, TrainConfig
from eda_service.drafts.dialects.record import Dialect
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import Eagle1Config
from eda_service.drafts.kinds import make_draft
from eda_service.export.calibration import CalibrationSettings
from eda_service.export.dense import fold
from eda_service.export.export import ExportRequest, export_draft
from eda_service.export.files.directory import read_export
from eda_service.export.files.eda_config import Destination, ExportForm
from eda_service.targets.loader import Target

pytestmark = pytest.mark.timeout(1200)

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"norm_before_fc": True, "draft_vocab_size": len(ODD_W)},
    "qwen3": {"qk_norm": True, "qkv_bias": True, "layers": (1, 8), "own_embedding": True, "norm_output": True},
}
READ = {
    "llama": [Dialect.SPECULATORS, Dialect.EAGLE3, Dialect.MODELOPT, Dialect.ANGELSLIM],
    "qwen3": [Dialect.SPECULATORS, Dialect.MODELOPT],
}
EAGLE1: dict[str, dict[str, Any]] = {
    "eagle1 with biases of q, k and v": {"qkv_bias": True, "own_embedding": True},
    "eagle1 with a bias behind the attention": {
        "o_bias": True,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
}
Runs = dict[tuple[str, str], tuple[Decoded, Decoded, str, Path]]


@pytest.fixture(scope="module")
def exported(deep_targets: dict[str, Target], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Each pack in each form, decoded by our engine and by vLLM; the dense ones in a vLLM without any plugin."""
    own: dict[tuple[str, str], Decoded] = {}
    jobs: dict[str, dict[tuple[str, str], Job]] = {"dense": {}, "plugin": {}}
    for family, shape in SHAPES.items():
        target, home = deep_targets[family], tmp_path_factory.mktemp(f"home-{family}")
        vocab_W = ODD_W if "draft_vocab_size" in shape else None
        draft = fit_eagle3(target, eagle3_config(target, **shape), vocab_W, prompts())
        base_dir = register_draft(home, draft, target, vocab_W=vocab_W)
        train = TrainConfig(private_width_fraction=0.5)
        packs = {"softmax": train, "sum": train.model_copy(update={"mix": Mix.SUM, "train_fc": True})}
        forms = [("plugin", each, None) for each in packs] + [("dense", "softmax", each) for each in READ[family]]
        named = {
            each: publish_adapted(home, base_dir, target, packs[each], vocab_W=vocab_W, std=0.1, name=each)
            for each in packs
        }
        for form, pack, dialect in forms:
            out = home / f"{form}-{pack}-{dialect}"
            request = ExportRequest(
                named[pack],
                Destination.VLLM,
                ExportForm(form),
                out,
                target=target.spec,
                calibration=CalibrationSettings(num_prompts=8, max_new_tokens=16),
                dialect=dialect,
            )
            export_draft(request, home=home)
            key = (family, f"{form} {dialect or pack}")
            own[key] = decoded(target, out)
            jobs[form][key] = Job(target.spec.model, out)
    for name, shape in EAGLE1.items():
        out = tmp_path_factory.mktemp("eagle1") / "out"
        export_eagle1(deep_targets["llama"], shape, out, out.parent / "home")
        own["llama", name] = decoded(deep_targets["llama"], out)
        jobs["dense"]["llama", name] = Job(deep_targets["llama"].spec.model, out, "eagle")
    runs: Runs = {}
    for form, of_form in jobs.items():
        place = tmp_path_factory.mktemp(f"vllm-{form}")
        plugins = "" if form == "dense" else None
        theirs = run_vllm(list(of_form.values()), prompts(), NUM_DRAFTED, MAX_TOKENS, place, plugins=plugins)
        for (key, job), (answer, draft_class) in zip(of_form.items(), theirs, strict=True):
            runs[key] = (own[key], answer, draft_class, job.draft)
    return runs


def export_eagle1(target: Target, shape: dict[str, Any], out: Path, home: Path) -> None:
    """A dense export of a base draft with parts that drafts made here do not have."""
    config = eagle3_config(target).model_dump(include=set(Eagle1Config.model_fields))
    torch.manual_seed(1)
    draft = make_draft(Eagle1Config.model_validate(config | shape | {"kind": "eagle1"}))
    learn(draft, target, None, prompts())
    register_draft(home, draft, target)
    export_draft(ExportRequest("tiny", Destination.VLLM, ExportForm.DENSE, out, target=target.spec), home=home)


def decoded(target: Target, out: Path, change: Any = None) -> Decoded:
    """What our engine makes of an export, read back."""
    _, loaded = read_export(out)
    draft: Draft = loaded.draft.to(target.dtype)
    draft = draft if change is None else change(draft)
    return own_engine(target, draft, loaded.vocab_W, prompts(), NUM_DRAFTED, MAX_TOKENS)


KEYS = [(family, f"dense {dialect}") for family in SHAPES for dialect in READ[family]]
KEYS += [("llama", name) for name in EAGLE1]
KEYS += [(family, f"plugin {pack}") for family in SHAPES for pack in ("softmax", "sum")]
CLASSES = {
    ("llama", "dense"): "Eagle3LlamaForCausalLM",
    ("llama", "eagle1"): "EagleLlamaForCausalLM",
    ("qwen3", "dense"): "Eagle3Qwen3ForCausalLM",
    ("llama", "plugin"): "Eagle3EdaForCausalLM",
    ("qwen3", "plugin"): "Eagle3EdaQwen3ForCausalLM",
}


@pytest.mark.parametrize(("family", "name"), KEYS)
def test_vllm_drafts_what_our_engine_drafts_and_answers_as_the_target(
    family: str, name: str, exported: Runs, deep_targets: dict[str, Target]
) -> None:
    own, theirs, draft_class, out = exported[family, name]
    form = name.split(maxsplit=1)[0]
    assert draft_class == CLASSES[family, form]
    assert theirs.token_ids == own.token_ids == greedy(deep_targets[family])
    for ours, vllms in zip(own.proposed, theirs.proposed, strict=True):
        assert ours == vllms[: len(ours)]
    assert theirs.emitted == own.emitted
    if form == "plugin":  # without the private expert it would draft something else
        assert decoded(deep_targets[family], out, lambda draft: fold(draft, (1.0, 0.0))).proposed != own.proposed


def greedy(target: Target) -> list[list[int]]:
    """The target's own answers by `generate`, cut behind a stop token."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target.spec.model, dtype=torch.float32)
    answers = []
    for ids in prompts():
        out = model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=MAX_TOKENS, eos_token_id=[0, 2], pad_token_id=0
        )
        answers.append(out[0, len(ids) :].tolist())
    return answers

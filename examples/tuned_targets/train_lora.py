"""Make a tuned target: a LoRA fine-tune of a base target on one domain, with a measured shift.

The adapters shipped under `eda_service/assets/tuned_targets/` were made by this script. It trains on the answer
tokens only, then measures on held-out rows how far the fine-tune moved from its base and refuses to save a tuned target
that hardly moved (a draft adapted to it would prove nothing):

* `loss_drop`: mean answer-token loss of the base minus that of the tuned target, in nats (gate: at least 0.3);
* `greedy_agreement`: fraction of held-out answer positions where both have the same most likely token
  (gate: under 0.75).

Shapes: B batch, L positions, V vocabulary, A answer tokens of a batch.

    python examples/tuned_targets/train_lora.py --base ~/.cache/eda/models/smollm2-135m-instruct \
        --train gsm8k-train.jsonl --heldout gsm8k-test.jsonl --notes --data-note "GSM8K train (MIT)" --out
        out/smollm2-135m-math
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import AutoModelForCausalLM, AutoTokenizer

logger = logging.getLogger("train_lora")
MIN_LOSS_DROP = 0.3
MAX_GREEDY_AGREEMENT = 0.75
# fmt: off
FUNCTION_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "been", "by", "can", "could", "did", "do", "does", "each", "for", "from",
    "had", "has", "have", "he", "her", "his", "in", "is", "it", "its", "of", "on", "per", "she", "so", "that", "the",
    "their", "then", "there", "they", "this", "to", "was", "were", "which", "will", "with", "would",
})
# fmt: on


@dataclass(frozen=True)
class Row:
    """One tokenised conversation: ids and the index of its first answer token."""

    token_ids: list[int]
    answer_start: int


def as_notes(text: str) -> str:
    """The text in note form: function words left out, lines and everything inside `<<..>>` kept."""
    lines = [
        [word for word in line.split() if word.lower().strip(",.") not in FUNCTION_WORDS] for line in text.split("\n")
    ]
    return "\n".join(" ".join(words) for words in lines if words)


def read_rows(path: Path, tokenizer: Any, max_tokens: int, *, notes: bool) -> list[Row]:
    """Tokenise JSONL rows `{"messages", "reference"}` with the chat template; rows over `max_tokens` are left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        record = json.loads(line)
        if not record["reference"]:
            continue
        prompt = tokenizer.apply_chat_template(record["messages"], add_generation_prompt=True, return_dict=True)
        text = as_notes(record["reference"]) if notes else record["reference"]
        answer = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        token_ids = list(prompt["input_ids"]) + answer
        if len(token_ids) <= max_tokens:
            rows.append(Row(token_ids, len(token_ids) - len(answer)))
    return rows


def collate(rows: list[Row], pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-pad to (ids_BL, attention_BL, answer_mask_BL); the mask is True on answer tokens."""
    width = max(len(row.token_ids) for row in rows)
    ids_BL = torch.full((len(rows), width), pad_id)
    attention_BL = torch.zeros(len(rows), width, dtype=torch.long)
    answer_mask_BL = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids_BL[i, : len(row.token_ids)] = torch.tensor(row.token_ids)
        attention_BL[i, : len(row.token_ids)] = 1
        answer_mask_BL[i, row.answer_start : len(row.token_ids)] = True
    return ids_BL, attention_BL, answer_mask_BL


def answer_logits(model: Any, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits_AV that predict the answer tokens, and those tokens; the head runs on answer positions only."""
    ids_BL, attention_BL, answer_mask_BL = batch
    hidden_BLD = model.model(input_ids=ids_BL, attention_mask=attention_BL).last_hidden_state
    keep = answer_mask_BL[:, 1:]
    return model.lm_head(hidden_BLD[:, :-1][keep]), ids_BL[:, 1:][keep]


@torch.inference_mode()
def measure_shift(peft_model: Any, rows: list[Row], pad_id: int, batch_size: int = 16) -> dict[str, float]:
    """Held-out loss of base and tuned target in nats per answer token, and their greedy agreement (0..1)."""
    tuned = peft_model.get_base_model()
    loss_base = loss_tuned = agree = count = 0.0
    for start in range(0, len(rows), batch_size):
        batch = collate(rows[start : start + batch_size], pad_id)
        logits_AV, tokens_A = answer_logits(tuned, batch)
        with peft_model.disable_adapter():
            base_logits_AV, _ = answer_logits(tuned, batch)
        loss_tuned += F.cross_entropy(logits_AV.float(), tokens_A, reduction="sum").item()
        loss_base += F.cross_entropy(base_logits_AV.float(), tokens_A, reduction="sum").item()
        agree += (logits_AV.argmax(-1) == base_logits_AV.argmax(-1)).sum().item()
        count += tokens_A.numel()
    return {
        "heldout_loss_base": loss_base / count,
        "heldout_loss_tuned": loss_tuned / count,
        "loss_drop": (loss_base - loss_tuned) / count,
        "greedy_agreement": agree / count,
        "num_heldout_answer_tokens": count,
    }


def train(peft_model: Any, rows: list[Row], pad_id: int, args: argparse.Namespace) -> list[float]:
    """AdamW on the LoRA parameters, linear warm-up and cosine decay; returns the loss of each step."""
    params = [p for p in peft_model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=args.learning_rate, weight_decay=0.0)

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / 10)
        return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rng = random.Random(args.seed)
    losses: list[float] = []
    started = time.monotonic()
    for step in range(args.steps):
        batch = collate(rng.sample(rows, args.batch_size), pad_id)
        # LoRA's own products run in bfloat16 on float32 weights: as float32 products they took most of a step.
        with torch.autocast("cpu", torch.bfloat16), disable_input_dtype_casting(peft_model):
            logits_AV, tokens_A = answer_logits(peft_model.get_base_model(), batch)
        loss = F.cross_entropy(logits_AV.float(), tokens_A)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 10 == 9:
            mean = sum(losses[-10:]) / 10
            logger.info("step %d loss %.3f, %.1f s/step", step + 1, mean, (time.monotonic() - started) / (step + 1))
    return losses


def file_name(value: Any) -> str:
    """A setting as text; a path is its last part, since directories are this machine's own."""
    return value.name if isinstance(value, Path) else str(value)


def model_card(name: str, base: str, report: dict[str, Any]) -> str:
    """The card of a tuned target: what it is, what it was made from, how far it moved."""
    shift, settings = report["shift"], report["settings"]
    flags = " ".join(f"{key}={value}" for key, value in settings.items() if key != "data_note")
    return f"""# {name}

LoRA adapter on `{base}` (Apache-2.0), for showing and testing draft adaptation. No product: it gives wrong answers.

* Made by `examples/tuned_targets/train_lora.py`.
* Data: {report["data"]}. {report["num_train_rows"]} rows to draw from.
* Settings: {flags}
* Licence: Apache-2.0.

| On {settings["num_heldout"]} held-out rows, {shift["num_heldout_answer_tokens"]:.0f} answer tokens | |
|---|---|
| loss of the base, nats per token | {shift["heldout_loss_base"]:.3f} |
| loss of this target | {shift["heldout_loss_tuned"]:.3f} |
| loss drop (gate: at least {MIN_LOSS_DROP}) | {shift["loss_drop"]:.3f} |
| greedy agreement with the base (gate: under {MAX_GREEDY_AGREEMENT}) | {shift["greedy_agreement"]:.3f} |
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="directory of the base target")
    parser.add_argument("--train", type=Path, required=True, help="JSONL with messages and reference")
    parser.add_argument("--heldout", type=Path, help="JSONL; default: the last rows of --train, kept out of it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--continue-from", type=Path, help="adapter to train on; the steps of both runs are in its card"
    )
    parser.add_argument("--data-note", default="", help="name and licence of the data, for the card")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--num-heldout", type=int, default=96)
    parser.add_argument("--notes", action="store_true", help="teach answers in note form, without function words")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the frozen base; LoRA stays float32"
    )
    return parser.parse_args()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args = parse_args()
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=getattr(torch, args.dtype))
    if args.continue_from:
        peft_model = PeftModel.from_pretrained(model, str(args.continue_from), is_trainable=True)
    else:
        lora = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear", task_type="CAUSAL_LM")
        peft_model = get_peft_model(model, lora)
    pad_id = int(tokenizer.eos_token_id)
    rows = read_rows(args.train, tokenizer, args.max_tokens, notes=args.notes)
    if args.heldout is None:
        rows, heldout = rows[: -args.num_heldout], rows[-args.num_heldout :]
    else:
        heldout = read_rows(args.heldout, tokenizer, args.max_tokens, notes=args.notes)[: args.num_heldout]
    logger.info("%d training rows, %d held-out rows", len(rows), len(heldout))
    started = time.monotonic()
    losses = train(peft_model, rows, pad_id, args)
    shift = measure_shift(peft_model, heldout, pad_id)
    report = {
        "shift": shift,
        "final_train_loss": sum(losses[-10:]) / len(losses[-10:]),
        "num_train_rows": len(rows),
        "train_seconds": round(time.monotonic() - started),
        "data": args.data_note,
        "settings": {key: file_name(value) for key, value in vars(args).items() if key not in {"base", "out"}},
    }
    logger.info("%s", json.dumps(report, indent=2))
    peft_model.peft_config["default"].base_model_name_or_path = args.base.name
    peft_model.to(torch.bfloat16).save_pretrained(args.out)
    (args.out / "shift.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (args.out / "README.md").write_text(model_card(args.out.name, args.base.name, report), encoding="utf-8")
    if shift["loss_drop"] < MIN_LOSS_DROP or shift["greedy_agreement"] >= MAX_GREEDY_AGREEMENT:
        raise SystemExit(
            f"shift too small: loss_drop {shift['loss_drop']:.3f} (at least {MIN_LOSS_DROP}), greedy_agreement "
            f"{shift['greedy_agreement']:.3f} (under {MAX_GREEDY_AGREEMENT}); {args.out} is no tuned target: train "
            "longer or on a more unusual format"
        )


if __name__ == "__main__":
    main()

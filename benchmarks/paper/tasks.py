"""Evaluation sets and each tuned target's answers to them: the transcripts that every draft is compared with."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.paper.domains import Source
from eda_service.decoding.request import SamplingParams
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.replay import Transcript, transcribe
from eda_service.selfgen.prompts import Prompt, read_jsonl
from eda_service.storage.files import sha256_text
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.loader import Target

FEWEST_PROMPTS, FEWEST_TOKENS = 24, 2000
_CHUNK = 16
MAX_NEW_TOKENS = 128
MAX_PROMPT_TOKENS = 640
TEMPERATURES = (0.0, 1.0)


def answered(
    target: Target, prompts: list[Prompt], temperature: float, captures: Sequence[int] = ()
) -> list[Transcript]:
    """Answer prompts in shuffled order (some sets are sorted by subject), except those that are too long, until there
    are enough prompts and tokens, or no more prompts.
    """
    order = random.Random("tasks").sample(prompts, len(prompts))
    rendered = (render_prompt(target.tokenizer, prompt.messages) for prompt in order)
    short = [ids for ids in rendered if len(ids) <= MAX_PROMPT_TOKENS]
    params = SamplingParams(temperature=temperature, max_new_tokens=MAX_NEW_TOKENS)
    made: list[Transcript] = []
    for start in range(0, len(short), _CHUNK):
        chunk = short[start : start + _CHUNK]
        made += transcribe(OwnEngine(target), chunk, params, batch_size=_CHUNK, captures=captures)
        num_tokens = sum(len(each.token_ids) - each.num_prompt_tokens for each in made)
        if len(made) >= FEWEST_PROMPTS and num_tokens >= FEWEST_TOKENS:
            break
    return made


def transcripts_of(
    target: Target,
    name: str,
    tasks: Mapping[str, Source],
    data: Path,
    cache: Path,
    *,
    sampled: bool = True,
    captures: Sequence[int] = (),
) -> dict[tuple[str, float], list[Transcript]]:
    """Return the target's answers by task and temperature, from the cache or written now. A file of the cache belongs
    to one target, one set of prompts and the layers that the draft reads.
    """
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, float], list[Transcript]] = {}
    for task, source in tasks.items():
        prompts = source() if callable(source) else read_jsonl(data / source)
        read = repr(tuple(captures)) if captures else ""
        said = target.fingerprint.model_dump_json() + repr([each.messages for each in prompts]) + read
        digest = sha256_text(said)[:10]
        for temperature in TEMPERATURES if sampled else TEMPERATURES[:1]:
            path = cache / f"{name}-{task}-T{temperature:g}-{digest}.safetensors"
            if not path.exists():
                save(path, answered(target, prompts, temperature, captures))
            found[task, temperature] = enough(load(path))
    return found


def enough(texts: list[Transcript]) -> list[Transcript]:
    """Return the first transcripts that are enough for both counts."""
    num_tokens = 0
    for count, each in enumerate(texts, start=1):
        num_tokens += len(each.token_ids) - each.num_prompt_tokens
        if count >= FEWEST_PROMPTS and num_tokens >= FEWEST_TOKENS:
            return texts[:count]
    return texts


def save(path: Path, transcripts: list[Transcript]) -> None:
    """Write a task's transcripts to one file."""
    tensors = {}
    for i, each in enumerate(transcripts):
        tensors[f"{i}.token_ids"] = torch.tensor(each.token_ids)
        tensors[f"{i}.features"] = each.features_TD.contiguous()
        tensors[f"{i}.num_prompt_tokens"] = torch.tensor(each.num_prompt_tokens)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(path)


def load(path: Path) -> list[Transcript]:
    """Read what `save` wrote."""
    tensors = load_file(path)
    return [
        Transcript(tensors[f"{i}.token_ids"].tolist(), int(tensors[f"{i}.num_prompt_tokens"]), tensors[f"{i}.features"])
        for i in range(len(tensors) // 3)
    ]

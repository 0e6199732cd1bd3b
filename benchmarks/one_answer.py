"""One request, one answer: the number of different texts of twelve equal greedy requests, and the cost of making it
one.

The target is SmolLM2 tuned on sums, with its committed pack and adaptive chains, as an endpoint of one model has it.
Candidates: sums in torch's own order (`before`); shapes of attention and products under which a token's sums have one
order (`shapes`, used by endpoints); the same in float32 (`float32`); and `apart`, the full depth in rounds with one
request each, so that a batch is eight rounds one after the other. Rates are medians of repeats in turns, so that other
load on the machine affects all alike; ratios are to `before`, in the same turn.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from statistics import median
from typing import Any

import torch

from benchmarks.serving_prompts import sums
from benchmarks.workloads import DOMAINS, PACKS_BASE_DRAFT, RESULTS, header, write_result
from eda_service.config.job import TargetSpec
from eda_service.decoding.build import load_drafts
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.policy import Adaptive
from eda_service.decoding.request import SamplingParams
from eda_service.storage.published.registry import find_draft
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.decoder.tiles import one_order
from eda_service.targets.loader import Target, load_target

_STORIES = (
    "Write a story about a lighthouse keeper who finds a letter in a bottle.",
    "Describe a market in a small town on a rainy morning.",
    "Explain to a child why the sky is blue.",
    "Give me some advice for my first week in a new city.",
)
_NUM_TOKENS = 40
_NUM_TEXT_TOKENS = 200


class Candidate:
    """An engine and the way it is run."""

    def __init__(self, name: str, target: Target, loaded: Any, *, adaptive: bool) -> None:
        self.name = name
        self.engine = Engine(
            target,
            loaded.draft,
            loaded.draft.head(target.lm_head, loaded.vocab_W),
            num_draft_tokens=5,
            policy=Adaptive(read_confidence=True) if adaptive else None,
            max_batch=16,
            max_tokens=1024,
            one_order=name in ("shapes", "float32"),
        )
        self._apart = not adaptive

    def run(self, prompts: list[list[int]], num_tokens: int, *, together: bool, ends: bool) -> list[tuple[int, ...]]:
        """Decode the prompts and return the answers."""
        params = SamplingParams(max_new_tokens=num_tokens, ignore_eos=not ends)
        turns = [prompts] if together and not self._apart else [[each] for each in prompts]
        found = []
        for turn in turns:
            for i, ids in enumerate(turn):
                self.engine.submit(str(i), ids, params)
            done = run_to_end(self.engine)
            found += [tuple(t for out in done[str(i)] for t in out.new_token_ids) for i in range(len(turn))]
        return found

    def rate(self, prompts: list[list[int]], *, together: bool) -> float:
        """Measure tokens per second."""
        began = time.perf_counter()
        self.run(prompts, _NUM_TOKENS, together=together, ends=False)
        return len(prompts) * _NUM_TOKENS / (time.perf_counter() - began)


def _forwards(target: Target, repeats: int) -> list[dict[str, Any]]:
    """Measure milliseconds of one forward, as before and with the shapes, in turns."""
    found = []
    for rows, length, context in ((1, 1, 150), (1, 6, 150), (8, 6, 150), (8, 6, 260)):
        cache = target.new_cache(rows, 1024)
        ids_BL = torch.arange(100, 100 + length).repeat(rows, 1)  # the cache's earlier content makes no difference
        times: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(2 * repeats + 2):
            before = turn % 2 == 0
            with one_order(not before):
                began = time.perf_counter()
                target.forward(ids_BL, cache, [context] * rows)
                times[before].append(1000 * (time.perf_counter() - began))
        was, now = median(times[True][1:]), median(times[False][1:])  # the first call compiles the kernels
        row = {"rows": rows, "tokens": length, "context": context}
        found.append({**row, "before_ms": round(was, 1), "shapes_ms": round(now, 1), "ratio": round(now / was, 3)})
    return found


def _num_texts(candidate: Candidate, ids: list[int], others: list[list[int]]) -> int:
    """Count the different texts of twelve equal requests: six in turn, six beside others."""
    alone = [candidate.run([ids], _NUM_TEXT_TOKENS, together=True, ends=True)[0] for _ in range(6)]
    mixed = candidate.run([ids] * 6 + others, _NUM_TEXT_TOKENS, together=True, ends=True)[:6]
    return len({*alone, *mixed})


def main() -> None:
    """Load, warm up, run in turns, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--forwards", action="store_true", help="only those: the rest of the file stays")
    parser.add_argument("--texts", action="store_true", help="only the counts of texts: the rest of the file stays")
    options = parser.parse_args()
    domain = DOMAINS[0]
    path = RESULTS / "one-answer.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if options.forwards:
        target = load_target(TargetSpec.model_validate({"model": domain.target, "dtype": "bfloat16"}))
        forwards = {"load": round(os.getloadavg()[0], 1), "rows": _forwards(target, 5)}
        write_result(
            "one-answer.json", {**header("make bench NAME=one-answer"), **kept, "forwards": {**header(""), **forwards}}
        )
        return
    candidates = []
    for dtype, names in (("bfloat16", ("before", "shapes", "apart")), ("float32", ("float32",))):
        target = load_target(TargetSpec.model_validate({"model": domain.target, "dtype": dtype}))
        loaded = load_drafts(find_draft(PACKS_BASE_DRAFT), domain.pack_dir, target=target)
        candidates += [Candidate(name, target, loaded, adaptive=name != "apart") for name in names]
    render = candidates[0].engine.target.tokenizer
    prompts = [render_prompt(render, messages) for messages in sums()[:8]]
    stories = [render_prompt(render, [{"role": "user", "content": each}]) for each in _STORIES]
    texts = {each.name: [_num_texts(each, story, prompts[:4]) for story in stories] for each in candidates}
    if options.texts:
        for measured in kept["rows"]:
            measured["num_texts_of_12"] = texts[measured["candidate"]]
        write_result("one-answer.json", kept)
        return
    load = os.getloadavg()[0]
    for candidate in candidates:
        candidate.rate(prompts[:2], together=True)
    rows: dict[str, dict[str, Any]] = {each.name: {"alone": [], "batch_of_8": []} for each in candidates}
    for _ in range(options.repeats):
        for candidate in candidates:
            rows[candidate.name]["alone"].append(candidate.rate(prompts[:1], together=True))
            rows[candidate.name]["batch_of_8"].append(candidate.rate(prompts, together=True))
    found = []
    for candidate in candidates:
        row: dict[str, Any] = {"candidate": candidate.name}
        for kind in ("alone", "batch_of_8"):
            pairs = zip(rows[candidate.name][kind], rows["before"][kind], strict=True)
            row[f"tokens_per_s_{kind}"] = round(median(rows[candidate.name][kind]), 1)
            row[f"ratio_{kind}"] = round(median(own / before for own, before in pairs), 3)
        row["num_texts_of_12"] = texts[candidate.name]
        found.append(row)
    content = {
        **header("make bench NAME=one-answer"),
        "target": domain.target,
        "repeats": options.repeats,
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "rows": found,
        "forwards": {"load": round(os.getloadavg()[0], 1), "rows": _forwards(candidates[0].engine.target, 15)},
    }
    write_result("one-answer.json", content)


if __name__ == "__main__":
    with torch.inference_mode():
        main()

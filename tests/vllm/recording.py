"""What our engine and vLLM drafted and gave, in the same form."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from benchmarks.engines import VLLM_PYTHON, vllm_environment
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.proposal import Chain, Proposer
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.targets.loader import Target

WORKER = Path(__file__).with_name("recording_worker.py")
STOP_IDS = [0, 2]
NUM_DRAFTED = 3
MAX_TOKENS = 24


def prompts() -> list[list[int]]:
    """Twelve of 2 to 12 ordinary tokens."""
    rng = random.Random(4)
    return [[rng.randrange(3, 112) for _ in range(rng.randint(2, 12))] for _ in range(12)]


@dataclass(frozen=True)
class Decoded:
    """Of each prompt.

    Attributes:
        token_ids: The answer.
        emitted: How many tokens each step gave: the prefill's one, then the rounds'.
        proposed: What was drafted for each round.
    """

    token_ids: list[list[int]]
    emitted: list[list[int]]
    proposed: list[list[list[int]]]


@dataclass(frozen=True)
class Job:
    """A target's and a draft's directory, and what vLLM calls the way that it drafts."""

    target: str
    draft: Path
    method: str = "eagle3"


def own_engine(
    target: Target,
    draft: Draft,
    vocab_W: Tensor | None,
    prompts: Sequence[list[int]],
    num_drafted: int,
    max_tokens: int,
) -> Decoded:
    """Our engine, one prompt after the other."""
    head = draft.head(target.lm_head, vocab_W)
    engine = Engine(target, draft, head, num_draft_tokens=num_drafted, max_batch=1, max_tokens=128)
    decoded, drafted, chain = Decoded([], [], []), [], Proposer.chain

    def recording(self: Proposer, *arguments: Any, **keywords: Any) -> Chain:
        made = chain(self, *arguments, **keywords)
        drafted.append(made.token_ids_BK[0].tolist())
        return made

    with patch.object(Proposer, "chain", recording):
        for ids in prompts:
            drafted.clear()
            engine.submit("r", ids, SamplingParams(max_new_tokens=max_tokens))
            steps = [output.new_token_ids for output in run_to_end(engine)["r"] if output.new_token_ids]
            decoded.token_ids.append([token for step in steps for token in step])
            decoded.emitted.append([len(step) for step in steps])
            decoded.proposed.append(list(drafted))
    return decoded


def run_vllm(
    jobs: Sequence[Job],
    prompts: Sequence[list[int]],
    num_drafted: int,
    max_tokens: int,
    place: Path,
    *,
    plugins: str | None = "",
) -> list[tuple[Decoded, str]]:
    """vLLM with each target and draft in turn, in one process of its own, and the class that drafted.

    Args:
        jobs: What to decode with.
        prompts: Decoded as one batch.
        num_drafted: K.
        max_tokens: Of an answer.
        place: For the process's files.
        plugins: vLLM's plugins by name, "" for none; None: all.
    """
    assert VLLM_PYTHON.exists(), f"no {VLLM_PYTHON}: run `make test-vllm`, which makes that environment"
    lines = [
        json.dumps(
            {
                "settings": {
                    "model": job.target,
                    "dtype": "float32",
                    "max_model_len": 256,
                    "enforce_eager": True,
                    "max_num_seqs": 16,
                    "enable_prefix_caching": False,
                    "speculative_config": {
                        "method": job.method,
                        "model": str(job.draft),
                        "num_speculative_tokens": num_drafted,
                    },
                },
                "prompts": list(prompts),
                "max_tokens": max_tokens,
                "stop_ids": STOP_IDS,
            }
        )
        for job in jobs
    ]
    (place / "jobs.jsonl").write_text("\n".join(lines))
    environment = vllm_environment(1) | ({} if plugins is None else {"VLLM_PLUGINS": plugins})
    with (place / "vllm.log").open("w") as log:
        done = subprocess.run(
            [str(VLLM_PYTHON), str(WORKER), str(place / "jobs.jsonl")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            check=True,
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers:
        assert "error" not in answer, f"{answer['error']}; see {place / 'vllm.log'}"
    return [
        (Decoded(answer["token_ids"], answer["emitted"], answer["proposed"]), answer["draft_class"])
        for answer in answers
    ]

"""Unmodified clients against a real service: `make proof NAME=clients` writes `benchmarks/results/clients.json`.

`eda up` runs with SmolLM2's math adapter and its pack in float32, so that answers can be compared with transformers and
peft. The clients are installed in `.venv-clients`: openai, LangChain, lm-eval (`local-completions`, a generation and a
log-likelihood task over local files) and GuideLLM (a constant rate).
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import client_tools
from benchmarks.bench_service import BenchService, smollm2_service
from benchmarks.client_oracle import Oracle
from benchmarks.workloads import DOMAINS, header, write_result

logger = logging.getLogger(__name__)

MATH = DOMAINS[0]
NAME = "math"
QUESTION = "Tom has 3 boxes of 12 pens and gives 7 pens away. How many are left?"
LOGLIKELIHOOD_TOLERANCE = 1e-3  # nats over a whole continuation, in float32


def openai_calls(bench_service: BenchService, oracle: Oracle, folder: Path) -> dict[str, Any]:
    """Run the `openai` client, and compare its texts with the oracle's."""
    found = client_tools.script("openai_calls", bench_service.url, NAME, folder)
    wanted = oracle.answer(QUESTION, 48)
    checks = {
        "chat_as_transformers": found["chat"]["text"] == wanted,
        "stream_as_transformers": found["stream"]["text"] == wanted,
        "logprobs": found["chat"]["logprobs_ok"],
        "seed_repeats": found["chat"]["seed_repeats"] and found["chat"]["n_distinct"] > 1,
        "batch_as_alone": found["completions"]["batch_as_alone"] and found["completions"]["stream_as_whole"],
        "stop_string": "five" not in found["completions"]["stopped"],
        "async": found["async"]["num_distinct"] == 1 and found["async"]["stream_as_whole"],
        "unknown_model": found["refusals"]["unknown_model"]["code"] == "model_not_found",
        "tools_refused": found["refusals"]["tools"]["code"] == "unsupported_parameter",
    }
    return {"checks": checks, **found}


def langchain_calls(bench_service: BenchService, oracle: Oracle, folder: Path) -> dict[str, Any]:
    """Run LangChain's ChatOpenAI."""
    found = client_tools.script("langchain_calls", bench_service.url, NAME, folder)
    checks = {name: found[name] for name in found if name.endswith("_as_whole")}
    return {"checks": {"invoke_as_transformers": found["text"] == oracle.answer(QUESTION, 48), **checks}, **found}


def lm_eval_tasks(bench_service: BenchService, oracle: Oracle, folder: Path) -> dict[str, Any]:
    """Run both tasks: generated texts must equal the oracle's, log-likelihoods must be close to it."""
    found = client_tools.lm_eval(bench_service.url, NAME, oracle.tokenizer_dir, folder)
    texts = [
        (each["resps"][0][0], oracle.greedy(each["arguments"]["gen_args_0"]["arg_0"], client_tools.NUM_TOKENS))
        for each in found["samples"][client_tools.GENERATE]
    ]
    pairs = [
        (float(response[0][0]), oracle.loglikelihood(arguments["arg_0"], arguments["arg_1"]))
        for each in found["samples"][client_tools.SCORE]
        for arguments, response in zip(each["arguments"].values(), each["resps"], strict=True)
    ]
    largest = max(abs(said - wanted) for said, wanted in pairs)
    equal = sum(said == wanted for said, wanted in texts)
    return {
        "checks": {
            "texts_as_transformers": equal == len(texts),
            "loglikelihoods": largest < LOGLIKELIHOOD_TOLERANCE,
        },
        "num_texts": len(texts),
        "num_texts_equal": equal,
        "texts_apart": [{"said": said, "wanted": wanted} for said, wanted in texts if said != wanted],
        "num_loglikelihoods": len(pairs),
        "largest_difference": largest,
        "results": found["results"],
    }


def guidellm_load(
    bench_service: BenchService, oracle: Oracle, folder: Path, rate: float, seconds: float
) -> dict[str, Any]:
    """Send chats at a constant rate; none may fail."""
    found = client_tools.guidellm(bench_service.url, NAME, oracle.tokenizer_dir, folder, rate=rate, seconds=seconds)
    metrics = found["metrics"]
    totals = metrics["request_totals"]
    medians = {
        name: metrics[name]["successful"]["median"]
        for name in ("time_to_first_token_ms", "inter_token_latency_ms", "request_latency")
    }
    return {
        "checks": {"no_errors": totals["errored"] == 0 and totals["successful"] > 0},
        "rate_per_s": rate,
        "seconds": seconds,
        "requests": totals,
        "medians": medians,
    }


def main() -> None:
    """Run every client in turn; fail if a check does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.5, help="requests per second of the constant load")
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    oracle = Oracle(MATH.target)
    with tempfile.TemporaryDirectory(prefix="eda-clients-") as name, smollm2_service([MATH]) as bench_service:
        folder = Path(name)
        bench_service.deploy(NAME, model=MATH.target, dtype="float32", pack=f"{MATH.target}@1")
        clients = {
            "openai": lambda: openai_calls(bench_service, oracle, folder),
            "langchain": lambda: langchain_calls(bench_service, oracle, folder),
            "lm_eval": lambda: lm_eval_tasks(bench_service, oracle, folder),
            "guidellm": lambda: guidellm_load(bench_service, oracle, folder, arguments.rate, arguments.seconds),
        }
        found = {}
        for client, run in clients.items():
            found[client] = run()
            logger.info("%s: %s", client, json.dumps(found[client]["checks"]))
    write_result("clients.json", {**header("make proof NAME=clients"), "clients": client_tools.versions(), **found})
    failed = [
        f"{client}.{check}" for client, each in found.items() for check, good in each["checks"].items() if not good
    ]
    if failed:
        raise SystemExit(f"not as it should be: {', '.join(failed)}")


if __name__ == "__main__":
    main()

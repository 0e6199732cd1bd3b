"""vLLM behind a pipe, for `benchmarks.decode`: in its own environment (`make vllm-env`), one JSON line in, one out.

In: {"prompts": [[ids]], "max_tokens": n, "temperature": t, "stop_ids": [..]}. Out: {"seconds": s, "token_ids": [[..]]}.
Nothing of this project is imported here.
"""

import json
import os
import sys
import time


def main() -> None:
    """Load, then serve lines until the pipe closes."""
    model, draft, num_draft_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints; answers keep their own pipe
    from vllm import LLM, SamplingParams

    speculative = {"method": "eagle", "model": draft, "num_speculative_tokens": num_draft_tokens} if draft else None
    engine = LLM(
        model=model,
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=64,
        speculative_config=speculative,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    reply.write("ready\n")
    reply.flush()
    for line in sys.stdin:
        job = json.loads(line)
        params = SamplingParams(
            temperature=job["temperature"],
            max_tokens=job["max_tokens"],
            stop_token_ids=job["stop_ids"],
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
        started = time.perf_counter()
        outputs = engine.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        answer = {"seconds": seconds, "token_ids": [list(output.outputs[0].token_ids) for output in outputs]}
        reply.write(json.dumps(answer) + "\n")
        reply.flush()


if __name__ == "__main__":
    main()

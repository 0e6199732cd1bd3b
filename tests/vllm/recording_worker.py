"""vLLM in its own process, decoding with several drafts in turn and telling what each of them proposed.

Nothing of this project is imported here. The classes that compute are vLLM's own and unchanged: only the runner's
call of its drafter is wrapped, and what it returns is kept beside the requests it was for.

Arguments: a file with JSON lines {"settings": keywords of `vllm.LLM`, "prompts": [[ids]], "max_tokens": n, "stop_ids":
[..]}. For each line one goes to standard output: {"token_ids": [[..]], "emitted": [[..]], "proposed": [[[..]]],
"draft_class": name}: answers, how many tokens each engine step gave, the tokens that were drafted after each step, and
the class that drafted; or {"error": text}.
"""

import gc
import json
import os
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Decode every line of the file."""
    jobs = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints; answers keep their own pipe
    record, seen = watch()
    for job in jobs:
        record.clear()
        seen.clear()
        try:
            answer = decode(job) | {"draft_class": seen[-1] if seen else None}
            answer["proposed"] = [record.get(str(i), []) for i in range(len(job["prompts"]))]
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        clean_up()
        reply.write(json.dumps(answer) + "\n")
        reply.flush()


def watch():
    """Wrap the runner's call of its drafter; returns what it gave, by request, and the classes that it ran."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    record, seen, propose = {}, [], GPUModelRunner.propose_draft_token_ids

    def recording(self, *arguments, **keywords):
        drafted = propose(self, *arguments, **keywords)
        seen.append(type(self.drafter.model).__name__)
        for request, tokens in zip(self.input_batch.req_ids, drafted.tolist(), strict=True):
            record.setdefault(request.split("-")[0], []).append(tokens)
        return drafted

    GPUModelRunner.propose_draft_token_ids = recording
    return record, seen


def decode(job):
    """All prompts of a job as one batch, greedily."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    llm = LLM(**job["settings"])
    params = SamplingParams(
        temperature=0.0,
        max_tokens=job["max_tokens"],
        stop_token_ids=job["stop_ids"],
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    engine, num = llm.llm_engine, len(job["prompts"])
    token_ids, emitted = [[] for _ in range(num)], [[] for _ in range(num)]
    for i, ids in enumerate(job["prompts"]):
        engine.add_request(str(i), {"prompt_token_ids": ids}, params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            new = list(output.outputs[0].token_ids)
            if new:
                token_ids[int(output.request_id)] += new
                emitted[int(output.request_id)].append(len(new))
    return {"token_ids": token_ids, "emitted": emitted}


def clean_up():
    """Forget the engine, so that the next one starts as the first did."""
    from vllm.distributed import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()

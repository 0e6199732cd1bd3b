"""vLLM behind a pipe, in its own environment: one JSON line in, one out. Nothing of this project is imported here.

Arguments: the keywords of `vllm.LLM` as JSON.
In: {"prompts": [[ids]], "max_tokens": n, "temperature": t, "stop_ids": [..]}, with LoRA adapters also {"adapters":
[name or null for each prompt], "loras": {name: directory}}; or {"call": method of the worker, "arguments": [..]}, to
which the answer is {"result": ..}.
Out: {"seconds": s, "cpu_seconds": s, "token_ids": [[..]], "emitted": [[..]], "counters": {..}}: answers, how many
tokens each engine step gave each of them, and vLLM's speculation counters since it started (none with
`disable_log_stats`).
"""

import json
import os
import sys
import time


def main() -> None:
    """Load the model, then serve lines until the pipe closes."""
    settings = json.loads(sys.argv[1])
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints to standard output; answers keep a pipe of their own
    from vllm import LLM

    llm = LLM(**settings)
    reply.write("ready\n")
    reply.flush()
    for line in sys.stdin:
        job = json.loads(line)
        if "call" in job:
            result = llm.collective_rpc(job["call"], args=tuple(job["arguments"]))[0]
            reply.write(json.dumps({"result": result}) + "\n")
            reply.flush()
            continue
        answer = decode(llm, job)
        answer["counters"] = {} if settings.get("disable_log_stats", True) else counters(llm)
        reply.write(json.dumps(answer) + "\n")
        reply.flush()


def decode(llm, job):
    """Decode all prompts of a job as one batch."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        temperature=job["temperature"],
        max_tokens=job["max_tokens"],
        stop_token_ids=job["stop_ids"],
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    engine, num = llm.llm_engine, len(job["prompts"])
    loras, adapters = loras_of(job), job.get("adapters") or [None] * num
    token_ids, emitted = [[] for _ in range(num)], [[] for _ in range(num)]
    started, cpu = time.perf_counter(), time.process_time()
    for i, ids in enumerate(job["prompts"]):
        engine.add_request(str(i), {"prompt_token_ids": ids}, params, lora_request=loras.get(adapters[i]))
    while engine.has_unfinished_requests():
        for output in engine.step():
            new = list(output.outputs[0].token_ids)
            if new:
                token_ids[int(output.request_id)] += new
                emitted[int(output.request_id)].append(len(new))
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    return {**seconds, "token_ids": token_ids, "emitted": emitted}


def loras_of(job):
    """Return vLLM's adapters by name."""
    from vllm.lora.request import LoRARequest

    return {name: LoRARequest(name, i + 1, path) for i, (name, path) in enumerate(job.get("loras", {}).items())}


def counters(llm):
    """Return the totals of speculation since the start, by vLLM's names."""
    prefix = "vllm:spec_decode_"
    return {
        metric.name.removeprefix(prefix): metric.value
        for metric in llm.get_metrics()
        if metric.name.startswith(prefix) and hasattr(metric, "value")
    }


if __name__ == "__main__":
    main()

"""vLLM in its own process, decoding requests of several LoRA adapters and telling what was proposed for each.

Nothing of this project is imported here, but by vLLM itself: its plugin, and the worker class of the settings.

Arguments: a file with JSON lines {"settings": keywords of `vllm.LLM`, "prompts": [[ids]], "adapters": [name or null for
each prompt], "loras": {name: directory}, "max_tokens": n, "stop_ids": [..], "passes": [[[method, arguments], ..]]}.
Before each pass over all prompts the worker's methods are called. For each line one goes to standard output:
{"passes": [{"token_ids", "emitted", "proposed" as in `recording_worker`, "calls": what the methods gave or the
error's text}]} or {"error": text}.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from recording_worker import clean_up, watch


def main() -> None:
    """Decode every line of the file."""
    jobs = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints; answers keep their own pipe
    record, _ = watch()
    for job in jobs:
        try:
            answer = {"passes": decode(job, record)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        clean_up()
        reply.write(json.dumps(answer) + "\n")
        reply.flush()


def decode(job, record):
    """Every pass: its calls, then all prompts as one batch, greedily."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind

    llm = LLM(**job["settings"])
    params = SamplingParams(
        temperature=0.0,
        max_tokens=job["max_tokens"],
        stop_token_ids=job["stop_ids"],
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    # Numbers that are not the order of the places, so that nobody can take one for the other.
    loras = {name: LoRARequest(name, 7 - i, path) for i, (name, path) in enumerate(job["loras"].items())}
    engine, num, passes = llm.llm_engine, len(job["prompts"]), []
    for calls in job["passes"]:
        given = [call(llm, method, arguments) for method, arguments in calls]
        record.clear()
        token_ids, emitted = [[] for _ in range(num)], [[] for _ in range(num)]
        for i, ids in enumerate(job["prompts"]):
            engine.add_request(str(i), {"prompt_token_ids": ids}, params, lora_request=loras.get(job["adapters"][i]))
        while engine.has_unfinished_requests():
            for output in engine.step():
                new = list(output.outputs[0].token_ids)
                if new:
                    token_ids[int(output.request_id)] += new
                    emitted[int(output.request_id)].append(len(new))
        proposed = [record.get(str(i), []) for i in range(num)]
        passes.append({"token_ids": token_ids, "emitted": emitted, "proposed": proposed, "calls": given})
    return passes


def call(llm, method, arguments):
    """What the worker's method gives, or its error."""
    try:
        return llm.collective_rpc(method, args=tuple(arguments))[0]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()

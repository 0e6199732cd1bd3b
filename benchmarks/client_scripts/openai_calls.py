"""The `openai` client against an endpoint: base URL and model as arguments, one JSON object on standard output.

Runs in the clients' environment; nothing of this project is imported here.
"""

import asyncio
import json
import sys
from typing import Any

import openai

QUESTION: Any = [{"role": "user", "content": "Tom has 3 boxes of 12 pens and gives 7 pens away. How many are left?"}]
PROMPT = "The three primary colours are"


def chat(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """Request one answer, with log-probabilities, and several."""
    asked: Any = {"model": model, "messages": QUESTION, "max_tokens": 48}
    plain = client.chat.completions.create(**asked, temperature=0)
    scored = client.chat.completions.create(**asked, temperature=0, logprobs=True, top_logprobs=3)
    several = client.chat.completions.create(**asked, temperature=0.8, seed=7, n=3)
    again = client.chat.completions.create(**asked, temperature=0.8, seed=7, n=3)
    entries = scored.choices[0].logprobs.content
    texts = [choice.message.content for choice in several.choices]
    return {
        "text": plain.choices[0].message.content,
        "usage": plain.usage.model_dump(exclude_none=True),
        "metrics": plain.model_extra.get("metrics"),
        "logprobs_entries": len(entries),
        "logprobs_ok": len(entries) == scored.usage.completion_tokens
        and all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in entries)
        and all(entry.logprob == entry.top_logprobs[0].logprob for entry in entries),
        "n_distinct": len(set(texts)),
        "seed_repeats": texts == [choice.message.content for choice in again.choices],
    }


def stream(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """Stream an answer in pieces."""
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=model, messages=QUESTION, max_tokens=48, temperature=0, stream=True, stream_options=options
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return {"text": text, "num_chunks": len(chunks), "completion_tokens": chunks[-1].usage.completion_tokens}


def completions(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """Request text completions: a batch of prompts, echo with log-probabilities, a stop string, a stream."""
    batch = client.completions.create(model=model, prompt=[PROMPT, "One, two, three,"], max_tokens=12, temperature=0)
    alone = client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0)
    echo = client.completions.create(model=model, prompt=PROMPT, max_tokens=1, temperature=0, echo=True, logprobs=2)
    stopped = client.completions.create(model=model, prompt="One, two,", max_tokens=24, temperature=0, stop=["five"])
    pieces = client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0, stream=True)
    return {
        "batch": [choice.text for choice in batch.choices],
        "batch_as_alone": batch.choices[0].text == alone.choices[0].text,
        "echo_text": echo.choices[0].text,
        "echo_logprobs": echo.choices[0].logprobs.token_logprobs,
        "stopped": stopped.choices[0].text,
        "stream_as_whole": "".join(each.choices[0].text for each in pieces if each.choices) == alone.choices[0].text,
    }


async def concurrent(url: str, model: str) -> dict[str, Any]:
    """Request eight answers at once through the asynchronous client."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": model, "messages": QUESTION, "max_tokens": 32, "temperature": 0}
        answers = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(8)))
        texts = {answer.choices[0].message.content for answer in answers}
        streamed = await client.chat.completions.create(**asked, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in streamed if chunk.choices])
    return {"num_answers": len(answers), "num_distinct": len(texts), "stream_as_whole": texts == {text}}


def refusals(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """Check that errors arrive as the client's own exceptions."""
    found = {}
    cases: dict[str, Any] = {"unknown_model": {"model": "nobody"}, "tools": {"tools": [{"type": "function"}]}}
    for name, changes in cases.items():
        try:
            client.chat.completions.create(**{"model": model, "messages": QUESTION, "max_tokens": 4, **changes})
        except openai.APIStatusError as error:
            found[name] = {"exception": type(error).__name__, "code": error.code, "param": error.param}
    return found


def main() -> None:
    """Make every call and print the results."""
    url, model = sys.argv[1:3]
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
        result = {
            "models": [each.id for each in client.models.list()],
            "chat": chat(client, model),
            "stream": stream(client, model),
            "completions": completions(client, model),
            "async": asyncio.run(concurrent(url, model)),
            "refusals": refusals(client, model),
        }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()

"""What is fuzzed: each target makes inputs (Hypothesis) and says whether the code that reads them held its promise.

A reader may refuse an input with an error of ours. Anything else that it raises is a failure, and so is an input that
it takes and the library behind it does not.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import ValidationError
from safetensors.torch import save

from api.dispatcher.webhook_urls import check_url
from api.endpoint.protocol.requests import ChatRequest, CompletionRequest
from api.jobs.schemas import AdaptationRequest
from api.jobs.submission.adapt_config import to_config
from benchmarks.workloads import DOMAINS
from eda_service.client.errors import UnexpectedAnswerError
from eda_service.client.stream import SseDecoder
from eda_service.config.job import AdaptConfig
from eda_service.errors import EdaError
from eda_service.records import EvalReport, Stage
from eda_service.selfgen.prompts import read_jsonl
from eda_service.storage.inputs.tensor_header import parse_header
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples.shards import Sample, read_shard, write_shard
from eda_service.targets.adapters.check import read_config
from eda_service.targets.chat.templates import RENDERER, TemplateRefusedError

_TEMPLATE_PARTS = (
    "{% for m in messages %}", "{% endfor %}", "{% if m.role == 'user' %}", "{% else %}", "{% endif %}",
    "{{ m.content }}", "{{ messages[0]['content'] | trim }}", "{% set ns = namespace(x=1) %}",
    "{% set ns.x = ns.x + ns.x %}", "{{ ns.x }}",
    "{% macro f(n) %}", "{% endmacro %}", "{{ f(3) }}", "{% for i in range(50000) %}", "{% generation %}",
    "{% endgeneration %}", "{{ messages | tojson }}", "{{ x.__class__ }}", "{{ raise_exception('no') }}", "{% break %}",
    "{{ strftime_now('%Y') }}", "{{ 'a' * 999999999 }}", "{{ bos_token ~ eos_token }}", "{% include 'x' %}", "{#", "#}",
    "{%- -%}", "{{ messages | map(attribute='content') | list | sort | join(',') }}", "<|im_start|>", "\n",
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        inputs: What it is given.
        check: Reads one; raises when it broke its promise.
    """

    inputs: SearchStrategy[Any]
    check: Callable[[Any], None]


@contextlib.contextmanager
def refusable(*kinds: type[Exception]) -> Iterator[None]:
    """An input may be refused by an error of ours, or of these kinds."""
    with contextlib.suppress(EdaError, *kinds):
        yield


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """A sound document with a few bytes changed, cut out or put in, mostly where its structure is."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, min(len(data), 400)) | st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "cut", "put", "copy", "number"]))
        if kind == "flip" and place < len(data):
            data[place] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[place : place + draw(st.integers(1, 64))]
        elif kind == "put":
            data[place:place] = draw(st.binary(max_size=16))
        elif kind == "copy":
            data[place:place] = data[place : place + draw(st.integers(1, 64))]
        else:
            number = draw(st.sampled_from([0, 1, 255, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]))
            data[place : place + 8] = struct.pack("<Q", number)
    return bytes(data)


@st.composite
def mutated_json(draw: st.DrawFn, value: Any) -> Any:
    """A sound value of which one part, somewhere, is something else, is missing or is called otherwise."""
    if draw(st.integers(0, 5)) == 0 or not isinstance(value, dict | list) or not value:
        return draw(_JSON)
    changed = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    key = draw(st.sampled_from(sorted(changed, key=str)))
    kind = draw(st.sampled_from(["deeper", "deeper", "deeper", "drop", "rename", "add"]))
    if kind == "drop":
        del changed[key]
    elif kind == "rename":
        changed[draw(st.text(max_size=8))] = changed.pop(key)
    elif kind == "add":
        changed[draw(st.text(max_size=8))] = draw(_JSON)
    else:
        changed[key] = draw(mutated_json(changed[key]))
    return changed if isinstance(value, dict) else list(changed.values())


class Files:
    """A directory for readers of files, emptied by whoever made it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, data: bytes) -> Path:
        """Write one file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


def targets(files: Files) -> Mapping[str, Target]:
    """Every target by name.

    Args:
        files: Where those that read files find theirs.
    """
    return {
        "safetensors_header": Target(mutated(_safetensors()), _check_safetensors),
        "stage_record": Target(mutated_json(_record()), lambda value: _check_record(files, value)),
        "shard": Target(_shards(files), lambda parts: _check_shard(files, parts)),
        "prompt_file": Target(_prompt_lines(), lambda data: _check_prompts(files, data)),
        "adapter_config": Target(mutated_json(_adapter_config()), lambda value: _check_adapter_config(files, value)),
        "chat_template": Target(st.lists(st.sampled_from(_TEMPLATE_PARTS), max_size=12).map("".join), _check_template),
        "event_stream": Target(_events(), _check_events),
        "adaptation_request": Target(mutated_json(_request()), _check_request),
        "chat_request": Target(mutated_json(_chat()), _check_chat),
        "webhook_url": Target(st.text(max_size=40) | st.text(max_size=30).map("https://".__add__), _check_url),
    }


def _safetensors() -> bytes:
    tensors = {
        "a": torch.arange(6).reshape(2, 3),
        "b.weight": torch.zeros(4),
        "c": torch.zeros(3, dtype=torch.bfloat16),
    }
    return save(tensors, metadata={"format": "pt"})


def _check_safetensors(data: bytes) -> None:
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length]
    if len(text) < length or len(data) < 8:
        return  # `read_header` refuses it by its size alone
    with refusable():
        found = parse_header(text, len(data) - 8 - length)
        library = dict(safetensors.deserialize(data))
        assert {name: list(place.shape) for name, place in found.items()} == {
            name: list(each["shape"]) for name, each in library.items()
        }


def _record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOMAINS[0].pack_dir / "evaluate.json").read_text(encoding="utf-8"))
    return found


def _check_record(files: Files, value: Any) -> None:
    run = RunDir(files.root / "run")
    files.write("run/evaluate/record.json", json.dumps(value).encode())
    with refusable():
        run.read_record(EvalReport, Stage.EVALUATE)


def _shards(files: Files) -> SearchStrategy[tuple[bytes, bytes]]:
    samples = [Sample(f"s{n}", list(range(5 + n)), 2, torch.zeros(4 + n, 3)) for n in range(3)]
    tokens, features = (path.read_bytes() for path in write_shard(files.root / "sound", "s", samples))
    return st.tuples(mutated(tokens), mutated(features)) | st.tuples(mutated(tokens), st.just(features))


def _check_shard(files: Files, parts: tuple[bytes, bytes]) -> None:
    files.write("shard/s.tokens.safetensors", parts[0])
    files.write("shard/s.features.safetensors", parts[1])
    with refusable():
        for sample in read_shard(files.root / "shard", "s"):
            assert sample.features is not None
            assert len(sample.features) == len(sample.token_ids) - 1
            assert 0 <= sample.num_prompt_tokens <= len(sample.token_ids)


_ROWS: tuple[dict[str, Any], ...] = (
    {
        "id": "a",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "u"}]}],
        "reference": "r",
    },
    {
        "messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "f"}}]},
            {"role": "tool", "content": {"x": 1}, "tool_call_id": "c"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "chat_template_kwargs": {"x": True},
    },
    {
        "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f"}'}],
        "system": "s",
        "tools": '[{"name": "f"}]',
    },
    {"instruction": "q", "input": "x", "output": "a", "history": [["h", "i"]]},
    {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"content": "a"}], "label": False},
    {"conversation": [{"system": "s", "input": "q", "output": "a"}], "data": ["q", "a"]},
    {"custom_id": "c", "body": {"messages": '[{"role": "user", "content": "q"}]'}, "question": "q", "context": "c"},
)


def _prompt_lines() -> SearchStrategy[bytes]:
    line = st.sampled_from(_ROWS).flatmap(
        lambda row: mutated_json(row).map(lambda value: json.dumps(value).encode()) | mutated(json.dumps(row).encode())
    )
    rows = st.lists(line, max_size=4)
    array = rows.map(lambda found: b"[" + b",".join(found) + b"]")
    return rows.map(b"\n".join) | array | array.map(gzip.compress).flatmap(mutated)


def _check_prompts(files: Files, data: bytes) -> None:
    with refusable():
        for prompt in read_jsonl(files.write("x.jsonl", data)):
            json.dumps(prompt.as_dict(), ensure_ascii=False).encode()  # text, and not half of a surrogate pair


def _adapter_config() -> dict[str, Any]:
    return {
        "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"layers.0.mlp": 8.0}, "use_dora": False, "modules_to_save": ["lm_head"],
        "megatron_config": None,
    }  # fmt: skip


def _check_adapter_config(files: Files, value: Any) -> None:
    files.write("adapter/adapter_config.json", json.dumps(value).encode())
    with refusable():
        config = read_config(files.root / "adapter")
        assert not config.get("megatron_config")
        assert 1 <= config.get("r", 8) <= 1024


def _check_template(template: str) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    variables = {"tools": None, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
    with refusable(TemplateRefusedError):
        assert len(RENDERER.render(template, messages, variables)) <= 4 << 20


def _events() -> SearchStrategy[tuple[bytes, list[int]]]:
    part = st.sampled_from(
        [b"id: 1", b"data: x", b"event: e", b"data", b":", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff"]
    )
    text = st.lists(part | st.binary(max_size=6), max_size=24).map(b"".join)
    return st.tuples(text, st.lists(st.integers(1, 9), max_size=40))


def _check_events(given: tuple[bytes, list[int]]) -> None:
    """The events of a stream do not depend on how its bytes come in."""
    data, sizes = given
    parts, place = [], 0
    for size in sizes:
        parts.append(data[place : place + size])
        place += size
    parts.append(data[place:])
    with refusable(UnexpectedAnswerError):
        whole, decoder = SseDecoder().feed(data), SseDecoder()
        assert [event for part in parts for event in decoder.feed(part)] == whole


def _request() -> dict[str, Any]:
    return {
        "model": "org/model", "base_draft": "small@1", "preset": "demo", "seed": 1, "metadata": {"a": "b"},
        "dataset": {"source": "org/data", "num_prompts": 64}, "method": {"type": "eda", "eda": {"epochs": 2}},
        "config": {"train": {"epochs": 3, "loss": {"unroll_steps": 2}}, "evaluation": {"temperatures": [0.0]}},
        "stage_deadlines": {"train": 60}, "webhook": {"url": "https://example.org/x"},
    }  # fmt: skip


def _check_request(value: Any) -> None:
    with refusable(ValidationError):
        config = to_config(AdaptationRequest.model_validate(value))
        assert AdaptConfig.model_validate_json(config.model_dump_json()) == config


def _chat() -> dict[str, Any]:
    return {
        "model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}], "name": "n"}],
        "stop": ["a", "b"], "temperature": 0.5, "n": 2, "stream": True, "stream_options": {"include_usage": True},
        "logprobs": True, "top_logprobs": 3, "seed": 7, "max_tokens": 4, "prompt": [[1, 2], [3]],
    }  # fmt: skip


def _check_chat(value: Any) -> None:
    for kind in (ChatRequest, CompletionRequest):
        with refusable(ValidationError):
            kind.model_validate(value)


def _check_url(url: str) -> None:
    with refusable():
        check_url(url)


@contextlib.contextmanager
def open_targets() -> Iterator[Mapping[str, Target]]:
    """Every target, with a directory of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="eda-fuzz-") as name:
        yield targets(Files(Path(name)))

"""Prompts that are kept: the newest, redacted by a real child process, readable by nobody else, and gone when asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from api.endpoint.prompt_log import PromptLog
from api.endpoint.protocol.requests import ChatRequest, CompletionRequest
from eda_service.storage.samples import prompts


def chat(text: str) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": text}]})


def kept(home: Path, num: int = 100) -> list[str]:
    return [row["messages"][-1]["content"] for row in prompts.newest(home, "u1", num)]


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def keeping(home: Path, settings: dict[str, object], scenario: Callable[[PromptLog], Awaitable[None]]) -> None:
    async def run() -> None:
        prompt_log = PromptLog(home, "r1")
        prompt_log.configure({"u1": settings})
        try:
            await scenario(prompt_log)
        finally:
            await prompt_log.stop()

    asyncio.run(run())


def test_texts_are_kept_redacted_for_their_owner_alone(tmp_path: Path) -> None:
    async def scenario(prompt_log: PromptLog) -> None:
        prompt_log.offer("u1", chat("mail ada@example.org, call 555-1234"))
        prompt_log.offer("u2", chat("not asked for"))
        prompt_log.offer("u1", CompletionRequest.model_validate({"model": "m", "prompt": ["one", "two"]}))
        prompt_log.offer("u1", CompletionRequest.model_validate({"model": "m", "prompt": [5, 6]}))
        prompt_log.offer("u1", chat("x" * 20_000))
        await until(lambda: len(kept(tmp_path)) == 3)

    keeping(tmp_path, {"keep_prompts": 20, "redact": [r"[\w.]+@[\w.]+", r"\d{3}-\d{4}", "z*"]}, scenario)
    assert kept(tmp_path) == ["mail [redacted], call [redacted]", "one", "two"]
    directory = prompts.directory(tmp_path, "u1")
    assert oct(directory.stat().st_mode & 0o777) == "0o700"
    assert [oct(path.stat().st_mode & 0o777) for path in directory.iterdir()] == ["0o600"]


def test_only_the_newest_stay(tmp_path: Path) -> None:
    async def scenario(prompt_log: PromptLog) -> None:
        for i in range(95):
            prompt_log.offer("u1", chat(f"question {i}"))
        await until(lambda: "question 94" in kept(tmp_path))

    keeping(tmp_path, {"keep_prompts": 20}, scenario)
    assert kept(tmp_path, 20) == [f"question {i}" for i in range(75, 95)]
    (path,) = prompts.directory(tmp_path, "u1").iterdir()
    assert len(path.read_text().splitlines()) < 40


def test_an_expression_that_runs_for_ever_keeps_nothing_and_holds_nothing_up(tmp_path: Path) -> None:
    async def scenario(prompt_log: PromptLog) -> None:
        prompt_log.offer("u1", chat("a fine prompt"))
        await until(lambda: kept(tmp_path) == ["a fine prompt"])
        for _ in range(4):
            prompt_log.offer("u1", chat("a" * 60 + "!"))
        longest_s, last_s = 0.0, time.monotonic()
        while prompt_log.num_dropped < 3:
            await asyncio.sleep(0.01)
            longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()
        assert longest_s < 0.9

    keeping(tmp_path, {"keep_prompts": 20, "redact": ["(a+)+$"]}, scenario)
    assert kept(tmp_path) == ["a fine prompt"]


def test_a_model_that_keeps_none_any_more_has_none(tmp_path: Path) -> None:
    async def scenario(prompt_log: PromptLog) -> None:
        prompt_log.offer("u1", chat("question"))
        await until(lambda: kept(tmp_path) == ["question"])
        prompt_log.configure({})
        assert not prompts.directory(tmp_path, "u1").exists()
        prompt_log.offer("u1", chat("another"))
        await asyncio.sleep(0.1)

    keeping(tmp_path, {"keep_prompts": 20}, scenario)
    assert not prompts.directory(tmp_path, "u1").exists()


def test_a_prompt_of_a_deployment_that_is_gone_reaches_nobody_of_the_same_name(tmp_path: Path) -> None:
    """What waits to be redacted when a name changes hands, and what comes late, is kept for neither."""

    async def scenario(prompt_log: PromptLog) -> None:
        prompt_log.offer("u1", chat("hers"))
        await until(lambda: kept(tmp_path) == ["hers"])
        prompt_log.offer("u1", chat("hers, waiting"))
        prompt_log.configure({"u2": {"keep_prompts": 20}})
        prompt_log.offer("u1", chat("hers, late"))
        prompt_log.offer("u2", chat("his"))
        await until(lambda: bool(prompts.newest(tmp_path, "u2", 9)))

    keeping(tmp_path, {"keep_prompts": 20}, scenario)
    assert [row["messages"][0]["content"] for row in prompts.newest(tmp_path, "u2", 9)] == ["his"]
    assert not prompts.directory(tmp_path, "u1").exists()


def test_what_was_kept_under_a_name_is_taken_over_and_frozen_files_stay(tmp_path: Path) -> None:
    directory = prompts.open_directory(tmp_path, "m")
    prompts.PromptFile(directory / "r1.jsonl", 9).add({"at": 1.0, "messages": [{"role": "user", "content": "old"}]})
    frozen = prompts.freeze(tmp_path, "m", prompts.newest(tmp_path, "m", 9), "drift-1")
    for _ in range(2):
        prompts.take_over(tmp_path, "m", "u1")
    assert kept(tmp_path) == ["old"]
    assert prompts.newest(tmp_path, "m", 9) == []
    assert frozen.exists()
    frozen.unlink()
    prompts.take_over(tmp_path, "m", "u1")
    assert not directory.exists()

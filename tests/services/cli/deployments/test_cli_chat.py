"""`eda chat`: one question, lines of a pipe, and a terminal with its two keys."""

from __future__ import annotations

import json
import os
import pty
import select
import time

import pytest
from chat_streams import PATH, chunk, streamed
from command_line import Cli
from scripted_service import Answer, ScriptedService, refusal
from typer.testing import CliRunner, Result

from eda_service.cli.main import app


def piped(eda: Cli, scripted: ScriptedService, text: str, *words: str) -> Result:
    """Run the command with something in its pipe."""
    env = {**eda.env, "EDA_URL": scripted.url}
    return CliRunner().invoke(app, ["chat", "math", *words], env=env, input=text, prog_name="eda")


def test_one_question_for_a_script(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("POST", PATH, streamed(chunk(("It is ", False), ("89", True)), chunk((".\x1b[2J", False)), length=2.31))
    done = eda("chat", "math", "--once", "7 * 12 + 5?", "--system", "Be brief.", "--max-tokens", "9", url=scripted.url)
    assert (done.exit_code, done.stdout) == (0, "It is 89.\ufffd[2J\n")
    assert done.stderr.rstrip().endswith("tokens/s, 2.31 tokens a round")
    assert float(done.stderr.split()[0]) > 0
    (request,) = scripted.seen("POST", PATH)
    assert request.body["max_tokens"] == 9
    assert [(each["role"], each["content"]) for each in request.body["messages"]] == [
        ("system", "Be brief."), ("user", "7 * 12 + 5?"),
    ]  # fmt: skip
    as_json = json.loads(eda("chat", "math", "--once", "again", "--json", url=scripted.url).stdout)
    assert as_json.pop("tokens_per_s") > 0
    assert as_json == {
        "model": "math", "answer": "It is 89.\x1b[2J", "finish_reason": None, "completion_tokens": 6,
        "tokens_a_round": 2.31, "num_accepted_draft_tokens": 3, "num_draft_tokens": 9,
    }  # fmt: skip


def test_lines_of_a_pipe_are_one_conversation(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("POST", PATH, streamed(chunk(("one", False))), streamed(chunk(("two", False))))
    done = piped(eda, scripted, "first\n\nsecond\n")
    assert (done.exit_code, done.stdout) == (0, "one\ntwo\n")
    sent = scripted.seen("POST", PATH)[-1].body["messages"]
    assert [each["content"] for each in sent] == ["first", "one", "second"]
    whole = piped(eda, scripted, "first\nand second\n", "--once", "-")
    assert whole.exit_code == 0
    assert scripted.seen("POST", PATH)[-1].body["messages"][0]["content"] == "first\nand second\n"


def test_what_is_refused_has_its_exit_code(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("POST", PATH, refusal(404, "model_not_found"))
    refused = eda("chat", "none", "--once", "Hi", "--json", url=scripted.url)
    assert (refused.exit_code, json.loads(refused.stderr)["error"]["code"]) == (2, "model_not_found")
    assert piped(eda, scripted, "Hi\n").exit_code == 2
    assert eda("chat", "math", "--once", " ", url=scripted.url).exit_code == 2
    assert eda("chat", "math", "--once", "Hi", url="http://127.0.0.1:9").exit_code == 3


def test_what_is_no_text_is_said(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("POST", PATH, streamed(chunk(("one", False))))
    for words in ((), ("--once", "-")):
        env = {**eda.env, "EDA_URL": scripted.url}
        done = CliRunner().invoke(app, ["chat", "math", *words], env=env, input=b"\xff\n", prog_name="eda")
        assert (done.exit_code, "standard input is no UTF-8" in done.stderr) == (2, True)
    assert scripted.requests == []


def test_an_answer_without_a_word_is_not_part_of_the_conversation(eda: Cli, scripted: ScriptedService) -> None:
    scripted.on("POST", PATH, streamed(chunk()), streamed(chunk(("two", False))))
    assert piped(eda, scripted, "first\nsecond\n").exit_code == 0
    assert [each["content"] for each in scripted.seen("POST", PATH)[-1].body["messages"]] == ["second"]


class Terminal:
    """A command in a terminal of its own.

    Args:
        eda: Whose.
        words: The command.
        url: The service.
    """

    def __init__(self, eda: Cli, words: tuple[str, ...], url: str) -> None:
        self._controller, terminal = pty.openpty()
        env = {"TERM": "xterm", "EDA_URL": url}
        self.process = eda.start(*words, env=env, terminal=terminal)
        os.close(terminal)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._controller, text.encode())

    def wait(self, text: str, timeout_s: float = 60.0) -> str:
        """Until it is shown, behind what was waited for before; returns what came before it."""
        assert self._read_until(text, timeout_s), self.shown
        before, _, self.shown = self.shown.partition(text)
        return before

    def interrupt(self, text: str) -> None:
        """Ctrl-C until the text is shown.

        CPython's `input()` only looks for a signal where its wait for a key was interrupted. A Ctrl-C that comes while
        it still handles the key before (some microseconds) is seen with the next key, so a person presses it again.
        """
        for _ in range(30):
            self.type("\x03")
            if self._read_until(text, 2.0):
                break
        self.wait(text)

    def _read_until(self, text: str, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while text not in self.shown and time.monotonic() < deadline:
            if select.select([self._controller], [], [], 0.2)[0]:
                self.shown += os.read(self._controller, 4096).decode(errors="replace")
        return text in self.shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._controller)


@pytest.fixture
def terminal(eda: Cli, scripted: ScriptedService) -> Terminal:
    scripted.on("GET", "/v1/models", Answer({"data": [{"id": "math"}]}))
    return Terminal(eda, ("chat", "math"), scripted.url)


def test_the_keys_of_a_terminal(terminal: Terminal, scripted: ScriptedService) -> None:
    endless = streamed(chunk(("begun", False)), *([chunk((".", False)), 0.1] * 600))
    scripted.on("POST", PATH, streamed(chunk(("It is ", False), ("89", True))), endless, refusal(400, "too_long"))
    try:
        terminal.wait("> ")
        terminal.type("7 * 12 + 5?\r")
        assert "It is \x1b[1;4m89\x1b[0m" in terminal.wait("tokens a round")
        terminal.wait("> ")
        terminal.type("go on\r")
        terminal.wait("begun")
        terminal.type("\x03")
        terminal.wait("stopped")
        terminal.wait("> ")
        terminal.type("and now?\r")
        terminal.wait("error: refused: too_long")
        terminal.wait("> ")
        terminal.type("half a line")
        terminal.wait("half a line")
        terminal.interrupt("> ")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=60) == 0
        sent = scripted.seen("POST", PATH)[-1].body["messages"]
        assert [each["content"][:5] for each in sent] == ["7 * 1", "It is", "go on", "begun", "and n"]
    finally:
        terminal.close()

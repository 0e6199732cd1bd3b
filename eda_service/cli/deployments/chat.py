"""`eda chat NAME`: a conversation with a deployment in the terminal, accepted draft tokens underlined."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.text import Text

from eda_service.cli.arguments import complete_deployment
from eda_service.cli.as_commands import as_commands
from eda_service.cli.console import JsonOption, UrlOption, connect, err, out, print_json
from eda_service.client import ChatPiece, Client
from eda_service.errors import EdaError, InputError
from eda_service.names import did_you_mean

_ACCEPTED = "bold underline"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STDIN = "-"
_INTERRUPTED = 130


def chat(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A deployment, as `eda deployments ls` shows it.", autocompletion=complete_deployment
        ),
    ],
    once: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Ask this and leave; `-` reads the question from standard input.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="What the model is told first.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="0: always the most likely token; default: the model's own.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer; default: what the context holds.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of sampling.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Talk with what is deployed. Ctrl-C ends an answer, Ctrl-D the conversation; a pipe's lines are asked in turn."""
    options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    with connect(url) as client:
        talk = _Conversation(client, name, options, as_json)
        if system is not None:
            talk.messages.append({"role": "system", "content": system})
        try:
            if once is not None:
                talk.ask_once(sys.stdin.read() if once == _STDIN else once)
            elif sys.stdin.isatty():
                _require_served(client, name)
                talk.ask_typed()
            else:
                talk.ask_all(line.rstrip("\n") for line in sys.stdin)
        except UnicodeDecodeError as error:
            raise InputError("standard input is no UTF-8 text; convert it, as with iconv") from error


def _require_served(client: Client, name: str) -> None:
    """Check a name before anybody types a question.

    Raises:
        InputError: Nothing is served under it for this caller.
    """
    served = client.models()
    if name not in served:
        there = ", ".join(served) or "nothing"
        raise InputError(
            f"no model {name[:96]!r} is served{did_you_mean(name, served)}; there is {there}; `eda deployments create` "
            "serves a target",
            param="name",
        )


@dataclass
class _Said:
    """One answer, as far as it came."""

    text: str = ""
    last: ChatPiece = field(default_factory=ChatPiece)
    tokens: int | None = None
    seconds: float = 0.0
    is_stopped: bool = False

    @property
    def tokens_per_s(self) -> float | None:
        """Over the whole time since the question; None for an answer that was stopped."""
        return None if self.tokens is None or not self.seconds else self.tokens / self.seconds

    @property
    def tokens_a_round(self) -> float | None:
        """The target's own included; None where there was no round."""
        return None if self.last.speculation is None else self.last.speculation.mean_acceptance_length

    def line(self) -> str:
        """What is said of it, on one line."""
        if self.is_stopped and self.tokens_a_round is None:
            return "stopped"
        speed = "stopped" if self.tokens_per_s is None else f"{self.tokens_per_s:.1f} tokens/s"
        rounds = "no rounds" if self.tokens_a_round is None else f"{self.tokens_a_round:.2f} tokens a round"
        end = ", cut at the longest that an answer may be" if self.last.finish_reason == "length" else ""
        return f"{speed}, {rounds}{end}"


class _Conversation:
    def __init__(self, client: Client, name: str, options: dict[str, Any], as_json: bool) -> None:
        self._client, self._name, self._options, self._as_json = client, name, options, as_json
        self.messages: list[dict[str, str]] = []

    def ask_once(self, question: str) -> None:
        """Ask, show, and leave; an answer that was stopped has an exit code of its own."""
        if not question.strip():
            raise InputError("the question is empty; write one behind --once", param="once")
        if self._ask(question).is_stopped:
            raise typer.Exit(_INTERRUPTED)

    def ask_all(self, questions: Iterable[str]) -> None:
        """One after the other; an answer that was stopped ends the command."""
        for question in questions:
            if question.strip() and self._ask(question).is_stopped:
                raise typer.Exit(_INTERRUPTED)

    def ask_typed(self) -> None:
        """What somebody types, until Ctrl-D. What is refused, or dropped by Ctrl-C, was not asked."""
        import readline  # noqa: F401  # input() edits lines with it

        err.print(f"talking with {self._name}; Ctrl-C ends an answer, Ctrl-D the conversation", markup=False)
        while True:
            try:
                if not self._take_turn():
                    return
            except KeyboardInterrupt:
                err.print()
                self._forget_question()

    def _take_turn(self) -> bool:
        """One line and its answer; False at the end of all lines."""
        try:
            question = input("> ")
            if question.strip():
                self._ask(question)
        except EOFError:
            err.print()
            return False
        except EdaError as error:
            err.print(f"\nerror: {as_commands(error.message)}", markup=False)
            self._forget_question()
        return True

    def _forget_question(self) -> None:
        """As if what has no answer had not been asked."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()

    def _ask(self, question: str) -> _Said:
        self.messages.append({"role": "user", "content": question})
        said, began = _Said(), time.monotonic()
        pieces = self._client.chat.stream(self._name, self.messages, **self._options)
        try:
            with closing(pieces):
                for piece in pieces:
                    self._show(piece, said)
        except KeyboardInterrupt:
            said.is_stopped = True
        said.seconds = time.monotonic() - began
        if said.text:
            self.messages.append({"role": "assistant", "content": said.text})
        else:
            self._forget_question()
        self._tell(said)
        return said

    def _show(self, piece: ChatPiece, said: _Said) -> None:
        said.text += piece.text
        if piece.usage is not None:
            said.tokens = piece.usage.completion_tokens
        said.last = ChatPiece(
            finish_reason=piece.finish_reason or said.last.finish_reason,
            speculation=piece.speculation or said.last.speculation,
        )
        if self._as_json:
            return
        for span in piece.spans:
            text = _CONTROL.sub("\ufffd", span.text)  # what a model writes must not command the terminal
            out.print(Text(text, style=_ACCEPTED if span.accepted else ""), end="")
        out.file.flush()

    def _tell(self, said: _Said) -> None:
        if self._as_json:
            speculation = said.last.speculation
            print_json(
                {
                    "model": self._name,
                    "answer": said.text,
                    "finish_reason": "stopped" if said.is_stopped else said.last.finish_reason,
                    "completion_tokens": said.tokens,
                    "tokens_per_s": said.tokens_per_s,
                    "tokens_a_round": said.tokens_a_round,
                    "num_accepted_draft_tokens": None if speculation is None else speculation.num_accepted_draft_tokens,
                    "num_draft_tokens": None if speculation is None else speculation.num_draft_tokens,
                },
                compact=True,
            )
            return
        out.print()
        err.print(f"[dim]{said.line()}[/]")

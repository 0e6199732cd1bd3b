"""`client.chat` of both clients: what is sent, and streams that end well, badly, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from both_clients import MakeClient
from chat_streams import PATH, chunk, streamed
from scripted_service import Answer, ScriptedService, refusal

from eda_service.client import ApiError, ServiceUnreachableError, UnexpectedAnswerError
from eda_service.errors import InputError

HELLO = [{"role": "user", "content": "Hi"}]


def test_pieces_say_what_the_draft_proposed(scripted: ScriptedService, make_client: MakeClient) -> None:
    whole = chunk(("a", False), ("b c\u2028", True))
    scripted.on("POST", PATH, streamed(whole[:20], whole[20:], chunk(("d", False)), tokens=7, length=2.5))
    pieces = list(make_client(scripted.url).chat.stream("math", HELLO, temperature=0.0, seed=3))
    assert [(span.text, span.accepted) for piece in pieces for span in piece.spans] == [
        ("a", False), ("b c\u2028", True), ("d", False),
    ]  # fmt: skip
    assert "".join(piece.text for piece in pieces) == "ab c\u2028d"
    last = pieces[-1]
    assert last.usage is not None
    assert last.speculation is not None
    assert (last.usage.completion_tokens, last.speculation.mean_acceptance_length) == (7, 2.5)
    (request,) = scripted.seen("POST", PATH)
    assert request.body == {
        "model": "math", "messages": HELLO, "stream": True, "temperature": 0.0, "seed": 3,
        "stream_options": {"include_usage": True, "draft_tokens": True},
    }  # fmt: skip


def test_a_refusal_is_an_error(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("POST", PATH, refusal(404, "model_not_found"))
    with pytest.raises(ApiError) as caught:
        list(make_client(scripted.url).chat.stream("none", HELLO))
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert len(scripted.seen("POST", PATH)) == 1  # an answer is not asked for twice


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (streamed(chunk(("a", False)), tokens=None, done=False), UnexpectedAnswerError, "broke off"),
        (
            streamed(b'data: {"error": {"message": "replica lost", "code": "unavailable"}}\n\n'),
            ApiError,
            "replica lost",
        ),
        (streamed(b"data: {]\n\n"), UnexpectedAnswerError, "cannot be read"),
        (streamed(b"data: []\n\n"), UnexpectedAnswerError, "cannot be read"),
        (replace(streamed(chunk(("a", False)), done=False), cut=True), UnexpectedAnswerError, "broke off"),
        (Answer({"choices": []}), UnexpectedAnswerError, "streams no answer"),
        (Answer(drop=True), ServiceUnreachableError, "nothing answers"),
    ],
    ids=["cut", "an error inside", "no JSON", "no object", "no connection", "no stream", "no answer"],
)
def test_a_stream_that_ends_badly(
    scripted: ScriptedService, make_client: MakeClient, answer: Answer, kind: type[Exception], said: str
) -> None:
    scripted.on("POST", PATH, answer)
    with pytest.raises(kind, match=said):
        list(make_client(scripted.url).chat.stream("math", HELLO))


def test_a_connection_that_breaks_behind_the_end_takes_nothing_away(
    scripted: ScriptedService, make_client: MakeClient
) -> None:
    scripted.on("POST", PATH, replace(streamed(chunk(("whole", False))), cut=True))
    pieces = list(make_client(scripted.url).chat.stream("math", HELLO))
    assert "".join(piece.text for piece in pieces) == "whole"


def test_text_that_cannot_be_sent_is_said(scripted: ScriptedService, make_client: MakeClient) -> None:
    client = make_client(scripted.url)
    with pytest.raises(InputError, match="UTF-8"):
        list(client.chat.stream("math", [{"role": "user", "content": "\udcff"}]))
    with pytest.raises(InputError, match="UTF-8"):
        client.page(metadata={"team": "\udcff"})
    with pytest.raises(InputError, match="UTF-8"):
        client.create({"target": {"model": "\udcff"}})
    assert scripted.requests == []

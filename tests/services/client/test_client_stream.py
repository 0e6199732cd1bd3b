"""Server-sent events: the format, and a stream that breaks and goes on without losing or repeating anything."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from both_clients import MakeClient
from hypothesis import given
from hypothesis import strategies as st
from scripted_service import Answer, Request, ScriptedService, refusal, sse

from eda_service.client import ApiError, ServiceUnreachableError, UnexpectedAnswerError
from eda_service.client.stream import MAX_EVENT_BYTES, SentEvent, SseDecoder

JOB = "/v1/adaptations/adapt_1"
EVENTS = f"{JOB}/events"
STREAM = (
    b'\xef\xbb\xbf: hello\r\n\r\nid: evt_1\r\nevent: stage\r\ndata: {"a":\r\ndata:  1}\r\n\r\n'
    b"data: \xe2\x80\xa8 stays\rretry: 5\r\r"
    b"event: nothing\n\nid\ndata\n\nid: evt_2\ndata: x\n\ndata: never ended\n"
)
SENT = [
    SentEvent("evt_1", "stage", '{"a":\n 1}'),
    SentEvent("evt_1", "message", "\u2028 stays"),
    SentEvent("", "message", ""),
    SentEvent("evt_2", "message", "x"),
]


def event(number: int, kind: str = "note", message: str = "m") -> dict[str, Any]:
    return {
        "id": f"evt_{number}",
        "created_at": number,
        "level": "info",
        "type": kind,
        "message": message,
        "stage": None,
    }


def job(status: str) -> Answer:
    body = {"id": "adapt_1", "status": status, "model": "m", "base_draft": "d", "served_name": "s", "created_at": 1}
    return Answer(body)


def page(*events: dict[str, Any]) -> Answer:
    return Answer({"object": "list", "data": list(events), "has_more": False, "first_id": None, "last_id": None})


def stream_or_page(*streams: Answer, rest: Answer) -> Any:
    """The route's two faces: streams in turn for who accepts one, else the list."""
    left = list(streams)

    def answer(request: Request) -> Answer:
        return left.pop(0) if request.headers.get("accept") == "text/event-stream" else rest

    return answer


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_decoder_does_not_care_where_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    decoder = SseDecoder()
    found = [sent for start, end in itertools.pairwise(edges) for sent in decoder.feed(STREAM[start:end])]
    assert found == SENT


def test_decoder_byte_by_byte() -> None:
    decoder = SseDecoder()
    assert [sent for byte in STREAM for sent in decoder.feed(bytes([byte]))] == SENT


def test_decoder_bounds_a_line() -> None:
    decoder = SseDecoder()
    with pytest.raises(UnexpectedAnswerError, match="longer than"):
        decoder.feed(b"data: " + b"x" * MAX_EVENT_BYTES)


def test_a_whole_stream(scripted: ScriptedService, make_client: MakeClient) -> None:
    sent = [event(3, message="line\u2028separator"), event(4, "job_succeeded")]
    scripted.on("GET", EVENTS, stream_or_page(sse(*sent), rest=page()))
    scripted.on("GET", JOB, job("succeeded"))
    found = list(make_client(scripted.url).stream_events("adapt_1"))
    assert [each.model_dump() for each in found] == sent
    opened, rest = scripted.seen("GET", EVENTS)
    assert "last-event-id" not in opened.headers
    assert rest.query["after"] == "evt_4"


@pytest.mark.parametrize("num_sent", [0.0, 0.5, 1.0, 1.5, 2.99])
def test_half_a_stream_is_resumed_where_it_broke(
    scripted: ScriptedService, make_client: MakeClient, num_sent: float
) -> None:
    """The oracle is the service's side: it gives what lies after `Last-Event-ID`, as a service does."""
    every = [event(number) for number in range(1, 5)]
    cut_after = int(num_sent * sum(len(chunk) for chunk in sse(every[0]).chunks[1:]))
    broken: list[bool] = []

    def answer(request: Request) -> Answer:
        last = int(request.headers.get("last-event-id", "evt_0").removeprefix("evt_"))
        if request.headers.get("accept") != "text/event-stream":
            return page()
        if not broken:
            broken.append(True)
            return sse(*every[last:], cut_after=cut_after)
        return sse(*every[last:])

    scripted.on("GET", EVENTS, answer)
    scripted.on("GET", JOB, job("failed"))
    found = list(make_client(scripted.url).stream_events("adapt_1"))
    assert [each.id for each in found] == ["evt_1", "evt_2", "evt_3", "evt_4"]
    resumed = scripted.seen("GET", EVENTS)[1].headers.get("last-event-id")
    assert resumed == (None if num_sent < 1 else f"evt_{int(num_sent)}")


def test_a_stream_that_ends_early_is_opened_again(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", EVENTS, stream_or_page(sse(event(1)), sse(), sse(event(2)), rest=page(event(3))))
    scripted.on("GET", JOB, job("running"), job("running"), job("cancelled"))
    found = list(make_client(scripted.url).stream_events("adapt_1"))
    assert [each.id for each in found] == ["evt_1", "evt_2", "evt_3"]


def test_a_service_that_restarts_is_waited_for(scripted: ScriptedService, make_client: MakeClient) -> None:
    away = (Answer(drop=True), refusal(503, "unschedulable"))
    scripted.on("GET", EVENTS, stream_or_page(sse(event(1), cut_after=5), *away, sse(event(1)), rest=page()))
    scripted.on("GET", JOB, job("succeeded"))
    assert [each.id for each in make_client(scripted.url).stream_events("adapt_1")] == ["evt_1"]


def test_it_is_not_waited_for_for_ever(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", EVENTS, Answer(drop=True))
    with pytest.raises(ServiceUnreachableError):
        list(make_client(scripted.url, patience_s=0.1).stream_events("adapt_1"))


def test_after_goes_out_as_last_event_id(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", EVENTS, stream_or_page(sse(), rest=page()))
    scripted.on("GET", JOB, job("succeeded"))
    assert list(make_client(scripted.url).stream_events("adapt_1", after="evt_7")) == []
    opened, rest = scripted.seen("GET", EVENTS)
    assert (opened.headers["last-event-id"], rest.query["after"]) == ("evt_7", "evt_7")


def test_a_refused_stream_is_an_error_at_once(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", EVENTS, refusal(404, "not_found"))
    with pytest.raises(ApiError, match="not_found"):
        list(make_client(scripted.url).stream_events("adapt_1"))
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (page(), "no event stream but application/json"),
        (Answer(headers={"content-type": "text/event-stream"}, body=b"id: evt_1\ndata: 1\n\n"), "no job event"),
    ],
)
def test_what_is_no_stream_of_ours(
    scripted: ScriptedService, make_client: MakeClient, answer: Answer, word: str
) -> None:
    scripted.on("GET", EVENTS, answer)
    with pytest.raises(UnexpectedAnswerError, match=word):
        list(make_client(scripted.url).stream_events("adapt_1"))


def test_leaving_early_closes_the_connection(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", EVENTS, sse(event(1), pause_s=30.0))
    client = make_client(scripted.url)
    stream = client.stream_events("adapt_1")
    assert next(stream).id == "evt_1"
    stream.close()  # type: ignore[attr-defined]  # a generator
    scripted.on("GET", "/health", Answer({}))
    assert client.health() == {}

"""The OpenAI-compatible endpoint over tiny targets, under uvicorn, without Ray: real routes, engine and sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI
from waiting import wait_for

from api import errors
from api.endpoint.engines.interfaces import ServedPair
from api.endpoint.engines.runner import EngineRunner
from api.endpoint.metrics.aggregator import MetricsAggregator
from api.endpoint.metrics.group_metrics import GroupMetrics, Report
from api.endpoint.metrics.reporter import MetricsReporter
from api.endpoint.protocol.requests import GenerationRequest
from api.endpoint.protocol.schemas import ReplicaMemory, VariantMemory
from api.endpoint.protocol.token_text import TokenText
from api.endpoint.routes import replica, router
from api.middleware import Envelope
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import StepOutput
from eda_service.errors import ModelNotFoundError
from eda_service.targets.loader import Target


class NearAggregator:
    """An aggregator in this process."""

    def __init__(self) -> None:
        self.aggregator = MetricsAggregator()

    async def put(self, report: Report) -> None:
        self.aggregator.put(report)

    async def read(self) -> GroupMetrics:
        return self.aggregator.read()


@dataclass
class Served:
    """What a Serve replica provides; see `api.endpoint.routes.Models`."""

    loaded: dict[str, ServedPair]
    request_timeout_s: float = 60.0
    aggregator: NearAggregator = field(default_factory=NearAggregator)
    replica: str = "only"
    requests: list[GenerationRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reporter = MetricsReporter(self.replica, self.aggregator, self.pairs, self._memory)

    async def _memory(self) -> ReplicaMemory:
        held = {"adapter_bytes": 20, "pack_bytes": 3, "loaded_at": 0, "num_running": 0}
        variants = [
            VariantMemory(name=pair.name, uid=pair.uid, base_draft=None, pack=None, **held) for pair in self.pairs()
        ]
        return ReplicaMemory(base_bytes=1000, variants=variants, failed=[])

    def record_prompt(self, pair: ServedPair, request: GenerationRequest) -> None:
        self.requests.append(request)

    async def metrics(self) -> GroupMetrics:
        return await self.reporter.read()

    def pair(self, name: str, uid: str | None) -> ServedPair:
        found = self.loaded.get(name)
        if found is None or uid not in {None, found.uid or uid}:  # one without a uid is any deployment's
            raise ModelNotFoundError(f"no model {name!r} is served here", param="model")
        return found

    def pairs(self) -> Sequence[ServedPair]:
        return list(self.loaded.values())


@dataclass
class LiveEndpoint:
    """A running endpoint."""

    url: str
    served: Served

    def runner(self, name: str = "tiny") -> EngineRunner:
        return self.served.loaded[name].runner

    def wait_idle(self, name: str = "tiny", *, timeout_s: float = 5.0) -> float:
        """Seconds until nothing is open and no slot is taken."""
        began = time.monotonic()
        runner = self.runner(name)
        wait_for(
            lambda: not runner.num_open and not runner.num_running,
            what="an idle engine",
            progress=lambda: (runner.num_open, runner.num_running),
            stall_s=timeout_s,
            interval_s=0.002,
        )
        return time.monotonic() - began


class Brake:
    """Holds an engine's rounds back, so that a test decides when each happens.

    Args:
        engine: Its `step` waits for `allow` from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self._step, self._allowed = engine.step, threading.Semaphore(0)
        self._num_done = 0
        engine.step = self._held  # type: ignore[method-assign]  # the same step, later

    def _held(self) -> list[StepOutput]:
        self._allowed.acquire()
        outputs = self._step()
        self._num_done += 1
        return outputs

    def allow(self, rounds: int) -> None:
        """Let so many rounds happen."""
        self._allowed.release(rounds)

    def one_round(self) -> None:
        """Let one round happen and wait for its end."""
        done = self._num_done
        self.allow(1)
        wait_for(lambda: self._num_done > done, what="one round", stall_s=60, interval_s=0.001)

    def break_next_round(self) -> None:
        """The next round fails as a broken kernel does."""

        def explode() -> list[StepOutput]:
            raise ValueError("the kernel is gone")

        self._step = explode
        self.allow(1)


def make_pair(name: str, target: Target, engine: Engine, *, max_waiting: int = 64, uid: str = "") -> ServedPair:
    """An engine of a tiny target, served under a name; the empty uid is that of pairs outside the service."""
    return ServedPair(
        name=name,
        base_draft="tiny@1",
        pack=None,
        loaded_at=int(time.time()),
        fingerprint=f"fp_{target.fingerprint.weights_sha256[:10]}",
        runner=EngineRunner(engine, num_threads=1, max_waiting=max_waiting),
        tokenizer=target.tokenizer,
        token_text=TokenText(target.tokenizer),
        num_spec_tokens=engine.num_draft_tokens,
        max_model_len=engine.max_tokens,
        uid=uid,
        defaults=target.defaults,
    )


@contextlib.contextmanager
def live_endpoint(
    pairs: Sequence[ServedPair],
    *,
    request_timeout_s: float = 60.0,
    send_buffer_bytes: int | None = None,
    port: int = 0,
    prefix: str = "",
) -> Iterator[LiveEndpoint]:
    """Serve pairs until the end of the block.

    Args:
        pairs: Who answers.
        request_timeout_s: Most time of an answer.
        send_buffer_bytes: A small one makes a slow reader felt early.
        port: Where to listen; 0: anywhere.
        prefix: Of every path, as a group's in Serve.
    """
    served = Served({pair.name: pair for pair in pairs}, request_timeout_s)

    async def provided() -> Served:
        return served

    app = FastAPI(openapi_url=None)
    app.add_middleware(Envelope)
    app.include_router(router, prefix=prefix)
    app.dependency_overrides[replica] = provided
    errors.install(app)
    listening = socket.socket()
    if send_buffer_bytes is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    listening.bind(("127.0.0.1", port))
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield LiveEndpoint(f"http://127.0.0.1:{port}", served)
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
        for pair in pairs:
            pair.runner.retire()
            pair.runner.join(5)

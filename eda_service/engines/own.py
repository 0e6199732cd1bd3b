"""The project's own engine, autoregressive, over a target that is loaded in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eda_service.decoding.engine import Engine
from eda_service.engines.engine import Answer, AnswerRequest
from eda_service.errors import EdaError
from eda_service.targets.loader import Target


@dataclass
class OwnEngine:
    """A loaded target; see `TargetEngine`."""

    target: Target

    @property
    def ends(self) -> Target:
        """The loaded target itself."""
        return self.target

    def answer(
        self,
        requests: Mapping[str, AnswerRequest],
        *,
        batch_size: int,
        max_tokens: int,
        captures: Sequence[int] | None = None,
        on_answer: Callable[[int], None] | None = None,
    ) -> dict[str, Answer]:
        """Answer all requests as one queue."""
        engine = Engine(
            self.target,
            max_batch=batch_size,
            max_tokens=max_tokens,
            capture_features=captures is not None,
            captures=captures or (),
        )
        answers: dict[str, Answer] = {}
        tokens: dict[str, list[int]] = {}
        for request_id, request in requests.items():
            try:
                engine.submit(request_id, request.prompt_ids, request.params)
            except EdaError as error:
                answers[request_id] = Answer([], "error", error=error.message)
            else:
                tokens[request_id] = []
        while engine.has_work:
            for output in engine.step():
                written = tokens[output.request_id]
                written.extend(output.new_token_ids)
                if output.finish_reason is not None:
                    answer = Answer(written, output.finish_reason, output.states, output.error)
                    answers[output.request_id] = answer
                    if on_answer is not None:
                        on_answer(len(answers))
        return {request_id: answers[request_id] for request_id in requests}

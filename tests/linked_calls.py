"""A state machine over the OpenAPI document's links, whose every answer must be one that the document describes."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


def chain(document: Any, url: str) -> Any:
    """The machine; `run(settings=...)` runs it, `num_calls` counts its requests.

    Args:
        document: As schemathesis loaded it.
        url: Of the service.
    """

    class Chain(document.as_state_machine()):  # type: ignore[misc]  # made at run time
        num_calls = 0

        def before_call(self, case: schemathesis.Case) -> None:
            case.headers["accept"] = "application/json"  # a stream of events would go on

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"base_url": url, "timeout": 60}

        def validate_response(self, response: Any, case: schemathesis.Case, **_: Any) -> None:
            Chain.num_calls += 1
            case.validate_response(response, checks=CHECKS)

    return Chain

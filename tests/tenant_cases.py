"""How each route of the application is asked by an owner (`test_tenants_generated`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tenant_worlds import SHARED

STREAM = {"accept": "text/event-stream"}
JOB_BODY: dict[str, Any] = {"model": "org/model", "base_draft": "small@1"}
MESSAGES = [{"role": "user", "content": "Hi"}]
ROWS = ("rows.jsonl", b"".join(b'{"prompt": "of both %d"}\n' % n for n in range(90)))
NUMBER = (r"-?\d+(\.\d+)?", "N")


@dataclass(frozen=True)
class Case:
    """How a route is asked.

    Attributes:
        json: Body.
        form: Fields of a page's form, beside its token.
        fields: Of a form beside its files.
        files: Which it has.
        headers: Further ones.
        streams: It answers with events, without end.
        leave_out: Patterns of what says something about the whole service and nobody's objects, with what stands there.
    """

    json: Any = None
    form: Mapping[str, str] | None = None
    fields: Mapping[str, str] | None = None
    files: Mapping[str, tuple[str, bytes]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    streams: bool = False
    leave_out: tuple[tuple[str, str], ...] = ()


GET, FORM, LIVE = Case(), Case(form={}), Case(headers=STREAM, streams=True)
CASES: dict[tuple[str, str], Case] = {
    ("GET", "/"): GET,
    ("GET", "/docs"): GET,
    ("GET", "/health"): Case(leave_out=((r'"jobs":\{[^}]*\}', ""), (r'"dispatcher_\w+":[\d.e-]+', ""))),
    ("GET", "/metrics"): GET,
    ("GET", "/v1/adaptations"): GET,
    ("POST", "/v1/adaptations"): Case({**JOB_BODY, "seed": 7}, headers={"idempotency-key": "once"}),
    ("POST", "/v1/adaptations/estimate"): Case(JOB_BODY, leave_out=(NUMBER,)),
    ("GET", "/v1/adaptations/{job_id}"): GET,
    ("POST", "/v1/adaptations/{job_id}"): Case({"priority": 90}),
    ("POST", "/v1/adaptations/{job_id}/cancel"): GET,
    ("POST", "/v1/adaptations/{job_id}/retry"): GET,
    ("GET", "/v1/adaptations/{job_id}/events"): Case(headers=STREAM, streams=True),
    ("GET", "/v1/adaptations/{job_id}/logs"): GET,
    ("GET", "/v1/adaptations/{job_id}/report"): GET,
    ("GET", "/v1/adaptations/{job_id}/report.html"): GET,
    ("GET", "/v1/adaptations/{job_id}/samples"): GET,
    ("GET", "/v1/adaptations/{job_id}/report/{plot}.png"): GET,
    ("GET", "/v1/jobs"): GET,
    ("GET", "/v1/jobs/{job_id}"): GET,
    ("POST", "/v1/jobs/{job_id}"): Case({"priority": 90}),
    ("POST", "/v1/jobs/{job_id}/cancel"): GET,
    ("POST", "/v1/jobs/{job_id}/retry"): GET,
    ("GET", "/v1/jobs/{job_id}/events"): Case(headers=STREAM, streams=True),
    ("GET", "/v1/jobs/{job_id}/logs"): GET,
    ("GET", "/v1/drafts"): GET,
    ("POST", "/v1/drafts"): Case({"source": "org/draft", "model": "org/model", "seed": 7}),
    ("GET", "/v1/drafts/{name}"): GET,
    ("DELETE", "/v1/drafts/{name}"): GET,
    ("DELETE", "/v1/jobs/{job_id}"): GET,
    ("POST", "/v1/measurements"): Case({"model": "org/model", "draft": "small@1", "seed": 7}),
    ("GET", "/v1/measurements/{job_id}"): GET,
    ("GET", "/v1/files"): GET,
    ("POST", "/v1/files"): Case(fields={"purpose": "fine-tune"}, files={"file": ROWS}),
    ("GET", "/v1/files/{file_id}"): GET,
    ("GET", "/v1/files/{file_id}/content"): GET,
    ("DELETE", "/v1/files/{file_id}"): GET,
    ("GET", "/v1/fine_tuning/jobs"): GET,
    ("POST", "/v1/fine_tuning/jobs"): Case({"model": "org/model", "training_file": "self", "seed": 8}),
    ("GET", "/v1/fine_tuning/jobs/{job_id}"): GET,
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"): GET,
    ("GET", "/v1/fine_tuning/jobs/{job_id}/events"): GET,
    ("GET", "/v1/deployments"): GET,
    ("POST", "/v1/deployments"): Case({"name": "fresh", "model": "org/model", "base_draft": "small@1"}),
    ("GET", "/v1/deployments/{name}"): GET,
    ("GET", "/v1/deployments/{name}/events"): GET,
    ("PATCH", "/v1/deployments/{name}"): Case({"labels": {"a": "b"}}),
    ("POST", "/v1/deployments/{name}/rollback"): Case({}),
    ("POST", "/v1/deployments/{name}/restart"): Case({}),
    ("DELETE", "/v1/deployments/{name}"): GET,
    ("POST", "/v1/completions"): Case({"model": SHARED, "prompt": "Hi"}),
    ("POST", "/v1/chat/completions"): Case({"model": SHARED, "messages": MESSAGES}),
    ("GET", "/v1/models"): GET,
    ("GET", "/v1/models/{name}"): GET,
    ("GET", "/v1/packs"): GET,
    ("GET", "/v1/packs/{name}"): GET,
    ("PUT", "/v1/packs/{name}/champion"): Case({"version": None}),
    ("GET", "/v1/pack-versions/{name}"): GET,
    ("GET", "/v1/pack-versions/{name}/comparison"): GET,
    ("DELETE", "/v1/pack-versions/{name}"): GET,
    ("GET", "/v1/pack-versions/{name}/exports"): GET,
    ("POST", "/v1/exports"): Case({"pack": f"{SHARED}@latest", "to": "vllm"}),
    ("GET", "/v1/exports/{job_id}"): GET,
    ("GET", "/v1/exports/{job_id}/archive"): GET,
    ("GET", "/ui/"): GET,
    ("GET", "/ui/stream"): LIVE,
    ("GET", "/ui/login"): GET,
    ("POST", "/ui/login"): Case(form={"key": "eda_x_y"}),
    ("POST", "/ui/logout"): FORM,
    ("GET", "/ui/jobs"): GET,
    ("GET", "/ui/jobs/stream"): LIVE,
    ("GET", "/ui/jobs/{job_id}"): GET,
    ("GET", "/ui/jobs/{job_id}/stream"): LIVE,
    ("POST", "/ui/jobs/{job_id}/cancel"): FORM,
    ("POST", "/ui/jobs/{job_id}/retry"): FORM,
    ("POST", "/ui/jobs/{job_id}/priority"): Case(form={"priority": "90"}),
    ("GET", "/ui/new"): GET,
    ("POST", "/ui/new"): Case(
        form={"model": "org/model", "draft": "small@1"},
        files={"upload": ROWS},
        leave_out=((r"[\d.]+ [GMk]?B\b", "N B"),),
    ),
    ("POST", "/ui/new/queue"): Case(form={"model": "org/model", "draft": "small@1", "settings": "seed=9"}),
    ("GET", "/ui/files"): GET,
    ("POST", "/ui/files"): Case(form={}, files={"file": ROWS}),
    ("GET", "/ui/files/{file_id}/content"): GET,
    ("POST", "/ui/files/{file_id}/delete"): FORM,
    ("GET", "/ui/jobs/{job_id}/report.html"): GET,
    ("GET", "/ui/jobs/{job_id}/samples"): GET,
    ("GET", "/ui/jobs/{job_id}/logs/{stage}"): GET,
    ("GET", "/ui/drafts"): GET,
    ("GET", "/ui/drafts/import"): GET,
    ("POST", "/ui/drafts/import"): Case(form={"source": "org/draft", "model": "org/model", "name": "page"}),
    ("GET", "/ui/drafts/{name}"): GET,
    ("GET", "/ui/packs"): GET,
    ("GET", "/ui/packs/{name}"): GET,
    ("POST", "/ui/packs/{name}/remove"): Case(
        form={"version": "99"},
        leave_out=((r"its versions: \d+", "its versions: N"),),  # numbers are given once for all owners
    ),
    ("GET", "/ui/packs/{name}/export"): GET,
    ("POST", "/ui/packs/{name}/export"): Case(form={"version": "latest", "choice": "vllm-plugin"}),
    ("GET", "/ui/packs/{name}/export/stream"): LIVE,
    ("GET", "/ui/exports/{job_id}.tar"): GET,
    ("POST", "/ui/packs/{name}/deploy"): Case(form={"version": "latest", "served_as": "paged"}),
    ("POST", "/ui/packs/{name}/champion"): FORM,
    ("GET", "/ui/packs/{name}/{version}.tar"): Case(leave_out=((r"(?s)\n.*", ""),)),  # the version is in every file
    ("GET", "/ui/deployments"): GET,
    ("GET", "/ui/deployments/stream"): LIVE,
    ("GET", "/ui/deployments/{name}"): GET,
    ("GET", "/ui/deployments/{name}/stream"): LIVE,
    ("GET", "/ui/docs"): GET,
    ("GET", "/ui/docs/{tag}"): GET,
    ("POST", "/ui/deployments/{name}/rollback"): FORM,
    ("POST", "/ui/deployments/{name}/pack"): Case(form={"pack": ""}),
    ("POST", "/ui/deployments/{name}/restart"): FORM,
    ("POST", "/ui/deployments/{name}/remove"): FORM,
    ("GET", "/ui/playground"): GET,
    ("POST", "/ui/playground/remove"): Case(form={"name": SHARED}),
    ("POST", "/ui/playground/answer"): Case({"model": SHARED, "prompt": "Hi"}),
}

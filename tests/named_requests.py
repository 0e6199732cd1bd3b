"""Every request that takes a path, a name or an id, with a given text in that place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

BODY: dict[str, Any] = {"model": "org/model", "base_draft": "small@1"}
Request = tuple[str, str, Mapping[str, Any] | None]
"""Method, path with its query, JSON body."""


def named_requests(text: str) -> list[Request]:
    """What an API with the base draft `small@1` can be asked about a text."""
    return [*_adaptations(text), *_fine_tuning(text), *_deployments(text), *_in_the_url(text)]


def _adaptations(text: str) -> list[Request]:
    dataset, model, adapter = {"source": text}, {"model": text}, {"model": "org/model", "adapter": text}
    bodies: list[dict[str, Any]] = [
        {**BODY, "dataset": dataset},
        {**BODY, "dataset": {"source": "self", "split": text}},
        {**BODY, "eval_dataset": dataset},
        {**BODY, **model},
        {**BODY, **adapter},
        {**BODY, "revision": text},
        {**BODY, "base_draft": text},
        {**BODY, "served_name": text},
        {**BODY, "preset": text},
        {**BODY, "metadata": {text[:64]: text[:512]}},
        {**BODY, "config": {"dataset": dataset}},
        {**BODY, "config": {"target": model}},
        {**BODY, "config": {"target": adapter}},
        {**BODY, "config": {"served_name": text, "base_draft": text}},
        {**BODY, "config": {"track": {"project": text}}},
        {**BODY, "webhook": {"url": f"https://{text}/"}},
    ]
    made: list[Request] = []
    for body in bodies:
        made += [("POST", "/v1/adaptations", body), ("POST", "/v1/adaptations/estimate", body)]
        made.append(("POST", "/v1/adaptations", {**body, "dry_run": True}))
    return made


def _fine_tuning(text: str) -> list[Request]:
    changes = [{"training_file": text}, {"validation_file": text}, {"model": text}, {"adapter": text}, {"suffix": text}]
    base = {**BODY, "training_file": "self"}
    return [("POST", "/v1/fine_tuning/jobs", {**base, **change}) for change in changes]


def _deployments(text: str) -> list[Request]:
    fields = ("name", "model", "adapter", "revision", "base_draft", "pack")
    bodies = [{**BODY, field: text} for field in fields]
    bodies += [{**BODY, "labels": {text[:64]: text[:512]}}, {**BODY, "adapter": f"org/{text}"}]
    return [("POST", "/v1/deployments", body) for body in bodies]


def _in_the_url(text: str) -> list[Request]:
    made: list[Request] = []
    whole = quote(text.encode("utf-8", "surrogatepass"), safe="")
    for part in {whole, whole.replace("%2F", "/")}:
        for route in ("adaptations", "fine_tuning/jobs", "deployments", "packs", "models"):
            made.append(("GET", f"/v1/{route}/{part}", None))
        for action in ("events", "logs", "report", "report.html", "report/training.png"):
            made.append(("GET", f"/v1/adaptations/{part}/{action}", None))
        made += [("POST", f"/v1/adaptations/{part}/{action}", None) for action in ("cancel", "retry")]
        made += [("POST", f"/v1/fine_tuning/jobs/{part}/cancel", None), ("POST", f"/v1/adaptations/{part}", {})]
        made += [("DELETE", f"/v1/deployments/{part}", None), ("PATCH", f"/v1/deployments/{part}", {"pack": text})]
        made += [("POST", f"/v1/deployments/{part}/restart", None)]
        made += [("POST", f"/v1/deployments/{part}/rollback", {}), ("GET", f"/v1/deployments/{part}/events", None)]
        made.append(("PUT", f"/v1/packs/{part}/champion", {"version": None}))
        made += [(method, f"/v1/pack-versions/{part}", None) for method in ("GET", "DELETE")]
        made.append(("GET", f"/v1/pack-versions/{part}/comparison?other={whole}", None))
        made += [("GET", f"/ui/{page}/{part}", None) for page in ("jobs", "deployments", "static")]
        made.append(("GET", f"/v1/adaptations/adapt_0/logs?stage={part}", None))
    for route in ("adaptations", "deployments", "packs", "fine_tuning/jobs"):
        made.append(("GET", f"/v1/{route}?after={whole}", None))
    made += [("GET", f"/v1/adaptations?metadata[{whole}]={whole}", None), ("GET", f"/ui/playground?left={whole}", None)]
    made.append(("POST", "/v1/completions", {"model": text, "prompt": "x"}))
    made.append(("POST", "/v1/chat/completions", {"model": text, "messages": [{"role": "user", "content": text}]}))
    return made


def tasks_and_pages(text: str) -> list[Request]:
    """The same of drafts, measurements, exports, jobs of every kind, and the pages."""
    dataset, draft, measured = (
        {"source": text},
        {"source": "org/draft", "model": "org/model"},
        {**BODY, "draft": "small"},
    )
    del measured["base_draft"]
    imports = [{**draft, field: text} for field in ("source", "source_revision", "model", "revision", "name")]
    imports.append({**draft, "overrides": {"num_heads": text[:256]}})
    measures = [{**measured, field: text} for field in ("model", "revision", "adapter", "draft", "pack", "base_model")]
    measures.append({**measured, "dataset": dataset})
    made: list[Request] = [("POST", "/v1/drafts", body) for body in imports]
    made += [("POST", "/v1/measurements", body) for body in measures]
    exports = [{"pack": "none@1", "to": "vllm", field: text} for field in ("pack", "to", "dialect")]
    made += [("POST", "/v1/exports", body) for body in exports]
    whole = quote(text.encode("utf-8", "surrogatepass"), safe="")
    for part in {whole, whole.replace("%2F", "/")}:
        made += [("GET", f"/v1/{route}/{part}", None) for route in ("drafts", "jobs", "measurements", "exports")]
        made += [("GET", f"/v1/pack-versions/{part}/exports", None), ("GET", f"/ui/packs/{part}/export", None)]
        made += [("GET", f"/ui/exports/{part}.tar", None), ("GET", f"/ui/packs/x/export?version={whole}", None)]
        made += [("GET", f"/v1/jobs/{part}/{action}", None) for action in ("events", "logs")]
        made += [("POST", f"/v1/jobs/{part}/{action}", None) for action in ("cancel", "retry")]
        made += [("DELETE", f"/v1/drafts/{part}", None), ("POST", f"/v1/jobs/{part}", {"priority": 1})]
        made += [("GET", f"/ui/{page}", None) for page in (f"drafts/{part}", f"jobs/{part}/logs/train")]
        made.append(("GET", f"/ui/jobs/adapt_0/logs/{part}", None))
    for route in ("drafts", "jobs", "measurements", "models"):
        made.append(("GET", f"/v1/{route}?after={whole}&status={whole}&kind={whole}&limit={whole}", None))
    made += [("GET", f"/ui/{page}?after={whole}", None) for page in ("jobs", "drafts", "packs", "deployments")]
    made += [("GET", f"/ui/jobs?status={whole}", None), ("GET", f"/ui/login?to={whole}", None)]
    made.append(("GET", f"/v1/deployments/x/events?before={whole}", None))
    return made


HEADERS = (
    "x-request-id", "idempotency-key", "last-event-id", "authorization", "cookie", "x-form-token", "accept",
    "content-type", "content-encoding", "content-length", "host", "user-agent",
)  # fmt: skip
"""Headers that a request of this service's is read by."""

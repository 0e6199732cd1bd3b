"""What a damaged database can hold: by table, which row, which column, and the SQL of the value written there."""

from __future__ import annotations

NOT_JSON, NOT_UTF8, FAR_FUTURE = "'{\"a\": '", "CAST(x'ff00ff' AS TEXT)", "99999999999999999"
LARGEST = "9223372036854775807"  # to which SQLite adds nothing more
ON_VLLM = ", engine = json_object('kind', 'vllm')"  # whose group is named after the uid


def column(name: str, *values: str) -> list[tuple[str, str]]:
    return [(name, value) for value in values]


# By table: which of its rows, and what is written into which column.
JOBS = [
    *column("config", NOT_JSON, "'{}'", "'[1]'", "'null'", "5", "x'ff00'", NOT_UTF8, "'\"text\"'"),
    *column("config", '\'{"target": {"model": "m"}, "gone": 1}\'', "'" + "[" * 3000 + "]" * 3000 + "'"),
    *column("labels", NOT_JSON, "'null'", "'[]'", "'{\"a\": {}}'", '\'{"a": "\\ud800"}\'', "'{\"a\": NaN}'"),
    *column("progress", NOT_JSON, "'[]'", '\'{"percent": "all"}\'', "'{\"updated_at\": 1e400}'", "7"),
    *column("error", NOT_JSON, "'{}'", "'[]'"),
    *column("stage_deadlines", NOT_JSON, '\'{"train": "x"}\'', "'{\"train\": -1}'"),
    *column("webhook", NOT_JSON, "'[]'", "'{}'", "'{\"url\": 5}'", '\'{"url": "https://e.org", "secret": 5}\''),
    *column("status", "'weird'", "5", NOT_UTF8),
    *column("origin", "'other'"),
    *column("created_at", "'x'", FAR_FUTURE, "-5", "1.5"),
    *column("started_at", "'x'"),
    *column("submitted_at", "'x'", FAR_FUTURE),
    *column("not_before", "'x'", FAR_FUTURE),
    *column("priority", "'high'", "x'00'"),
    *column("attempt", "'x'", "x'ff'", LARGEST),
    *column("max_attempts", "'x'"),
    *column("events_read", "'x'", "-1"),
    *column("lease_token", "'x'", "1.5", LARGEST),
    *column("lease_until", "'x'", "x'00'", FAR_FUTURE),
    *column("lease_holder", "x'ff'", NOT_UTF8),
    *column("ray_session", NOT_UTF8, "x'ff'"),
    *column("result_pack", "x'ff'"),
    *column("result", "x'ff'"),
    *column("kind", "'other'", "'measure'", "x'ff'", "5"),
    *column("owner", NOT_UTF8, "x'ff'"),
    *column("id", "'../../etc'", "''", NOT_UTF8, "x'ff'", "'a' || char(0) || 'b'"),
    *column("content_sha256", "x'ff'", "5"),
    *column("seq", "-1", "9000000000"),
]
OUTBOX = [
    *column(
        "url", "'https://exa１mple.org/'", "'https://a' || char(173) || 'b.org'", "'none'", "''", NOT_UTF8, "x'ff'"
    ),
    *column("url", "'https://' || char(10) || 'e.org'", "'https://[::1'", "'https://e.org:99999/'", "5"),
    *column("payload", NOT_JSON, "'[]'", "'5'", "x'ff'"),
    *column("attempts", "'x'", "-1", LARGEST),
    *column("secret", "'fernet:none'", "'whsec_***'", "''", "x'ff'", NOT_UTF8),
    *column("not_before", "'x'", "x'00'"),
    *column("job_id", "'nobody'", "x'ff'"),
]
DEPLOYMENTS = [
    *column("target", NOT_JSON, "'{}'", "'[]'", "'{\"model\": 5}'", '\'{"model": "m", "gone": 1}\'', "x'ff'"),
    *column("engine", NOT_JSON, "'[]'", '\'{"kind": "other"}\''),
    *column("drift", NOT_JSON, "'{\"below\": 7}'", '\'{"redact": ["("]}\''),
    *column("labels", NOT_JSON, "'[]'", "'{\"a\": 1}'"),
    *column("min_replicas", "'x'", "0", "-3", "50"),
    *column("max_replicas", "'x'", "0", "99999999"),
    *column("round_ms", "'x'", "-1"),
    *column("revision", "'x'", LARGEST),
    *column("uid", "''", "'../..'", "'dep_x'" + ON_VLLM),
    *column("created_at", "'x'", FAR_FUTURE),
    *column("owner", "x'ff'"),
    *column("pack", "'none'", "x'ff'"),
    *column("base_draft", "x'ff'"),
]
DRIFT = [
    *column("crossed_at", "'x'"),
    *column("adapted_at", "'x'"),
    *column("pack", "x'ff'"),
    *column("is_below", "'x'"),
]
LOADS = [
    *column("attempt", "'x'", "-1"),
    *column("num_failures", "'x'", LARGEST),
    *column("reason", "x'ff'", "5"),
    *column("failed_at", "'x'", FAR_FUTURE),
    *column("retry_at", "'x'", FAR_FUTURE),
    *column("serves", NOT_JSON, "'{}'", "'[]'", "5"),
]
DEPLOYMENT_EVENTS = [*column("data", NOT_JSON, "'[]'"), *column("at", "'x'", FAR_FUTURE), *column("message", "x'ff'")]
REVISIONS = [*column("target", NOT_JSON, "'{}'"), *column("min_replicas", "'x'"), *column("created_at", "'x'")]
CHAMPIONS = [*column("version", "'x'", "-1", "x'ff'"), *column("pinned_at", "'x'")]
KEYS = [
    *column("scopes", NOT_JSON, "'{}'", "'[5]'", "'null'"),
    *column("secret_sha256", "'x'", "x'ff'", "5", NOT_UTF8),
    *column("expires_at", "'never'", FAR_FUTURE, "-1"),
    *column("revoked_at", "'no'", "''"),
    *column("created_at", "'x'"),
    *column("last_used_at", "'x'"),
    *column("requests_per_minute", "'x'", "0"),
    *column("owner", "x'ff'"),
]
IDEMPOTENCY = [*column("created_at", "'x'"), *column("request_sha256", "x'ff'"), *column("job_id", "'nobody'")]
EVENTS = [
    *column("at", "'x'", FAR_FUTURE, "-1"),
    *column("type", "'a' || char(10) || 'b'", "x'ff'"),
    *column("message", "x'ff'", NOT_UTF8),
    *column("level", "x'ff'"),
    *column("stage", "x'ff'"),
    *column("job_id", "'nobody'"),
]
FILES = [
    *column("size_bytes", "'x'", "-1", LARGEST, "1e400"),
    *column("num_prompts", "'many'", "1.5"),
    *column("num_skipped", "x'00'"),
    *column("created_at", "'x'", FAR_FUTURE),
    *column("sha256", "x'ff'", NOT_UTF8),
    *column("filename", "'a' || char(10) || 'b'", "x'ff'", NOT_UTF8, "''"),
    *column("purpose", "x'ff'"),
    *column("owner", "x'ff'", NOT_UTF8),
    *column("id", "'../../eda'", "''", "x'ff'", NOT_UTF8, "'a' || char(0) || 'b'"),
]
CASES: list[tuple[str, str, str, str]] = [
    *(("jobs", "id = '{running}'", *each) for each in JOBS),
    *(("jobs", f"id = '{{{role}}}'", *each) for role in ("queued", "ended") for each in dict(JOBS).items()),
    *(("webhook_outbox", "id = 1", *each) for each in OUTBOX),
    *(("deployments", "name = 'bad'", *each) for each in DEPLOYMENTS),
    *(("deployment_drift", "name = 'bad'", *each) for each in DRIFT),
    *(("deployment_loads", "name = 'bad'", *each) for each in LOADS),
    *(("deployment_events", "id = 1", *each) for each in DEPLOYMENT_EVENTS),
    *(("deployment_revisions", "name = 'bad'", *each) for each in REVISIONS),
    *(("champions", "name = 'bad'", *each) for each in CHAMPIONS),
    *(("api_keys", "id = '{key}'", *each) for each in KEYS),
    *(("idempotency_keys", "key = 'bad'", *each) for each in IDEMPOTENCY),
    *(("files", "filename = 'bad.jsonl'", *each) for each in FILES),
    *(("events", "job_id = '{running}'", *each) for each in EVENTS),
]

"""Counters of this process about the job service and the gateway to the endpoint, shown at `/metrics`.

Each API process has its own counters; Prometheus adds them up.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from eda_service.records import Stage

UNREADABLE_TABLES = (
    "api_keys", "deployment_drift", "deployment_events", "deployment_revisions", "deployments", "events", "jobs",
    "webhook_outbox",
)  # fmt: skip
WEBHOOK_OUTCOMES = ("delivered", "failed", "gave_up")
_WAIT_S = (0.5, 1, 2, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
_STAGE_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 43_200, 86_400)
_PASS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Instruments:
    """Counters and histograms of one API process.

    Attributes:
        registry: Registry of all counters.
        queue_wait_s: Seconds from a job's submission to its first attempt.
        stage_s: Seconds that each stage took in a job, by stage.
        pass_s: Seconds of one pass of the dispatcher.
        webhooks: Webhooks by outcome: delivered, failed, gave_up.
        passed_at: Time of the end of the last pass.
        unreadable: Rows that could not be read at the last attempt, by table.
        responses: Answers of the endpoint, by HTTP status.
    """

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self.queue_wait_s = Histogram(
            "eda_job_queue_wait_seconds",
            "From a job's submission to its first attempt.",
            buckets=_WAIT_S,
            registry=self.registry,
        )
        self.stage_s = Histogram(
            "eda_job_stage_seconds", "Time of one stage of a job.", ["stage"], buckets=_STAGE_S, registry=self.registry
        )
        for stage in Stage:  # all from the start: a series that appears with its first value shows no increase
            self.stage_s.labels(stage.value)
        self.pass_s = Histogram(
            "eda_dispatcher_pass_seconds",
            "One look of the dispatcher at everything.",
            buckets=_PASS_S,
            registry=self.registry,
        )
        self.passed_at = Gauge(
            "eda_dispatcher_last_pass_timestamp_seconds", "End of the dispatcher's last look.", registry=self.registry
        )
        self.webhooks = Counter(
            "eda_webhooks", "Tries to deliver a webhook, by outcome.", ["outcome"], registry=self.registry
        )
        for outcome in WEBHOOK_OUTCOMES:
            self.webhooks.labels(outcome)
        self.unreadable = Gauge(
            "eda_unreadable_rows", "Rows that could not be read at the last look.", ["table"], registry=self.registry
        )
        self.responses = Counter(
            "eda_endpoint_responses", "Answers of the endpoint by HTTP status.", ["code"], registry=self.registry
        )

    def show_unreadable(self, numbers: Mapping[str, int]) -> None:
        """Set the numbers of rows that cannot be read, by table."""
        for table in UNREADABLE_TABLES:
            self.unreadable.labels(table).set(numbers.get(table, 0))

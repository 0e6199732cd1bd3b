"""Serving metrics as Prometheus families: under vLLM's names where vLLM has the series, else under names with `eda_`.

Names follow vLLM 0.11 and later (`vllm/v1/metrics/loggers.py`), with the label `model_name`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from api.deployments.drift import Judgement
from api.endpoint.metrics.counts import Histogram, ModelCounts
from api.endpoint.metrics.group_metrics import GroupMetrics, add_counts
from eda_service.jobstore import Status

MODEL = "model_name"


class _Number(NamedTuple):
    name: str
    help: str
    of: Callable[[ModelCounts], int]


class _Times(NamedTuple):
    name: str
    help: str
    of: Callable[[ModelCounts], Histogram]


_NUMBERS = (
    _Number("vllm:prompt_tokens", "Prompt tokens that were read.", lambda c: c.num_prompt_tokens),
    _Number("vllm:generation_tokens", "Tokens that were generated.", lambda c: c.num_new_tokens),
    _Number("vllm:spec_decode_num_drafts", "Rounds that proposed something.", lambda c: c.num_drafts),
    _Number("vllm:spec_decode_num_draft_tokens", "Draft tokens that were proposed.", lambda c: c.num_draft_tokens),
    _Number("vllm:spec_decode_num_accepted_tokens", "Draft tokens accepted.", lambda c: c.num_accepted_tokens),
    _Number("eda_rounds", "Rounds, also those that proposed nothing.", lambda c: c.num_rounds),
)
_TIMES = (
    _Times("vllm:time_to_first_token_seconds", "From submission to the first token.", lambda c: c.first_token_s),
    _Times("vllm:inter_token_latency_seconds", "Time per token after the first.", lambda c: c.inter_token_s),
    _Times("vllm:e2e_request_latency_seconds", "From submission to the end.", lambda c: c.request_s),
    _Times("vllm:request_queue_time_seconds", "From submission to the prefill.", lambda c: c.queue_s),
    _Times("vllm:request_prefill_time_seconds", "Time of the prefill.", lambda c: c.prefill_s),
    _Times("vllm:request_decode_time_seconds", "From the first token to the end.", lambda c: c.decode_s),
)


class ServingCollector(Collector):
    """Collects the metric families of some groups.

    Args:
        groups: Metrics of each group by its key; None where no replica answered.
        names: Deployments to show: the current name of each, by uid.
    """

    def __init__(self, groups: Mapping[str, GroupMetrics | None], names: Mapping[str, str]) -> None:
        self._names = names
        self._all = groups
        self._groups = {key: found for key, found in groups.items() if found is not None}
        totals: dict[tuple[str, str | None], ModelCounts] = {}
        for found in self._groups.values():
            totals = add_counts(totals, found.variants)
        self._counts: dict[str, ModelCounts] = {}
        for (uid, _), counts in totals.items():
            if uid in names:
                self._counts[names[uid]] = self._counts.get(names[uid], ModelCounts()) + counts

    def collect(self) -> Iterator[Metric]:
        """Yield every family, also those without a sample."""
        yield from self._gauges()
        for number in _NUMBERS:
            family = CounterMetricFamily(number.name, number.help, labels=[MODEL])
            for name, counts in self._counts.items():
                family.add_metric([name], number.of(counts))
            yield family
        yield self._accepted_at()
        yield self._finished()
        for times in _TIMES:
            yield self._histogram(times)
        yield from self._loaded()
        yield from self._of_groups()

    def _gauges(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("vllm:num_requests_running", "Answers that have a slot.", labels=[MODEL])
        waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Answers that wait for a slot.", labels=[MODEL])
        open_now: dict[str, tuple[int, int]] = {}
        for each in (variant for found in self._groups.values() for variant in found.variants):
            if each.uid in self._names:
                name = self._names[each.uid]
                before = open_now.get(name, (0, 0))
                open_now[name] = before[0] + each.num_running, before[1] + each.num_waiting
        for name, (num_running, num_waiting) in open_now.items():
            running.add_metric([name], num_running)
            waiting.add_metric([name], num_waiting)
        yield from (running, waiting)

    def _accepted_at(self) -> Metric:
        family = CounterMetricFamily(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Draft tokens accepted, by their place in the draft.",
            labels=[MODEL, "position"],
        )
        for name, counts in self._counts.items():
            for position, number in enumerate(counts.accepted_at):
                family.add_metric([name, str(position)], number)
        return family

    def _finished(self) -> Metric:
        family = CounterMetricFamily(
            "vllm:request_success", "Answers that ended, by reason.", labels=[MODEL, "finished_reason"]
        )
        for name, counts in self._counts.items():
            for reason, number in counts.finished.items():
                family.add_metric([name, reason], number)
        return family

    def _histogram(self, times: _Times) -> Metric:
        family = HistogramMetricFamily(times.name, times.help, labels=[MODEL])
        for name, counts in self._counts.items():
            found = times.of(counts)
            buckets, below = [], 0
            for bound, number in zip((*found.bounds, float("inf")), found.counts, strict=True):
                below += number
                buckets.append(("+Inf" if bound == float("inf") else str(bound), below))
            family.add_metric([name], buckets, found.total)
        return family

    def _loaded(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "eda_pack_info",
            "What answers under a name; the value is its replicas.",
            labels=[MODEL, "pack", "base_draft"],
        )
        adapters = GaugeMetricFamily("eda_adapter_bytes", "Memory of the LoRA adapter, all replicas.", labels=[MODEL])
        packs = GaugeMetricFamily("eda_pack_bytes", "Memory of the pack, all replicas.", labels=[MODEL])
        swaps = CounterMetricFamily("eda_pack_swaps", "Changes of the pack in a replica.", labels=[MODEL])
        for found in self._groups.values():
            for each in (model for model in found.loaded if model.uid in self._names):
                name = self._names[each.uid]
                info.add_metric([name, each.pack or "", each.base_draft or ""], each.num_replicas)
                if each.adapter_bytes is not None:
                    adapters.add_metric([name], each.adapter_bytes)
                if each.pack_bytes is not None:
                    packs.add_metric([name], each.pack_bytes)
            known = ({each.uid for each in found.loaded} | set(found.swaps)) & set(self._names)
            for uid in sorted(known, key=lambda uid: self._names[uid]):
                swaps.add_metric([self._names[uid]], found.swaps.get(uid, 0))
        yield from (info, adapters, packs, swaps)

    def _of_groups(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("eda_group_up", "Whether a group's metrics came.", labels=["group"])
        replicas = GaugeMetricFamily("eda_replicas", "Replicas that report.", labels=["group"])
        base = GaugeMetricFamily("eda_base_bytes", "Memory of the base target, all replicas.", labels=["group"])
        for key, found in self._all.items():
            up.add_metric([key], int(found is not None))
            if found is not None:
                replicas.add_metric([key], found.num_replicas)
            if found is not None and found.base_bytes is not None:
                base.add_metric([key], found.base_bytes)
        yield from (up, replicas, base)


class DriftCollector(Collector):
    """Collects the results of the last drift check.

    Args:
        judgements: Result of the check, by uid of the deployment.
        num_events: Number of times that acceptance has fallen, by uid of the deployment.
        names: Deployments to show: the current name of each, by uid.
    """

    def __init__(
        self, judgements: Mapping[str, Judgement], num_events: Mapping[str, int], names: Mapping[str, str]
    ) -> None:
        self._judgements = {names[uid]: found for uid, found in judgements.items() if uid in names}
        self._num_events = {names[uid]: number for uid, number in num_events.items() if uid in names}

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        length = GaugeMetricFamily(
            "eda_acceptance_length", "Of the newest rounds, as chains of the evaluation's depth.", labels=[MODEL]
        )
        expected = GaugeMetricFamily(
            "eda_expected_acceptance_length", "What the pack was published with.", labels=[MODEL, "pack"]
        )
        ratio = GaugeMetricFamily("eda_drift_ratio", "The former by the latter.", labels=[MODEL])
        events = CounterMetricFamily("eda_drift_events", "Falls below the threshold.", labels=[MODEL])
        for name, found in self._judgements.items():
            expected.add_metric([name, found.pack], found.expected)
            if found.acceptance_length is not None and found.ratio is not None:
                length.add_metric([name], found.acceptance_length)
                ratio.add_metric([name], found.ratio)
        for name in sorted({*self._judgements, *self._num_events}):
            events.add_metric([name], self._num_events.get(name, 0))
        yield from (length, expected, ratio, events)


class JobCollector(Collector):
    """Collects the numbers of jobs by status.

    Args:
        counts: Numbers of jobs in the database, by status.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        jobs = GaugeMetricFamily("eda_jobs", "Jobs by status.", labels=["status"])
        for status in Status:  # also those without a job: a series that appears with its first one shows no increase
            jobs.add_metric([status.value], self._counts.get(status.value, 0))
        yield jobs


class WebhookCollector(Collector):
    """Collects the number of webhooks that wait.

    Args:
        num_due: Number of webhooks that are due.
    """

    def __init__(self, num_due: int) -> None:
        self._num_due = num_due

    def collect(self) -> Iterator[Metric]:
        """Yield the one family."""
        yield GaugeMetricFamily("eda_webhooks_due", "Webhooks that are due, at most 1000.", value=self._num_due)

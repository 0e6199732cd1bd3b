"""Wall-clock speedup over autoregressive decoding in the same engine: same model code, cache, stops, caps and prompts.
Modes are interleaved within each repeat, so that changes of the machine's speed affect all of them; medians over
repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams
from eda_service.evaluation.decode import decode_all
from eda_service.measured_rows import SpeedRow

BASELINE = "autoregressive"


def measure_speed(
    engines: Mapping[str, Engine],
    prompts: Sequence[Sequence[int]],
    *,
    params: SamplingParams,
    num_repeats: int,
) -> list[SpeedRow]:
    """Decode prompts one at a time in every mode; the first engine must be the autoregressive one.

    Args:
        engines: Engine by name of the mode.
        prompts: Token ids of each prompt.
        params: Sampling parameters of all requests; at temperatures above 0, modes write different texts of similar
            length.
        num_repeats: Number of interleaved repeats.
    """
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(num_repeats):
        seconds = dict.fromkeys(engines, 0.0)
        tokens = dict.fromkeys(engines, 0)
        for ids in prompts:
            for name, engine in engines.items():
                decoded = decode_all(engine, [ids], params, seeded=False)
                seconds[name] += decoded.seconds
                tokens[name] += len(decoded.token_ids[0])
        for name in engines:
            rates[name].append(tokens[name] / seconds[name])
    return speed_rows(rates, {name: engine.num_draft_tokens for name, engine in engines.items()}, params.temperature)


def speed_rows(
    rates: Mapping[str, Sequence[float]], num_draft_tokens: Mapping[str, int], temperature: float
) -> list[SpeedRow]:
    """Turn the rates of the repeats into rows.

    Args:
        rates: Tokens per second of each repeat, by mode; the baseline is one of them.
        num_draft_tokens: Number of drafted tokens K, by mode.
        temperature: Temperature of the requests.
    """
    rows = []
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates[BASELINE], strict=True)]
        rows.append(
            SpeedRow(
                mode=name,
                num_draft_tokens=num_draft_tokens[name],
                temperature=temperature,
                tokens_per_s=median(values),
                speedup_over_autoregressive=median(ratios),
                speedup_min=min(ratios),
                speedup_max=max(ratios),
            )
        )
    return rows

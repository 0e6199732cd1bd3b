"""Numbers are spelled one way; the expected texts are written by hand."""

from __future__ import annotations

import pytest

from api.ui.rendering import environment
from eda_service.formatting import UNKNOWN, duration, percent, rate, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0, "0s"), (0.04, "0s"), (0.7, "0.7s"), (3, "3s"), (9.94, "9.9s"), (9.96, "10s"), (59.4, "59s"),
     (59.6, "1m00s"), (185, "3m05s"), (3599.7, "1h00m"), (7620, "2h07m"), (172_799, "47h59m"), (273_600, "3d04h"),
     (None, UNKNOWN)],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (512, "512 B"), (1500, "1.5 kB"), (98_000_000, "98.0 MB"), (2_100_000_000, "2.1 GB"),
     (1.4e12, "1.4 TB"), (None, UNKNOWN)],
)  # fmt: skip
def test_sizes(num_bytes: float | None, text: str) -> None:
    assert size(num_bytes) == text


def test_percentages_and_rates() -> None:
    assert (percent(0.4149), percent(0.42, 0), percent(None)) == ("41.5%", "42%", UNKNOWN)
    assert (rate(21.44), rate(3.0, ""), rate(0.4), rate(None), rate(0.0)) == (
        "21.4 tokens/s",
        "3.0/s",
        "2.5s each",
        UNKNOWN,
        UNKNOWN,
    )


def test_pages_spell_them_the_same_way() -> None:
    found = environment().from_string("{{ 185 | duration }} {{ 1500 | size }} {{ 0.415 | percent }} {{ 2.5 | rate }}")
    assert found.render() == "3m05s 1.5 kB 41.5% 2.5 tokens/s"

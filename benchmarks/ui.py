"""The web pages with 1,000 jobs in Debian's Chromium: `make bench NAME=ui` writes `benchmarks/results/ui.json`.

First contentful paint is the browser's own (`paint` timing), from the start of the navigation, each time in a context
with an empty cache. Weight is the number of bytes received for a page, uncompressed, without event streams; the answer
time of a page is the shortest of its loads. axe-core checks every page at both widths, light and dark, with its details
opened.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.workloads import header, write_result

NUM_JOBS = 1000
NUM_LOADS = 15
IMPACTS = ("critical", "serious", "moderate", "minor")
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_ANSWERED = "performance.getEntriesByType('navigation')[0].responseEnd"


def first_paint(browser: Any, url: str) -> dict[str, Any]:
    """Measure milliseconds from the start of the navigation, over loads that each begin with an empty cache."""
    load, paints, answers = round(os.getloadavg()[0], 2), [], []
    for _ in range(NUM_LOADS):
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(url)
            while (painted := page.evaluate(_PAINT)) is None:
                page.wait_for_timeout(20)
            paints.append(painted)
            answers.append(page.evaluate(_ANSWERED))
    return {
        "loads": NUM_LOADS,
        "machine_load_before": load,
        "first_contentful_paint_ms": _spread(paints),
        "answered_ms": _spread(answers),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "max": round(max(values), 1),
        "first": round(values[0], 1),
    }


def look_at(browser: Any, base: str, path: str, look: dict[str, Any]) -> tuple[int, float, list[dict[str, Any]]]:
    """Measure the weight of a page, the milliseconds until it was answered, and axe-core's findings."""
    from tests.ui.browser import Watched, violations

    with browser.new_context(**look) as context:
        page = context.new_page()
        watched = Watched(page, base)
        page.goto(base + path)
        page.wait_for_timeout(1000)
        for each in page.locator("details").all():
            each.evaluate("each => { each.open = true; }")
        return watched.weight_bytes, page.evaluate(_ANSWERED), violations(page)


def main() -> None:
    """Measure everything and write the result."""
    from tests.ui.browser import LOOKS, chromium
    from tests.ui.ui_service import ui_service

    result = header("make bench NAME=ui")
    with (
        tempfile.TemporaryDirectory(prefix="eda-ui-") as name,
        ui_service(Path(name) / "home", num_jobs=NUM_JOBS) as service,
        chromium() as browser,
    ):
        result |= {
            "chromium": browser.version,
            "jobs": NUM_JOBS,
            "queue": first_paint(browser, f"{service.url}/ui/jobs"),
        }
        weights, answered, impacts, rules = {}, {}, Counter(dict.fromkeys(IMPACTS, 0)), set()
        for page, path in service.pages.items():
            for look, settings in LOOKS.items():
                weight, answered_ms, found = look_at(browser, service.url, path, settings)
                weights[page] = max(weight, weights.get(page, 0))
                answered[page] = round(min(answered_ms, answered.get(page, answered_ms)), 1)
                impacts.update(each["impact"] for each in found)
                rules |= {f"{each['id']} on {page}, {look}" for each in found}
    result |= {
        "page_weight_bytes": weights,
        "page_answered_ms": answered,
        "axe": {"pages": len(weights), "looks": list(LOOKS), "violations": dict(impacts), "rules": sorted(rules)},
        "goals": {
            "first_contentful_paint_ms": 300,
            "page_answered_ms": 300,
            "page_weight_bytes": 300_000,
            "axe": "none serious or critical",
        },
    }
    path = write_result("ui.json", result)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()

"""The report of a job as one HTML file without any other file, which can be mailed and kept."""

from __future__ import annotations

import json
import time

from markupsafe import Markup
from starlette.responses import Response

from api.auth import Caller
from api.jobs.adaptations import Adaptations
from api.packs.packs import PackService
from api.ui.jobs.job_page import NUM_EVENTS, deployment_in_words, row_of, stages_of, timelines_of
from api.ui.jobs.job_result import result_of
from api.ui.rendering import STATIC, environment

_NUM_EVENTS = 20  # the end of a job is among its last
_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "cache-control": "no-store"}


def report_file(job_id: str, caller: Caller, adaptations: Adaptations, packs: PackService) -> Response:
    """Return the report as a download.

    Raises:
        NotFoundError: The caller has no such job, or the job has no result yet.
    """
    report = adaptations.report(job_id, caller)
    job, records = adaptations.get(job_id, caller), adaptations.records(job_id, caller)
    events, _ = adaptations.newest_events(job_id, caller, before=0, limit=_NUM_EVENTS)
    first, _ = adaptations.events(job_id, caller, after=0, limit=NUM_EVENTS)
    text = (
        environment()
        .get_template("report.html")
        .render(
            row=row_of(job),
            job=job,
            config=job.adapt_config(),
            prompts=adaptations.prompts_in_words(job, caller),
            report=report,
            result=result_of(records, job.adapt_config()),
            came=adaptations.outcome(job),
            told=deployment_in_words(events),
            stages=stages_of(job, records, pack := packs.served(job.result_pack)),
            lines=timelines_of(job, records, pack, first),
            settings=json.dumps(job.config, indent=2),
            style=Markup((STATIC / "style.css").read_text(encoding="utf-8")),
            now=int(time.time()),
        )
    )
    headers = {**_HEADERS, "content-disposition": f'attachment; filename="{job.id}.html"'}
    return Response(text, media_type="text/html", headers=headers)

"""The report of a job as one HTML file that needs nothing else: fit to be mailed, and to be kept."""

from __future__ import annotations

import json
import time

from markupsafe import Markup
from starlette.responses import Response

from api.auth import Caller
from api.services.adaptations import Adaptations
from api.services.packs import Packs
from api.ui.job_page import row_of, stages_of
from api.ui.job_result import result_of
from api.ui.rendering import STATIC, environment

_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "cache-control": "no-store"}


def report_file(job_id: str, caller: Caller, adaptations: Adaptations, packs: Packs) -> Response:
    """The report as a download.

    Raises:
        NotFoundError: No such job of this caller, or it has not come that far.
    """
    report = adaptations.report(job_id, caller)
    job, records = adaptations.get(job_id, caller), adaptations.records(job_id, caller)
    text = (
        environment()
        .get_template("report.html")
        .render(
            row=row_of(job),
            job=job,
            config=job.adapt_config(),
            report=report,
            result=result_of(records),
            stages=stages_of(job, records, packs.served(job.result_pack)),
            settings=json.dumps(job.config, indent=2),
            style=Markup((STATIC / "style.css").read_text(encoding="utf-8")),
            now=int(time.time()),
        )
    )
    headers = {**_HEADERS, "content-disposition": f'attachment; filename="{job.id}.html"'}
    return Response(text, media_type="text/html", headers=headers)

"""Web pages at `/ui`, rendered in this process from the services behind the API; pages load nothing from other hosts.

app.py         the sub-application: routes, static files, security headers, errors as pages
sessions.py    signed cookies and form tokens
access.py      who looks: the key behind a session, its scopes
rendering.py   Jinja2, its filters, and how a page leaves
charts.py      charts as values, drawn as SVG by `templates/_charts.html`
forms.py       small forms as the requests that services take
archive.py     a directory as a tar archive, to download
uploads.py     forms with a file
home_page.py   what the first page shows
serving_charts.py  the charts of deployments and packs
snippets.py    commands and code to copy
api_reference.py  the OpenAPI document, for its pages
streams.py     live parts of pages, as server-sent events
jobs/          what the pages of jobs show: queue, stages, charts, samples, results, the report, and what is asked for
routes/        one module per kind of page
"""

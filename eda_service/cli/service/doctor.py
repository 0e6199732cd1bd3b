"""`eda doctor`: whether this machine and its service have what they need, line by line, with the next step."""

from __future__ import annotations

from typing import Annotated

import typer

from eda_service.cli.console import Exit, HomeOption, JsonOption, UrlOption, err, out, own_home, print_json
from eda_service.cli.service.checks import Check, CheckState, all_checks

_COLOURS = {CheckState.OK: "green", CheckState.WARN: "yellow", CheckState.FAIL: "bold red"}


def doctor(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that `eda up` would use.")] = 8700,
    serve_port: Annotated[int, typer.Option(min=1, max=65535, help="Likewise, of Ray Serve.")] = 8701,
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check versions, ports, disk, GPU, models, the service, Ray and the API key; exit code 1 when something fails."""
    root = (home or own_home()).expanduser().resolve()
    with err.status("looking"):
        found = all_checks(root, url=url, ports=(port, serve_port))
    failed = sum(check.state is CheckState.FAIL for check in found)
    if as_json:
        print_json({"ok": not failed, "checks": [check.as_dict() for check in found]})
    else:
        _show(found)
    if failed:
        raise typer.Exit(Exit.CHECK_FAILED)


def _show(found: list[Check]) -> None:
    width = max(len(check.name) for check in found)
    for check in found:
        colour = _COLOURS[check.state]
        out.print(f"[{colour}]{check.state.value:<4}[/]  {check.name:<{width}}  ", end="")
        out.print(check.found, markup=False)
        if check.next_step:
            out.print(f"{'':{width + 8}}{check.next_step}", markup=False)

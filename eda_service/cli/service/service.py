"""`eda up` and `eda down`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import psutil  # type: ignore[import-untyped]
import typer

from eda_service.cli.console import HomeOption, JsonOption, err, out, own_home, print_json
from eda_service.errors import EdaError, InputError
from eda_service.private_files import keep_private, private_home
from eda_service.raycluster.up_file import read_up

_DOWN_TIMEOUT_S = 90.0
_END_TIMEOUT_S = 5.0


def up(
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API and the OpenAI endpoint.")] = 8700,
    serve_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Ray Serve, behind the API.")] = 8701,
    home: HomeOption = None,
    allow: Annotated[
        list[Path] | None, typer.Option("--allow", help="Another directory whose files requests may name.")
    ] = None,
    node_ip: Annotated[
        str, typer.Option("--node-ip", help="Address at which other machines join with `eda join`; loopback: none can.")
    ] = "127.0.0.1",
    ray_port: Annotated[
        int | None, typer.Option("--ray-port", min=1, max=65535, help="Port they join at; default: a free one.")
    ] = None,
    num_cpus: Annotated[
        int, typer.Option("--num-cpus", min=0, help="Logical CPUs of this node; 0: all work goes to nodes that join.")
    ] = 8,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Start the service (Ray, the API, the endpoint) and keep it running until Ctrl-C or `eda down`."""
    from eda_service.raycluster.supervisor import StoppedError, Supervisor

    keep_private()
    root = (home or own_home()).expanduser().resolve()
    roots = [Path.cwd(), *(_allowed(path) for path in allow or [])]
    log = _log_to_file(root)
    parent = os.getppid() if with_parent else None
    supervisor = Supervisor(
        root,
        host=host,
        port=port,
        serve_port=serve_port,
        local_roots=roots,
        node_ip=node_ip,
        ray_port=ray_port,
        num_cpus=num_cpus,
    )
    try:
        with err.status("starting Ray and the API"):
            supervisor.start()
        up_file = supervisor.up_file
        out.print(f"page              {up_file['api_url']}/ui")
        out.print(f"API and endpoint  {up_file['api_url']}      (jobs: /v1/adaptations, chat: /v1/chat/completions)")
        out.print(f"Ray               {up_file['ray_address']}   dashboard {up_file['dashboard_url']}")
        out.print(f"home              {root}      stop with Ctrl-C or `eda down`")
        out.print(f"logs              {log}, and api.log and ray_head.log beside it")
        env = " ".join(f"{name}={value}" for name, value in up_file["ray_env"].items())
        if up_file["ray_joinable"]:
            out.print(f"more nodes        eda join {up_file['ray_address']} --home {root}")
        out.print(f"by hand           {env} ray job submit -- python -m jobs.adapt --target ...")
        supervisor.run(parent_pid=parent)
    except StoppedError:
        return
    finally:
        supervisor.stop()


def _allowed(path: Path) -> Path:
    """A directory whose files requests may name.

    Raises:
        InputError: There is none: a mistyped one would refuse every request that names a file in the right one.
    """
    directory = path.expanduser().resolve()
    if not os.path.isdir(directory):  # what may not be entered raises in pathlib
        raise InputError(f"--allow {path} is no directory; name one that is there", param="allow")
    return directory


def _log_to_file(home: Path) -> Path:
    """Lines of this process go to a file of the home, warnings of ours to standard error too; returns the file."""
    to_terminal = logging.StreamHandler()
    to_terminal.setLevel(logging.WARNING)
    to_terminal.addFilter(logging.Filter("eda_service"))
    to_terminal.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[to_terminal], force=True)
    path = private_home(home) / "logs" / "up.log"
    path.parent.mkdir(exist_ok=True)
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(to_file)
    logging.captureWarnings(True)
    for name in ("ray", "ray.serve"):  # whose own handlers write to the terminal
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).propagate = True
    for name, level in (("alembic", logging.WARNING), ("httpx", logging.WARNING)):  # one lists its plugins
        logging.getLogger(name).setLevel(level)
    return path


def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop the service of this home; running jobs continue from their last record at the next `eda up`."""
    from eda_service.raycluster.supervisor import is_running

    root = (home or own_home()).expanduser().resolve()
    up_file = read_up(root)
    if up_file is None or not is_running(root):
        _say_down(root, False, as_json)
        return
    os.kill(int(up_file["pid"]), signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_TIMEOUT_S
    with err.status("waiting until everything has ended"):
        while is_running(root):
            if time.monotonic() > deadline:
                raise EdaError(
                    f"the service (pid {up_file['pid']}) still runs after {_DOWN_TIMEOUT_S:.0f} s; look at {root}/logs"
                )
            time.sleep(0.2)
        _wait_gone(int(up_file["pid"]))
    _say_down(root, True, as_json)


def _wait_gone(pid: int) -> None:
    """The supervisor lets go of its home just before its process ends."""
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).wait(_END_TIMEOUT_S)


def _say_down(root: Path, stopped: bool, as_json: bool) -> None:
    if as_json:
        print_json({"home": str(root), "stopped": stopped})
    else:
        out.print(f"stopped the service of {root}" if stopped else f"no service runs for {root}")

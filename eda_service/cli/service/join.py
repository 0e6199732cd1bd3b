"""`eda join`: one more machine for a service that runs elsewhere, in the foreground until Ctrl-C."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from eda_service.cli.console import HomeOption, out
from eda_service.private_files import keep_private
from eda_service.storage.runs.run import home_dir


def join(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="What `eda up --node-ip` prints.")],
    home: HomeOption = None,
    node_ip: Annotated[
        str | None,
        typer.Option("--node-ip", help="This machine's address for the others; default: the one towards HOST."),
    ] = None,
    num_cpus: Annotated[
        int | None, typer.Option("--num-cpus", min=1, help="Logical CPUs to offer; default: 8, or the cores if more.")
    ] = None,
) -> None:
    """Add this machine to a service: its home is on storage that both share, under the same path."""
    from eda_service.raycluster.member import Member
    from eda_service.raycluster.node import own_address_towards

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    keep_private()
    root = (home or home_dir()).expanduser().resolve()
    own = node_ip or own_address_towards(address)
    member = Member(root, address=address, node_ip=own, num_cpus=num_cpus)
    try:
        member.start()
        out.print(f"{own} joins {address}; stop with Ctrl-C")
        member.run()
    finally:
        member.stop()

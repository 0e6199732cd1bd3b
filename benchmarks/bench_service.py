"""A test bed: a running service of SmolLM2 with its committed packs, as a user has it (`eda up`, deployments), without
importing code of the replica.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file

from benchmarks.workloads import DOMAINS, PACKS_BASE_DRAFT, ROOT, Domain
from eda_service.client import Client
from eda_service.config.job import TargetSpec
from eda_service.raycluster.processes import marked
from eda_service.records import TargetFingerprint
from eda_service.targets.files.resolve import shipped_targets
from eda_service.targets.loader import load_target

BASE = "smollm2-135m-instruct"
_READY_S = 600.0


@dataclass(frozen=True)
class BenchService:
    """A running service for measurements.

    Attributes:
        url: Address of its API, without `/v1`.
        home: Root of its state.
    """

    url: str
    home: Path

    def deploy(self, name: str, **settings: Any) -> None:
        """Create a deployment and wait until it answers."""
        with Client(self.url) as client:
            client.deployments.create({"name": name, "confirm": True, **settings})
            client.deployments.wait_ready(name, timeout_s=_READY_S)

    def remove(self, name: str) -> None:
        """Delete a deployment."""
        with Client(self.url) as client:
            client.deployments.delete(name)

    def processes(self) -> list[psutil.Process]:
        """List every live process of the service."""
        up = json.loads((self.home / "up.json").read_text(encoding="utf-8"))
        return list({each.pid: each for mark in up["marks"] for each in marked(mark)}.values())

    def switch(self, name: str, pack: str | None) -> None:
        """Give a deployment another pack and wait until new requests use it."""
        with Client(self.url) as client:
            client.deployments.update(name, pack=pack, force=True)
            client.deployments.wait_ready(name, timeout_s=_READY_S)


@contextmanager
def smollm2_service(
    domains: Sequence[Domain] = DOMAINS, settings: Mapping[str, Any] | None = None
) -> Iterator[BenchService]:
    """Run `eda up` over a home of its own with the committed packs published.

    Args:
        domains: Domains whose packs are published.
        settings: Fields of the AdaptConfig that the packs' manifests name.
    """
    from tests.integration.running import Service
    from tests.pack_files import put_pack

    with tempfile.TemporaryDirectory(prefix="eda-bed-") as name:
        home = Path(name) / "home"
        home.mkdir()
        for domain in domains:
            put_pack(
                home,
                domain.target,
                acceptance_length(domain),
                files=domain.pack_dir,
                target=fingerprint(domain),
                base_draft=PACKS_BASE_DRAFT,
                **(settings or {}),
            )
        with Service(home, {}, allow=ROOT) as service:
            yield BenchService(str(service.up_file["api_url"]), home)


def put_fourth(home: Path) -> Path:
    """Make a fourth variant: the first domain's adapter with every update scaled by 0.9, and its pack, published as
    `fourth@1`; return the adapter's directory.
    """
    from tests.pack_files import put_pack

    domain = DOMAINS[0]
    directory = home / "fourth"
    shutil.copytree(shipped_targets() / domain.target, directory)
    weights = load_file(directory / "adapter_model.safetensors")
    scaled = {name: tensor * 0.9 if ".lora_B." in name else tensor for name, tensor in weights.items()}
    save_file(scaled, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    made = load_target(TargetSpec(model=BASE, adapter=str(directory))).fingerprint
    length = acceptance_length(domain)
    put_pack(home, "fourth", length, files=domain.pack_dir, target=made, base_draft=PACKS_BASE_DRAFT)
    return directory


def fingerprint(domain: Domain) -> TargetFingerprint:
    """Make the fingerprint of a domain's tuned target."""
    return load_target(TargetSpec(model=domain.target)).fingerprint


def acceptance_length(domain: Domain) -> float:
    """Return the acceptance length that the committed pack measured at T=0; 1 for a pack without a measurement."""
    path = domain.pack_dir / "evaluate.json"
    if domain.pack is not None and not path.exists():
        return 1.0
    record = json.loads(path.read_text(encoding="utf-8"))
    measured = {(row["draft"], row["temperature"]): row["acceptance_length"] for row in record["acceptance"]}
    return float(measured["adapted_draft", 0.0])

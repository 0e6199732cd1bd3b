"""Grade-school math prompts from the package registry: the `gsm_symbolic` generators of reasoning-gym (Apache-2.0).

The generators fill 85 templates with fresh names and numbers, which gives any number of prompts without a data set. The
templates were made from GSM8K *test* rows: do not evaluate on GSM8K a draft that was trained on these.

Only the two generator modules are loaded. Importing the whole package would need a dozen puzzle libraries, so its
parent packages are registered empty and their `__init__` never runs.
"""

from __future__ import annotations

import importlib
import random
import sys
import tempfile
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eda_service.errors import DatasetInvalidError
from eda_service.storage.files import publish_dir
from eda_service.targets.embedded import download_wheel, model_cache

PACKAGE, VERSION = "reasoning-gym", "0.1.25"
SHA256 = "7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435"
NUM_TEMPLATES = 100
# Templates whose numbers are inconsistent, as listed by the package itself (`tasks_need_fix`).
_BROKEN = frozenset({32, 35, 37, 61, 63, 65, 74, 76, 77, 79, 86, 87, 90, 97, 98})
_PARENTS = ("reasoning_gym", "reasoning_gym.arithmetic", "reasoning_gym.arithmetic.gsm_symbolic")


def questions(templates: range, *, seed: int) -> Iterator[str]:
    """Generate endless questions, template by template, with numbers drawn from the seed.

    Args:
        templates: Range of template numbers within 0..99; broken templates are left out.
        seed: Seed of all draws.

    Raises:
        DatasetInvalidError: The range holds only broken templates.
    """
    usable = usable_templates(templates)
    generators = _generators()
    rng = random.Random(seed)
    while True:
        rng.shuffle(usable)
        for index in usable:
            yield str(generators[index](rng, 1.0)["question"])


def usable_templates(templates: range, *, param: str = "dataset.source") -> list[int]:
    """Return the templates of a range that work.

    Raises:
        DatasetInvalidError: The range holds no working template.
    """
    usable = [index for index in templates if index not in _BROKEN]
    if not usable:
        raise DatasetInvalidError(
            f"templates {templates.start}-{templates.stop - 1} are all among those that the package lists as broken; "
            "name a wider range",
            param=param,
        )
    return usable


def _generators() -> dict[int, Callable[[random.Random, float], dict[str, Any]]]:
    root = _unpacked()
    for name in _PARENTS:
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")))]
            sys.modules[name] = package
    found: dict[int, Callable[[random.Random, float], dict[str, Any]]] = {}
    for part in ("generators_00_49", "generators_50_99"):
        module = importlib.import_module(f"{_PARENTS[-1]}.{part}")
        for name, value in vars(module).items():
            if name.startswith("generate_"):
                found[int(name.removeprefix("generate_"))] = value
    return found


def _unpacked() -> Path:
    """Return the directory of the wheel's files in the cache; the first call downloads the wheel and
    checks its hash.
    """
    destination = model_cache() / "packages" / f"{PACKAGE}-{VERSION}"
    if destination.is_dir():
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=destination.parent))
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download_wheel(PACKAGE, VERSION, SHA256, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            members = [n for n in archive.namelist() if "gsm_symbolic" in n or n == "reasoning_gym/utils.py"]
            archive.extractall(staging, members)
    publish_dir(staging, destination)
    return destination

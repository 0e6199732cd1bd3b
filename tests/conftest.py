"""Shared fixtures: tiny random targets of four families with a real byte-level BPE tokenizer, drafts, and a home.

Everything is built once per session under pytest's temporary directory and loaded through the project's own loaders, so
a test sees what production code sees, only smaller: hidden size 32, two layers, grouped-query attention, 112 tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import shortcuts
from huggingface_hub import constants
from postgres import Postgres, PostgresUnavailableError
from s3_server import S3Server, S3UnavailableError

if TYPE_CHECKING:  # torch and transformers take seconds, and pytest-xdist's own process needs neither
    from transformers import PreTrainedModel

    from eda_service.drafts.draft import Draft
    from eda_service.drafts.head import DraftHead
    from eda_service.targets.loader import Target

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # for child processes: no test asks a public hub
constants.HF_HUB_OFFLINE = True  # for this one, where it was read at import
shortcuts.install()

TargetFactory = Callable[[str], "Target"]


def pytest_collection_finish() -> None:
    """Every module is imported by now."""
    import torch

    torch.set_num_threads(1)  # for fixtures of a session too
    shortcuts.keep_out_of_collections()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever code under test has set before: sums in float32 depend on the number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """Undo what code under test has set: entry points of jobs keep files from others, for the rest of their process."""
    umask = os.umask(0)
    os.umask(umask)
    yield
    os.umask(umask)


@pytest.fixture(scope="session")
def target_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family name to the directory of its tiny model."""
    from tiny_models import write_target

    @cache
    def build(family: str) -> Path:
        return write_target(tmp_path_factory.mktemp(f"target-{family}"), family)

    return build


@pytest.fixture(scope="session")
def make_target(target_dir: Callable[[str], Path]) -> TargetFactory:
    """Family name to its tiny target, loaded in float32 through `load_target`."""
    from eda_service.config.job import TargetSpec
    from eda_service.targets.loader import load_target

    @cache
    def load(family: str) -> Target:
        return load_target(TargetSpec(model=str(target_dir(family)), dtype="float32"))

    return load


@pytest.fixture(scope="session")
def tiny_target(make_target: TargetFactory) -> Target:
    """The tiny Llama."""
    return make_target("llama")


@pytest.fixture(scope="session")
def make_fitted_draft(make_target: TargetFactory) -> Callable[[str], Draft]:
    """Family name to a draft that accepts some tokens; do not change it."""
    from tiny_models import fit_draft

    return cache(lambda family: fit_draft(make_target(family)))


@pytest.fixture(scope="session")
def reference_model(target_dir: Callable[[str], Path]) -> Callable[[str], PreTrainedModel]:
    """Family name to the same tiny model as transformers alone runs it, with eager attention: an oracle."""
    import torch
    from transformers import AutoModelForCausalLM

    @cache
    def load(family: str) -> PreTrainedModel:
        path = target_dir(family)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
        return model.requires_grad_(False).eval()

    return load


@pytest.fixture(scope="session")
def new_draft() -> Callable[..., Draft]:
    """`random_draft`: a draft for a target with random weights, of its own."""
    from tiny_models import random_draft

    return random_draft


@pytest.fixture(scope="session")
def new_target_dir() -> Callable[..., Path]:
    """`write_target`: a model directory of its own, to be spoilt by a test."""
    from tiny_models import write_target

    return write_target


@pytest.fixture(scope="session")
def publish_draft() -> Callable[..., Path]:
    """`register_draft`: puts a draft into a home's registry."""
    from tiny_models import register_draft

    return register_draft


@pytest.fixture
def tiny_draft(tiny_target: Target) -> Draft:
    """A fresh random draft for the tiny Llama."""
    from tiny_models import random_draft

    return random_draft(tiny_target)


@pytest.fixture
def full_head(tiny_target: Target) -> DraftHead:
    """The tiny Llama's head, all rows."""
    from eda_service.drafts.head import DraftHead

    return DraftHead(tiny_target.lm_head, None)


@pytest.fixture
def database_as_served() -> Iterator[None]:
    """Databases are opened as the service opens them, flushed and revised."""
    with shortcuts.none_of_the_database():
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for this session; without one the test is skipped and says why."""
    try:
        server = Postgres()
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server for this session; without one the test is skipped and says why."""
    try:
        server = S3Server()
    except S3UnavailableError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty EDA_HOME."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.setenv("EDA_HOME", str(directory))
    return directory


@pytest.fixture
def base_draft_dir(home: Path, tiny_target: Target, make_fitted_draft: Callable[[str], Draft]) -> Path:
    """`<home>/drafts/tiny/1`: the fitted draft with its manifest."""
    from tiny_models import register_draft

    return register_draft(home, make_fitted_draft("llama"), tiny_target)

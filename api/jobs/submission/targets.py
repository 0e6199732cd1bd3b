"""A job's target and data sets at submit: are they there, on this machine or on the hub, and what sizes do they say.

Nothing is downloaded and no weights are read: of the hub its list of files and `config.json`; of files on this machine
the headers, held against what the model needs (`eda_service.targets.checks.checker`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eda_service.config.job import AdaptConfig, DatasetSpec, EngineKind, TargetSpec
from eda_service.config.tasks import ExportConfig, ImportConfig, MeasureConfig
from eda_service.drafts.source import is_pickled_draft
from eda_service.errors import (
    DatasetInvalidError,
    DraftSourceMissingError,
    InputError,
    TargetIncompatibleError,
    TargetNotFoundError,
    UnsafeCheckpointError,
)
from eda_service.ids import is_file_id
from eda_service.names import did_you_mean, is_model_id
from eda_service.planning.shapes import EMBEDDED_SHAPES
from eda_service.selfgen.tasks import PREFIX, TASKS, templates_of
from eda_service.targets.checks.checker import CHECKER
from eda_service.targets.checks.weight_files import require_unwrapped, weight_headers
from eda_service.targets.embedded import EMBEDDED, model_cache
from eda_service.targets.files.hub import (
    HubAwayError,
    HubRepository,
    Kind,
    ModelHub,
    cached_adapter,
    cached_model,
    cached_snapshot,
)
from eda_service.targets.files.resolve import is_ours, known_targets, resolve_target, shipped_base
from eda_service.targets.files.shape import ModelShape, shape_of_config, shape_of_target

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_PARAMS = {"target.model": "model", "target.adapter": "adapter"}


@dataclass
class Found:
    """What is known of a job's target and data.

    Attributes:
        shape: Of the target, where its files are here or its sizes are published.
        sizes: Its hidden_size and vocab_size, those that are known.
        unasked: What could not be asked, one sentence each: the hub did not answer.
        notes: What a user of the target must know, one sentence each.
    """

    shape: ModelShape | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    unasked: list[InputError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Targets:
    """Looks things up.

    Args:
        hub: The model hub.
        mode: `skip` leaves the hub alone.
    """

    def __init__(self, hub: ModelHub, mode: Literal["ask", "skip"]) -> None:
        self._hub, self._mode = hub, mode

    def look(self, config: AdaptConfig) -> Found:
        """Look for everything that a config names.

        Raises:
            InputError: A subclass that says which field is at fault.
        """
        found = Found()
        self._look_at_target(config.target, found)
        self._look_at_dataset(config.dataset, "dataset.source", found)
        if config.eval_dataset is not None:
            self._look_at_dataset(config.eval_dataset, "eval_dataset.source", found)
        return found

    def look_for_import(self, config: ImportConfig) -> Found:
        """Look for what an import names: the draft, and of its base target what is read without weights.

        Raises:
            InputError: A subclass that says which field is at fault.
        """
        found, spec = Found(), config.target
        if not is_ours(spec.model) and is_model_id(spec.model) and cached_snapshot("model", spec.model) is None:
            _require_owner(spec.model)
            there = self._ask("model", spec.model, spec.revision, "model", found)
            if there is not None and "config.json" not in there.files:
                raise TargetNotFoundError(f"the hub's {spec.model} has no config.json; name a model", param="model")
        if is_model_id(config.source) and cached_snapshot("model", config.source, config.revision) is None:
            there = self._ask("model", config.source, config.revision, "source", found)
            if there is not None:
                _require_draft(config.source, there)
        return found

    def look_for_measure(self, config: MeasureConfig) -> Found:
        """Look for what a measurement names.

        Raises:
            InputError: A subclass that says which field is at fault.
        """
        found = Found()
        if config.base_target is not None:
            self._look_at_target(config.base_target, found)
        self._look_at_target(config.target, found)
        self._look_at_dataset(config.dataset, "dataset.source", found)
        return found

    def look_for_export(self, config: ExportConfig) -> Found:
        """Look for the target of a pack that is exported.

        Raises:
            InputError: A subclass that says which field is at fault.
        """
        found = Found()
        self._look_at_target(config.target, found)
        return found

    def _look_at_target(self, spec: TargetSpec, found: Found) -> None:
        base = shipped_base(spec.model)
        known = base or spec.model
        if known in EMBEDDED:
            _refuse_beside(spec, "revision", "has one")
            if base is not None and spec.adapter is not None:
                raise InputError(
                    f"{spec.model} is {base} with an adapter of its own, and {spec.adapter[:96]} would be left out; "
                    f"set model to {base}",
                    param="adapter",
                )
            self._known_shape(EMBEDDED_SHAPES.get(known), found)
            directory = model_cache() / "models" / known
            here = directory if (directory / "SOURCE.json").is_file() else None
        elif is_model_id(spec.model):
            here = self._hub_model(spec, found)
        else:
            _refuse_beside(spec, "revision", "of a directory there is one")
            here = Path(spec.model)
        adapter = None if spec.adapter is None else self._adapter(spec.adapter, found)
        if here is not None:
            self._read(here, adapter, found, is_ours=known in EMBEDDED, engine=spec.engine)

    def check_deployed(self, spec: TargetSpec, engine: EngineKind) -> None:
        """Check a deployment's target as far as its files are on this machine.

        Args:
            spec: Its names.
            engine: What will serve it; vLLM knows families and formats that the engine of this project does not.

        Raises:
            InputError: A subclass that says which field is at fault.
        """
        if is_ours(spec.model):
            return
        here = cached_model(spec.model, spec.revision) if is_model_id(spec.model) else Path(spec.model)
        adapter = None if spec.adapter is None else Path(spec.adapter)
        if spec.adapter is not None and is_model_id(spec.adapter):
            adapter = cached_adapter(spec.adapter)
        if here is None:
            _require_owner(spec.model)
            return
        with _naming_fields():
            resolved = resolve_target(_local(here, adapter))
            if engine is EngineKind.VLLM:
                require_unwrapped(resolved.model_dir, weight_headers(resolved.model_dir))
            else:
                CHECKER.check(replace(resolved, model=spec.model), converses=False)

    def _read(
        self, here: Path, adapter: Path | None, found: Found, *, is_ours: bool, engine: EngineKind | None
    ) -> None:
        """Files on this machine: what they are, whether they make a whole model, and the adapter is one of it."""
        with _naming_fields():
            resolved = resolve_target(_local(here, adapter))
            if not is_ours:
                found.notes += CHECKER.check(resolved, converses=True, engine=engine or EngineKind.EDA)
            self._known_shape(shape_of_target(TargetSpec(model=str(here))), found)

    def _known_shape(self, shape: ModelShape | None, found: Found) -> None:
        if shape is not None:
            found.shape = shape
            found.sizes = {"hidden_size": shape.hidden_size, "vocab_size": shape.vocab_size}

    def _hub_model(self, spec: TargetSpec, found: Found) -> Path | None:
        """A model by its id: its directory in the cache; None where it is on the hub, or cannot be looked for."""
        here = cached_model(spec.model, spec.revision)
        if here is not None:
            return here
        _require_owner(spec.model)
        there = self._ask("model", spec.model, spec.revision, "model", found)
        if there is not None:
            _require_weights(spec.model, there, "config.json", "model")
            found.sizes = _sizes(spec.model, there.config)
            with suppress(ValueError):
                found.shape = shape_of_config(there.config or {})
        return None

    def _adapter(self, name: str, found: Found) -> Path | None:
        if not is_model_id(name):
            return Path(name)
        here = cached_adapter(name)
        if here is not None:
            return here
        there = self._ask("model", name, None, "adapter", found)
        if there is not None:
            _require_weights(name, there, "adapter_config.json", "adapter")
        return None

    def _look_at_dataset(self, spec: DatasetSpec, param: str, found: Found) -> None:
        source = spec.source
        if is_file_id(source):
            return
        if source != "self" and is_model_id(source) and cached_snapshot("dataset", source) is None:
            self._ask("dataset", source, None, param, found)

    def _ask(self, kind: Kind, name: str, revision: str | None, param: str, found: Found) -> HubRepository | None:
        """The hub's answer; None where it is not asked or does not answer.

        Raises:
            TargetNotFoundError, DatasetInvalidError: The hub says that there is no such thing, or that it is closed.
        """
        if self._mode == "skip":
            return None
        error_of: type[InputError] = DatasetInvalidError if kind == "dataset" else TargetNotFoundError
        if param == "source":
            error_of = DraftSourceMissingError
        try:
            there = self._hub.look_up(kind, name, revision)
        except HubAwayError as error:
            found.unasked.append(
                error_of(
                    f"{name[:128]!r} is not on this machine, and the model hub cannot be asked whether it has it: "
                    f"{error.message}; check the name and the network, or set `force` to queue it all the same",
                    param=param,
                )
            )
            return None
        if there.problem is not None:
            is_revision = revision is not None and "no revision" in there.problem
            raise error_of(
                f"{there.problem}{_meant(kind, name)}; check the name, or give the service a token that may read it",
                param="revision" if is_revision else param,
            )
        return there


def _require_owner(model: str) -> None:
    """Refuse a name without an owner that nothing here has: the hub's models are written owner/name."""
    if "/" not in model:
        known = known_targets()
        raise TargetNotFoundError(
            f"no target {model[:96]!r} is shipped, embedded or in the hub's cache here{did_you_mean(model, known)}; "
            f"there are {', '.join(known)}; a model of the hub is written owner/name, a directory by its absolute path",
            param="model",
        )


def check_tasks(config: AdaptConfig) -> None:
    """Check the task generators that a config names as data.

    Raises:
        DatasetInvalidError: No such task, or no such part of it.
    """
    for param, spec in (("dataset.source", config.dataset), ("eval_dataset.source", config.eval_dataset)):
        if spec is not None and spec.source.lower().startswith(PREFIX):
            templates_of(spec.source, param=param)


def _meant(kind: Kind, name: str) -> str:
    if kind == "dataset":
        return did_you_mean(name, ("self", *(PREFIX + task for task in TASKS)))
    return did_you_mean(name.rpartition("/")[2], known_targets())


def _refuse_beside(spec: TargetSpec, name: Literal["revision"], why: str) -> None:
    value = getattr(spec, name)
    if value is not None:
        raise InputError(
            f"{name} is {value[:64]!r}, but only models of the hub have revisions ({spec.model[:96]} {why}); leave it "
            "out",
            param=name,
        )


def _require_weights(name: str, there: HubRepository, marker: str, param: str) -> None:
    if marker not in there.files:
        what = "model" if param == "model" else "adapter"
        raise TargetNotFoundError(f"the hub's {name} has no {marker}, so it is no {what}; name another", param=param)
    if any(file.endswith(".safetensors") for file in there.files):
        return
    if any(file.endswith(_PICKLED) for file in there.files):
        raise UnsafeCheckpointError(
            f"the hub's {name} holds only pickled weights, which can run code when read; name a repository with "
            "safetensors",
            param=param,
        )
    raise TargetNotFoundError(f"the hub's {name} has no *.safetensors; name one that has weights", param=param)


def _require_draft(name: str, there: HubRepository) -> None:
    if "config.json" not in there.files:
        raise DraftSourceMissingError(f"the hub's {name} has no config.json; name a draft", param="source")
    if not any(file.endswith(".safetensors") or is_pickled_draft(file) for file in there.files):
        raise DraftSourceMissingError(
            f"the hub's {name} has neither *.safetensors nor pytorch_model.bin; name one that has weights",
            param="source",
        )


def _sizes(name: str, config: Mapping[str, Any] | None) -> dict[str, int]:
    """hidden_size and vocab_size of a config from the hub, as far as it says them.

    Raises:
        TargetIncompatibleError: It is no decoder-only model.
    """
    if config is None:
        return {}
    architectures = config.get("architectures") or []
    if isinstance(architectures, list) and architectures:
        shown = [str(each)[:64] for each in architectures[:4]]
        if not any(each.endswith("ForCausalLM") for each in shown):
            raise TargetIncompatibleError(
                f"the hub's {name} holds {', '.join(shown)}; a decoder-only ...ForCausalLM model is needed",
                param="model",
            )
    found = {size: config.get(size) for size in ("hidden_size", "vocab_size")}
    return {size: value for size, value in found.items() if type(value) is int}


def _local(here: Path, adapter: Path | None) -> TargetSpec:
    return TargetSpec(model=str(here), adapter=None if adapter is None else str(adapter))


@contextmanager
def _naming_fields() -> Iterator[None]:
    """Name the request's field where the library names that of a job's config."""
    try:
        yield
    except InputError as error:
        raise type(error)(error.message, param=_PARAMS.get(error.param or "", error.param)) from error

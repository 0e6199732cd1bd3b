"""The kinds of jobs: an adaptation, an import of a draft, a measurement of one, or an export of a pack.

One queue holds all kinds. A kind is one config here, found by `kind`; a stored config without `kind` is an
adaptation's, so that rows and run directories of earlier versions load, and adaptations are written without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, TypeAdapter, field_validator, model_validator

from eda_service.config.base import Config, Name
from eda_service.config.export_forms import Destination, ExportForm
from eda_service.config.job import AdaptConfig, DatasetSpec, TargetSpec, Temperature
from eda_service.names import as_name


class JobKind(StrEnum):
    """The kind of a job, which decides its entry point."""

    ADAPT = "adapt"
    IMPORT_DRAFT = "import_draft"
    MEASURE = "measure"
    EXPORT = "export"


ID_PREFIXES: dict[JobKind, str] = {
    JobKind.ADAPT: "adapt",
    JobKind.IMPORT_DRAFT: "import",
    JobKind.MEASURE: "measure",
    JobKind.EXPORT: "export",
}
"""Prefix of a queued job's id, by kind."""

MAX_CHECK_PROMPTS = 128
"""Largest number of prompts of a check: the general prompts that the package ships."""
_USUAL_PROMPTS, _MAX_PROMPTS = 32, 100_000

DraftName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
DialectName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,63}$")]
FieldValue = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class TaskConfig(Config):
    """The fields that imports, measurements and exports share: one target, used by one process."""

    target: TargetSpec = Field(description="the model that the draft is for")
    use_gpu: bool = Field(False, description="reserve a GPU; no: on the CPU")
    threads: int = Field(2, ge=1, le=256, description="CPU threads")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="root of every random stream of the job")


class ImportConfig(TaskConfig):
    """The import of a draft that was made elsewhere: read in its dialect, checked, registered as name@version."""

    kind: Literal["import_draft"] = "import_draft"
    source: str = Field(min_length=1, max_length=512, description="directory, or Hugging Face id")
    revision: str | None = Field(None, max_length=128, description="of the source on the hub: branch, tag or commit")
    name: Name | None = Field(None, description="to register it under; default: the source's last part")
    overrides: dict[FieldName, FieldValue] = Field(
        {}, max_length=32, description="fields of the draft's shape that are set by hand, as text"
    )
    check: bool = Field(True, description="measure it over answers of the target before it is registered")
    num_check_prompts: int = Field(
        20,
        ge=1,
        le=MAX_CHECK_PROMPTS,
        description="answers of the check; so many general prompts come with the package",
    )

    @property
    def draft_name(self) -> str:
        """The name under which the draft is registered."""
        return self.name or as_name(self.source.rstrip("/").rsplit("/", 1)[-1])


class MeasureConfig(TaskConfig):
    """The measurement of a draft, or a draft with a pack, on a target and prompts."""

    kind: Literal["measure"] = "measure"
    draft: DraftName = Field(description="name@version of a registered draft")
    pack: DraftName | None = Field(None, description="name@version of a pack over it; None: the draft alone")
    dataset: DatasetSpec = DatasetSpec(num_prompts=_USUAL_PROMPTS)
    max_new_tokens: int = Field(96, ge=8, le=32_768, description="answer cap in tokens")
    num_draft_tokens: int = Field(5, ge=1, le=64, description="chain length")
    temperatures: tuple[Temperature, ...] = Field((0.0, 1.0), min_length=1, max_length=8, description="T of each row")
    base_target: TargetSpec | None = Field(
        None, description="the draft's own target, to say what was lost on the way to this one; None: not measured"
    )
    check: bool = Field(
        False, description="make the check of an import instead: agreement by position, and likely misreadings"
    )

    @property
    def num_prompts(self) -> int:
        """Number of prompts that are answered."""
        return self.dataset.num_prompts

    @field_validator("dataset", mode="before")
    @classmethod
    def _usual_number(cls, value: Any) -> Any:
        """Set the default number of prompts, which is smaller for a measurement than for an adaptation."""
        if isinstance(value, DatasetSpec) and "num_prompts" not in value.model_fields_set:
            return value.model_copy(update={"num_prompts": _USUAL_PROMPTS})
        return {"num_prompts": _USUAL_PROMPTS, **value} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _as_many_as_can_be(self) -> MeasureConfig:
        most = MAX_CHECK_PROMPTS if self.check else _MAX_PROMPTS
        if self.num_prompts > most:
            what = "a check asks" if self.check else "a measurement asks"
            raise ValueError(f"dataset.num_prompts is {self.num_prompts}, {what} at most {most}; lower it")
        return self

    @model_validator(mode="after")
    def _one_each(self) -> MeasureConfig:
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures {list(self.temperatures)} names one twice; leave it out once")
        return self


class ExportConfig(TaskConfig):
    """Write a pack as a checkpoint that another engine loads, to be downloaded."""

    kind: Literal["export"] = "export"
    pack: DraftName = Field(description="name@version")
    to: Destination = Field(description="who will load it")
    form: ExportForm = Field(ExportForm.PLUGIN, description="plugin keeps the gate, dense is for unmodified engines")
    dialect: DialectName | None = Field(
        None, description="how an EAGLE-3 draft is written; None: as it came, or one that the engine reads"
    )
    num_prompts: int = Field(
        64, ge=8, le=MAX_CHECK_PROMPTS, description="general prompts on which a dense form is calibrated and measured"
    )
    num_draft_tokens: int = Field(3, ge=1, le=16, description="K of the chains")

    @property
    def archive_name(self) -> str:
        """Return the name of the directory in the archive: `math-3-vllm-plugin`."""
        return f"{self.pack.replace('@', '-')}-{self.to}-{self.form}"

    @field_validator("use_gpu")
    @classmethod
    def _on_a_cpu(cls, value: bool) -> bool:
        if value:
            raise ValueError("use_gpu is true, and an export computes on the CPU; leave it out")
        return value


Task = AdaptConfig | ImportConfig | MeasureConfig | ExportConfig

_CONFIGS: dict[JobKind, type[Task]] = {
    JobKind.ADAPT: AdaptConfig,
    JobKind.IMPORT_DRAFT: ImportConfig,
    JobKind.MEASURE: MeasureConfig,
    JobKind.EXPORT: ExportConfig,
}


def kind_of(task: Task) -> JobKind:
    """Return the kind of a job from its config."""
    return JobKind.ADAPT if isinstance(task, AdaptConfig) else JobKind(task.kind)


def draft_named_by(task: Task) -> str | None:
    """Return the base draft that a job needs, as its config names it; None for a job that names none."""
    if isinstance(task, ImportConfig | ExportConfig):
        return None  # an export's pack names it, and a draft with packs stays
    return task.base_draft if isinstance(task, AdaptConfig) else task.draft


def _of_its_kind(value: Any) -> Any:
    """Turn a stored config into the class that its kind names."""
    if not isinstance(value, Mapping):
        if isinstance(value, Task):
            return value
        raise ValueError("a job's config is an object")
    kind = value.get("kind", JobKind.ADAPT.value)
    if not isinstance(kind, str) or kind not in set(JobKind):
        raise ValueError(f"kind {str(kind)[:32]!r} is none of {', '.join(JobKind)}")
    return _CONFIGS[JobKind(kind)].model_validate(value)


AnyTask = Annotated[Task, BeforeValidator(_of_its_kind)]
"""A config of any kind of job, as the type of a field."""

_STORED: TypeAdapter[Task] = TypeAdapter(AnyTask)


def parse_task(stored: Mapping[str, Any]) -> Task:
    """Parse a stored config.

    Raises:
        ValueError: The value is no config, or is of a kind that this version does not know.
    """
    return _STORED.validate_python(stored)

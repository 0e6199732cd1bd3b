"""Every error this project raises on purpose, as one tree.

A message states the value found, the limit it broke and the next step. `code` is the stable snake_case word that job
records and HTTP bodies carry (service contract, "Jobs"); `param` names the offending field; `retryable` says whether
the same job may succeed on another attempt without anybody changing anything.
"""

from __future__ import annotations


class EdaError(Exception):
    """Root of the tree.

    Args:
        message: The value found, the limit it broke and the next step.
        param: Dotted name of the field at fault, when there is one.
    """

    code = "internal"
    retryable = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def __reduce__(self) -> tuple[object, ...]:
        """Keep `param` across process borders (Ray pickles exceptions)."""
        return (_rebuild, (type(self), self.message, self.param))


def _rebuild(kind: type[EdaError], message: str, param: str | None) -> EdaError:
    return kind(message, param=param)


def reason_of(error: BaseException) -> str:
    """Return type and message of an error that a library raised, on one line of at most 300 characters."""
    words = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


class InputError(EdaError):
    """The request is wrong; the same request will fail again."""

    code = "invalid_request"


class TargetNotFoundError(InputError):
    """No such model id, revision, directory or adapter exists."""

    code = "target_not_found"


class TargetIncompatibleError(InputError):
    """The target cannot work with this base draft, or is not a supported decoder-only model."""

    code = "target_incompatible"


class AdapterUnstackableError(TargetIncompatibleError):
    """The adapter cannot be used beside others over one base; merged into a base of its own it can."""

    code = "adapter_unstackable"


class BaseDraftMissingError(InputError):
    """No base draft of that name and version exists."""

    code = "base_draft_missing"


class DraftIncompatibleError(InputError):
    """A draft's files cannot be computed here, contradict themselves, or are for another target."""

    code = "draft_incompatible"


class DraftSourceMissingError(InputError):
    """No directory or hub id of that name exists to import a draft from."""

    code = "draft_source_not_found"


class DatasetInvalidError(InputError):
    """The prompt set is empty, malformed, or yields no answer token."""

    code = "dataset_invalid"


class DiskShortfallError(InputError):
    """The job would write more than its disk has free; raised at submit, where the user can override it."""

    code = "insufficient_storage"


class ClusterShortfallError(InputError):
    """The job asks for more at a time than the whole cluster has; raised at submit, where the user can override it."""

    code = "unschedulable"


class UnsafeCheckpointError(InputError):
    """Reading the checkpoint could run code, or read files that do not belong to it."""

    code = "target_incompatible"


class UnsafeDraftError(UnsafeCheckpointError):
    """The files of a draft hold more than tensors, or a header that does not describe them."""

    code = "draft_incompatible"


class EngineMissingError(InputError):
    """The engine that was asked for is not installed where it would have to run."""

    code = "unschedulable"


class RequestError(InputError):
    """One decoding request cannot be served (too long, bad parameter); others go on."""

    code = "invalid_request"


class ContextLengthError(RequestError):
    """Prompt and answer need more tokens than the target's context holds."""

    code = "context_length_exceeded"


class UnsupportedParameterError(RequestError):
    """A parameter or a value of a parameter is not supported by this endpoint."""

    code = "unsupported_parameter"


class NotFoundError(InputError):
    """No such job, pack or served model exists for this caller."""

    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """No model of that name is served for this caller."""

    code = "model_not_found"


class ConflictError(InputError):
    """The object is in a state that does not allow this move."""

    code = "conflict"


class LeaseLostError(ConflictError):
    """Another dispatcher has taken this job's lease; the dispatcher that held it before must not touch the job any
    more.
    """

    code = "lease_lost"


class NameTakenError(ConflictError):
    """Something else is deployed under that name."""

    code = "name_taken"


class SlowsOthersError(ConflictError):
    """A new deployment would slow down an existing one, and nobody has confirmed that."""

    code = "slows_others"


class StaleDeploymentError(ConflictError):
    """A deployment was changed after the caller had read it."""

    code = "conflict"


class WorsePackError(ConflictError):
    """A pack has a lower measured acceptance than the pack that it would replace."""

    code = "acceptance_regression"


class PackNotComparedError(ConflictError):
    """No measurement contains both a pack and the pack that it would replace."""

    code = "pack_not_compared"


class ResourceError(EdaError):
    """The machine or cluster lacks something the job needs."""


class InsufficientStorageError(ResourceError):
    """The store has less free space than the job states it needs."""

    code = "insufficient_storage"


class StorageError(ResourceError):
    """The storage that EDA_STORAGE names does not answer or refuses the request."""

    code = "storage_unreachable"
    retryable = True


class OverloadedError(ResourceError):
    """The endpoint already runs and queues as many requests as it may."""

    code = "overloaded"
    retryable = True


class QuotaExceededError(ResourceError):
    """The owner has as many queued jobs, or deployments, as allowed."""

    code = "quota_exceeded"
    retryable = True


class OutOfMemoryError(ResourceError):
    """A worker ran out of host or device memory."""

    code = "out_of_memory"


class RunError(EdaError):
    """A stage started and could not finish."""


class NonFiniteLossError(RunError):
    """The training loss became NaN or infinite."""

    code = "non_finite_loss"


class AcceptanceRegressionError(RunError):
    """The adapted draft accepts fewer tokens than the base draft."""

    code = "acceptance_regression"


class NotWorthItError(RunError):
    """An adaptation could gain less than `min_gain` asks for: its draft loses too little on the tuned target."""

    code = "not_worth_it"


class ArtifactCorruptError(RunError):
    """A file's sha256, shape or schema differs from its record."""

    code = "artifact_corrupt"


class DeadlineExceededError(RunError):
    """A stage ran past its deadline."""

    code = "deadline_exceeded"


class WorkerLostError(RunError):
    """A process of the job died and could not be restarted."""

    code = "worker_lost"
    retryable = True


class CancelledError(RunError):
    """The job was asked to stop."""

    code = "cancelled"

"""The engine of a target, its number of devices, and its use of each: one rule for plans and for jobs.

vLLM gives each of N ranks a share of every layer: 1/N of the weights, and of the keys and values as long as there are
enough heads to split. Imports neither Ray nor torch, so that the API can import it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from eda_service.config.job import AdaptConfig, EngineKind, TargetSpec
from eda_service.drafts.draft_config import DraftConfig
from eda_service.errors import TargetIncompatibleError
from eda_service.planning.constants import DEVICES, VLLM_WORK_BYTES, Device
from eda_service.targets.files.shape import FEATURE_BYTES, LOADING, WEIGHT_BYTES, ModelShape

SIZE_FIELD = "target.vllm.tensor_parallel_size"
_MOST_RANKS = 64
_FLOAT32_BYTES = 4
_GIB = 2**30
_STATE_COPIES = 2
"""Copies of a shard's states: as vLLM's worker kept them, and as they are written."""


def engine_for(weight_bytes: float, memory_bytes: float) -> EngineKind:
    """Choose the engine of a target if none is named: the own engine if one device holds the target, else vLLM.

    Args:
        weight_bytes: Bytes of the target as it would be loaded.
        memory_bytes: Memory of one whole device, free or not.
    """
    return EngineKind.EDA if LOADING * weight_bytes <= memory_bytes else EngineKind.VLLM


def weight_bytes(spec: TargetSpec, shape: ModelShape) -> float:
    """Return the bytes of a loaded target; a quantised one counts as if it were not quantised."""
    return (_FLOAT32_BYTES if spec.dtype == "float32" else WEIGHT_BYTES) * shape.num_parameters


def split_problem(shape: ModelShape, size: int) -> str | None:
    """Return why vLLM cannot split a target over so many ranks; None: it can.

    vLLM splits the query heads evenly, and the key/value heads as well; if there are fewer key/value heads than ranks,
    it copies each to the same number of ranks.
    """
    width = shape.expert_width if shape.active_parameters is None else None
    return _split_problem("the target", shape.num_heads, shape.num_kv_heads, width, size)


def draft_split_problem(draft: DraftConfig, size: int) -> str | None:
    """Return why vLLM cannot split a base draft over the ranks of its target; None: it can."""
    return _split_problem("the base draft", draft.num_heads, draft.num_kv_heads, draft.expert_width, size)


def _split_problem(whose: str, heads: int, kv_heads: int, width: int | None, size: int) -> str | None:
    if heads % size:
        return f"{whose} has {heads} attention heads, which {size} ranks cannot part evenly"
    if max(size, kv_heads) % min(size, kv_heads):
        return f"{whose} has {kv_heads} key/value heads, which {size} ranks can neither part nor copy evenly"
    if width is not None and width % size:
        return f"{whose}'s feed-forward width is {width}, which {size} ranks cannot part evenly"
    return None


def check_split(spec: TargetSpec, shape: ModelShape, draft: DraftConfig | None = None) -> None:
    """Refuse a `tensor_parallel_size` by which the heads of target and draft cannot be split.

    Args:
        spec: Target and its engine.
        shape: Sizes of the target.
        draft: Config of the base draft; None: it is not checked.

    Raises:
        TargetIncompatibleError: The heads cannot be split, and vLLM would run the target.
    """

    def problem(size: int) -> str | None:
        return split_problem(shape, size) or (None if draft is None else draft_split_problem(draft, size))

    size = spec.vllm.tensor_parallel_size
    found = problem(size) if spec.engine is EngineKind.VLLM else None
    if found is not None:
        possible = [str(each) for each in range(1, _MOST_RANKS + 1) if problem(each) is None]
        raise TargetIncompatibleError(
            f"{SIZE_FIELD} is {size}: {found}; set it to one of {', '.join(possible)}", param=SIZE_FIELD
        )


def check_room(config: AdaptConfig, shape: ModelShape, memory_bytes: float) -> None:
    """Refuse a job whose target is too large for the own engine, with fewer GPUs than hold it in vLLM.

    Args:
        config: Config of the job.
        shape: Sizes of its target.
        memory_bytes: Memory of one GPU.

    Raises:
        TargetIncompatibleError: A GPU cannot hold its part of the target.
    """
    device = replace(DEVICES["h100"], name="GPU", memory_bytes=memory_bytes)
    problem = device_problem(device, vllm_need(config, shape, device), advice_of(smallest_size(config, shape, device)))
    if problem is not None:
        raise TargetIncompatibleError(f"generate needs {problem}", param=SIZE_FIELD)


def advice_of(size: int | None) -> str:
    """Write which setting makes vLLM's GPUs hold a target.

    Args:
        size: Smallest sufficient number of GPUs; None: no number is sufficient.
    """
    return "take larger GPUs, or lower selfgen.batch_size" if size is None else f"set {SIZE_FIELD} to {size}"


@dataclass(frozen=True)
class EngineNeed:
    """The needs of one engine over the target.

    Attributes:
        kind: Engine that runs the target.
        size: Number of devices that the target is split over.
        nodes: Number of machines of these devices.
        weight_bytes: Bytes of weights on each device.
        cache_bytes: Bytes of keys and values of a full batch at its longest, on each device.
        memory_bytes: Bytes used of each device. vLLM takes the share of a GPU that it is given, whatever it needs.
        room_bytes: Bytes that it may use of a device; None: unknown.
    """

    kind: EngineKind
    size: int
    nodes: int
    weight_bytes: float
    cache_bytes: float
    memory_bytes: float
    room_bytes: float | None

    @property
    def work_bytes(self) -> float:
        """Bytes of a GPU that vLLM uses beside weights, keys and values."""
        return VLLM_WORK_BYTES if self.room_bytes is not None else 0.0

    @property
    def fits(self) -> bool:
        """Whether one device holds its part, with a full batch."""
        return self.room_bytes is None or self.weight_bytes + self.cache_bytes + self.work_bytes <= self.room_bytes


def vllm_need(config: AdaptConfig, shape: ModelShape, device: Device, *, size: int | None = None) -> EngineNeed:
    """Compute the needs of self-generation's vLLM for each of its devices.

    Args:
        config: Config of the job.
        shape: Sizes of its target.
        device: Device that it computes on; for CPUs, the share of the machine of each rank.
        size: Number of ranks; None: that of the config.
    """
    selfgen = config.selfgen
    batch = min(selfgen.batch_size, selfgen.shard_size)
    return _need(config, shape, device, size, batch * (selfgen.max_prompt_tokens + selfgen.max_new_tokens), 0.0)


def evaluation_need(
    config: AdaptConfig, shape: ModelShape, device: Device, draft_parameters: float, *, size: int | None = None
) -> EngineNeed:
    """Compute the needs of the evaluation's vLLM for each of its devices; a rank may hold the whole draft.

    Args:
        config: Config of the job.
        shape: Sizes of its target.
        device: Device that it computes on; for CPUs, the share of the machine of each rank.
        draft_parameters: Number of parameters of the adapted draft.
        size: Number of ranks; None: that of the config.
    """
    evaluation = config.evaluation
    batch = min(evaluation.batch_size, evaluation.num_prompts)
    tokens = batch * (config.selfgen.max_prompt_tokens + evaluation.max_new_tokens)
    return _need(config, shape, device, size, tokens, WEIGHT_BYTES * draft_parameters)


def _need(
    config: AdaptConfig, shape: ModelShape, device: Device, size: int | None, cached_tokens: float, draft_bytes: float
) -> EngineNeed:
    settings = config.target.vllm
    size = size or settings.tensor_parallel_size
    weights = weight_bytes(config.target, shape) / size + draft_bytes
    cache = cached_tokens * shape.kv_bytes_per_token / min(size, shape.num_kv_heads)
    nodes = max(1, size // settings.gpus_per_node) if config.train.use_gpu else 1
    if device.memory_bytes is None:
        given = settings.kv_cache_gib * _GIB  # requests that do not fit into the cache wait
        return EngineNeed(EngineKind.VLLM, size, nodes, weights, min(cache, given), weights + given, None)
    room = settings.gpu_memory_fraction * device.memory_bytes
    return EngineNeed(EngineKind.VLLM, size, nodes, weights, cache, room, room)


def shard_host_bytes(config: AdaptConfig, shape: ModelShape, tokens_per_sample: float, num_captures: int) -> float:
    """Compute the host memory of the process in which vLLM answers a shard: the target's embedding and head, and the
    states of the shard.

    Args:
        config: Config of the job.
        shape: Sizes of its target.
        tokens_per_sample: Number of tokens of prompt and answer.
        num_captures: Number of layers whose states are kept beside the head's input.
    """
    return shape.io_bytes + _states(shape, config.selfgen.shard_size * tokens_per_sample, num_captures)


def evaluation_host_bytes(
    config: AdaptConfig, shape: ModelShape, prompt_tokens: float, num_captures: int, draft_parameters: float
) -> float:
    """Compute the host memory of the evaluation: the target's embedding and head, states of all held-out answers, two
    drafts.

    Args:
        config: Config of the job.
        shape: Sizes of its target.
        prompt_tokens: Number of tokens of one prompt.
        num_captures: Number of layers whose states are kept beside the head's input.
        draft_parameters: Number of parameters of one draft.
    """
    tokens = config.evaluation.num_prompts * (prompt_tokens + config.evaluation.max_new_tokens)
    return shape.io_bytes + _states(shape, tokens, num_captures) + 2.0 * WEIGHT_BYTES * draft_parameters


def _states(shape: ModelShape, tokens: float, num_captures: int) -> float:
    return _STATE_COPIES * tokens * (1 + num_captures) * shape.hidden_size * FEATURE_BYTES


def smallest_size(config: AdaptConfig, shape: ModelShape, device: Device, draft_parameters: float = 0.0) -> int | None:
    """Return the smallest number of devices over which vLLM can split the target so that each holds its part in every
    stage; None: no number is sufficient.
    """
    per_node = config.target.vllm.gpus_per_node
    for size in range(1, _MOST_RANKS + 1):
        if (size > per_node and size % per_node) or split_problem(shape, size) is not None:
            continue
        generates = vllm_need(config, shape, device, size=size)
        if generates.fits and evaluation_need(config, shape, device, draft_parameters, size=size).fits:
            return size
    return None


@dataclass(frozen=True)
class EngineChoice:
    """The engine chosen for the target of a job.

    Attributes:
        config: Config of the job, whose target names the engine.
        why: Explanation for the user, with settings to change; None: the engine is the one asked for.
    """

    config: AdaptConfig
    why: str | None = None


def choose_engine(
    config: AdaptConfig, shape: ModelShape, device: Device, memory_bytes: float | None = None
) -> EngineChoice:
    """Return the job with the engine that its target will have.

    Args:
        config: Config of the job.
        shape: Sizes of its target.
        device: Device that stages compute on.
        memory_bytes: Memory of that device, if `device` shares the machine's; None: it counts as enough.
    """
    spec = config.target
    if spec.engine is not None:
        return EngineChoice(config)
    memory = device.memory_bytes if device.memory_bytes is not None else memory_bytes
    weights = weight_bytes(spec, shape)
    if memory is None or engine_for(weights, memory) is EngineKind.EDA:
        return EngineChoice(_with_engine(config, EngineKind.EDA))
    size = smallest_size(config, shape, device)
    chosen = _with_engine(config, EngineKind.VLLM)
    why = (
        f"loading the target takes {LOADING * weights / 1e9:.0f} GB and one {device.name} has {memory / 1e9:.0f} GB, "
        "so vLLM runs it"
    )
    if size is None or vllm_need(chosen, shape, device).fits:
        return EngineChoice(chosen, why)
    return EngineChoice(
        _with_engine(config, EngineKind.VLLM, size),
        f"{why}; planned over {size}, the fewest that hold it: set {SIZE_FIELD} to {size}",
    )


def _with_engine(config: AdaptConfig, kind: EngineKind, size: int | None = None) -> AdaptConfig:
    settings = config.target.vllm
    if size is not None:
        settings = settings.model_copy(update={"tensor_parallel_size": size})
    target = config.target.model_copy(update={"engine": kind, "vllm": settings})
    return config.model_copy(update={"target": target})


def device_problem(device: Device, need: EngineNeed, advice: str) -> str | None:
    """Return what a device lacks for its part of an engine, with the setting to change; None: nothing."""
    if need.fits:
        return None
    assert need.room_bytes is not None, "what is not known is not held against anything"
    return (
        f"{need.weight_bytes / 1e9:.1f} GB of weights, {need.cache_bytes / 1e9:.1f} GB of keys and values and "
        f"{need.work_bytes / 1e9:.1f} GB of vLLM's own on one {device.name}, of which vLLM may take "
        f"{need.room_bytes / 1e9:.1f} GB (target.vllm.gpu_memory_fraction); {advice}"
    )

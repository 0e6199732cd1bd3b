"""The settings of an adaptation: frozen pydantic models with bounds, units and the source of each default.

`AdaptConfig` is what a job carries; each stage receives its own part. Derived forms (DeepSpeed dict, Ray resources) are
made from these in `eda_service.pipeline` and `eda_service.raycluster`, never written by hand elsewhere.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from eda_service.config.base import Config, Name
from eda_service.config.deploy import DeployConfig
from eda_service.config.draft import DraftSpec
from eda_service.config.loss import LossConfig
from eda_service.config.removed import with_engine_of_target, without_early_training
from eda_service.config.track import TrackConfig
from eda_service.config.vllm import VllmSpec
from eda_service.names import as_name

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
DeviceName = Literal["auto", "cpu", "cuda"]


class Method(StrEnum):
    """Training methods (Table 1 of the paper)."""

    EDA = "eda"
    FULL_FT = "full_ft"
    LORA = "lora"
    RETRAIN = "retrain"


class Mix(StrEnum):
    """How the two experts are combined: Eq. 4's joint softmax, or the released code's effective E_s + E_p."""

    SOFTMAX = "softmax"
    SUM = "sum"


class Selector(StrEnum):
    """Selectors of the samples to train on: those of Section 5.3, then two of ours, which keep the samples on which the
    base draft is worst, by the distance of its distributions from the target's or by the tokens that it does not say.
    """

    PCA = "pca"
    RANDOM = "random"
    REVERSED = "reversed"
    ALL = "all"
    DRAFT_LOSS = "draft_loss"
    DRAFT_REJECTIONS = "draft_rejections"


class EngineKind(StrEnum):
    """Engines that decode: the project's own, or vLLM."""

    EDA = "eda"
    VLLM = "vllm"


class TargetSpec(Config):
    """A target: a Hugging Face id or local directory, optionally with a LoRA adapter on top."""

    model: str = Field(
        description="Hugging Face id, local directory, or the name of a shipped target", min_length=1, max_length=512
    )
    revision: str | None = Field(
        None, description="branch, tag or commit; pinned to a commit before use", max_length=128
    )
    adapter: str | None = Field(
        None, description="LoRA adapter: id or directory; None for full weights", max_length=512
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the processor multiplies it natively, else float32"
    )
    engine: EngineKind | None = Field(
        None,
        exclude_if=lambda kind: kind is None,
        description="who runs the target in the stages of a job: the project's own engine (eda), or vllm, which loads "
        "targets of any size; None: the own engine, and vLLM where the target does not fit one device",
    )
    vllm: VllmSpec = Field(
        VllmSpec(), exclude_if=lambda spec: spec == VllmSpec(), description="settings of engine vllm"
    )


class DatasetSpec(Config):
    """The source of the domain prompts."""

    source: str = Field(
        "self",
        description="path of a JSONL file, id of an uploaded one, Hugging Face dataset id, `reasoning-gym:<task>`, or "
        "`self` (the target writes its own prompts, Magpie method)",
        max_length=512,
    )
    split: str = Field("train", description="split of a Hugging Face dataset", max_length=64)
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="hash of the copy that the service made of a file at submit, which the job reads; set by the "
        "service, and what a caller sends is not used",
    )
    num_prompts: int = Field(256, ge=8, le=1_000_000, description="prompts used; the paper has 68,000 per stage")


class Answers(StrEnum):
    """The answers that a draft learns: the target's own (Eqs. 8-9), or those of the data set (the paper's "original
    data").
    """

    TARGET = "target"
    DATASET = "dataset"


class SelfGenConfig(Config):
    """Self-generation (Eqs. 8-9). The paper does not publish temperature or token cap."""

    answers: Answers = Field(
        Answers.TARGET, description="target: it answers each prompt; dataset: each row's `reference`, for comparison"
    )
    temperature: float = Field(0.7, ge=0.0, le=2.0, description="sampling temperature of the target")
    extra_temperatures: tuple[Temperature, ...] = Field(
        (), max_length=8, description="samples take turns, by their seed, among `temperature` and these"
    )
    answers_per_prompt: int = Field(
        1, ge=1, le=64, description="answers of the target to each prompt, each with a random stream of its own"
    )
    top_p: float = Field(0.95, gt=0.0, le=1.0, description="nucleus of the target's sampling")
    max_new_tokens: int = Field(160, ge=8, le=32_768, description="answer cap in tokens")
    max_prompt_tokens: int = Field(512, ge=8, le=131_072, description="longer prompts are skipped, with the reason")
    batch_size: int = Field(32, ge=1, le=1024, description="sequences decoded together by one actor")
    shard_size: int = Field(64, ge=1, le=65_536, description="prompts per shard: the unit of resume")
    num_actors: int = Field(1, ge=1, le=1024, description="Ray Data actors, each with one copy of the target")
    threads_per_actor: int = Field(2, ge=1, le=256, description="CPU threads of one actor")
    max_error_fraction: Fraction = Field(
        0.1, description="above this share of failed prompts the stage fails, of malformed rows a file is refused"
    )

    @model_validator(mode="after")
    def _one_reference_each(self) -> SelfGenConfig:
        if self.answers is Answers.DATASET and self.answers_per_prompt > 1:
            raise ValueError(
                f"answers_per_prompt is {self.answers_per_prompt}, but with answers=dataset a row has one; set it to 1"
            )
        return self


class SelectionConfig(Config):
    """Sample selection (Eqs. 11-15). PCA dimension and rho are unpublished; both are exposed and swept in
    benchmarks.
    """

    method: Selector = Field(
        Selector.PCA,
        description="selector; pca is the paper's. draft_loss keeps the samples on which the base draft's "
        "distributions are furthest from the target's (mean of 1 - sum min(p, q)), draft_rejections those of whose "
        "tokens it says least; both compute the base draft over each sample and read, of these settings, "
        "`keep_fraction` alone",
    )
    keep_fraction: float = Field(0.5, gt=0.0, le=1.0, description="share kept (paper: 0.5)")
    quantile: Fraction = Field(0.9, description="rho of Eq. 14")
    pca_dim: int = Field(64, ge=1, le=4096, description="R of Eq. 11, capped by hidden size and sample count")
    covariance_ridge: float = Field(
        1e-6, ge=0.0, le=1.0, description="added to the covariance diagonal, relative to its mean, before inverting"
    )
    num_reference_prompts: int = Field(48, ge=8, le=100_000, description="general prompts behind Eq. 12's statistics")
    reference_max_new_tokens: int = Field(64, ge=8, le=4096, description="answer cap on general prompts")


class TrainBackend(StrEnum):
    """Backends that take the optimizer steps."""

    DEEPSPEED = "deepspeed"
    TORCH = "torch"


class TrainConfig(Config):
    """Training of the draft's private part (paper: batch 16, learning rate 4e-5, 20 epochs)."""

    method: Method = Field(Method.EDA, description="what is trained")
    mix: Mix = Field(Mix.SOFTMAX, description="Eq. 4 or the released code's sum")
    private_width_fraction: float = Field(1.0, gt=0.0, le=4.0, description="m_p / m_s; paper_7b uses 0.5")
    train_fc: bool = Field(False, description="also train fc and store it in the pack (released code: yes)")
    train_attention: bool = Field(
        False, description="also train the draft's attention and store it in the pack (ours; the paper freezes it)"
    )
    lora_rank: int = Field(32, ge=1, le=1024, description="rank for method lora")
    loss: LossConfig = LossConfig()
    epochs: int = Field(20, ge=1, le=1000, description="paper: 20")
    repair_epochs: int = Field(
        0,
        ge=0,
        le=1000,
        exclude_if=lambda epochs: epochs == 0,
        description="epochs after those (ours), in which a draft learns only where decoding along the answer, with the "
        "draft as it is then, would reject its token; the learning rate decays over both",
    )
    batch_size: int = Field(16, ge=1, le=4096, description="sequences per optimizer step over all workers (paper: 16)")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="sequences in one forward of a worker; the gradients of its share of a batch are accumulated, and "
        "come out as those of one forward; None: all at once",
    )
    learning_rate: float = Field(4e-5, gt=0.0, le=1.0, description="AdamW peak (paper: 4e-5)")
    warmup_fraction: Fraction = Field(0.05, description="linear warm-up, then cosine decay to 5 % of the peak")
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="AdamW")
    grad_clip: float = Field(0.5, gt=0.0, le=100.0, description="global norm (released code: 0.5)")
    heldout_fraction: float = Field(0.1, ge=0.0, le=0.5, description="sequences kept out for simulated acceptance")
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="epochs in a row without a better simulated acceptance on the held-out sequences after which "
        "training ends; the learning rate still decays over all of `epochs`; None: all epochs. The best weights are "
        "kept either way",
    )
    max_tokens: int = Field(512, ge=16, le=131_072, description="longer sequences are cut")
    draft_vocab_size: int | None = Field(
        None, ge=64, description="output rows the draft scores, by frequency in the self-generated set; None: all"
    )
    extend_draft_vocab: int = Field(
        0,
        ge=0,
        le=262_144,
        exclude_if=lambda count: count == 0,
        description="rows added to a base draft's own head, for the tokens that the target writes most and the draft "
        "cannot say; they begin as the target's rows, train, and are stored in the pack",
    )
    num_workers: int = Field(2, ge=1, le=4096, description="Ray Train workers")
    threads_per_worker: int = Field(1, ge=1, le=256, description="CPU threads of one worker")
    backend: TrainBackend = Field(
        TrainBackend.DEEPSPEED,
        description="what takes the steps; torch: one worker, without DeepSpeed and `zero_stage`",
    )
    zero_stage: int = Field(1, ge=0, le=3, description="DeepSpeed ZeRO stage; 1 suffices: little is trainable")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the matrix products; weights and optimizer stay float32 on a CPU. auto: bfloat16 where the "
        "processor multiplies it natively, and on a GPU, where weights are bfloat16 too",
    )
    use_gpu: bool = Field(False, description="one GPU per worker")
    placement: Literal["auto", "pack", "spread"] = Field(
        "auto",
        description="workers over nodes; auto: packed with GPUs, whose links inside a node are fast, spread on CPUs, "
        "where a worker keeps its node's cores busy",
    )
    checkpoint_every_steps: int = Field(50, ge=1, le=100_000, description="steps between resumable checkpoints")
    max_worker_failures: int = Field(3, ge=0, le=100, description="restarts of the worker group before the job fails")

    _without_early_training = model_validator(mode="before")(without_early_training)

    @model_validator(mode="after")
    def _check_backend(self) -> TrainConfig:
        if self.backend is TrainBackend.TORCH and self.num_workers > 1:
            raise ValueError(
                f"train.backend is torch, which trains in one process, and train.num_workers is {self.num_workers}; "
                "set train.num_workers to 1, or train.backend to deepspeed"
            )
        return self

    @model_validator(mode="after")
    def _check_early_stopping(self) -> TrainConfig:
        if self.early_stopping_patience is not None and self.repair_epochs:
            raise ValueError(
                f"train.repair_epochs is {self.repair_epochs} and comes after all epochs, before which "
                "train.early_stopping_patience may end training; leave one of them out"
            )
        if self.early_stopping_patience is not None and not self.heldout_fraction:
            raise ValueError(
                "train.early_stopping_patience needs held-out sequences and train.heldout_fraction is 0; raise it to "
                "0.1, or leave early_stopping_patience out"
            )
        return self


class TreeConfig(Config):
    """A dynamic draft tree (EAGLE-2). The paper's evaluation: size 60, depth 5, width 10."""

    size: int = Field(60, ge=1, le=512, description="drafted nodes that the target verifies, the root not counted")
    depth: int = Field(5, ge=1, le=32, description="levels drafted: the most tokens a round can accept")
    width: int = Field(10, ge=1, le=64, description="nodes expanded per level and children of each")


class EvalConfig(Config):
    """Evaluation of base and adapted draft against the same target."""

    num_prompts: int = Field(16, ge=1, le=100_000, description="held-out prompts")
    max_new_tokens: int = Field(96, ge=8, le=32_768, description="answer cap in tokens")
    num_draft_tokens: int = Field(5, ge=1, le=64, description="K of Eq. 2: chain length")
    tree: TreeConfig | None = Field(
        None, description="measure acceptance with draft trees (paper: size 60, depth 5, width 10); None: with chains"
    )
    temperatures: tuple[Temperature, ...] = Field((0.0, 1.0), min_length=1, max_length=8, description="T of each row")
    batch_size: int = Field(8, ge=1, le=1024, description="sequences decoded together for acceptance")
    served_draft_tokens: int | None = Field(
        None, ge=1, le=64, description="longest chain for the speedup and at the endpoint; None: num_draft_tokens"
    )
    timed_temperatures: tuple[Temperature, ...] | None = Field(
        None, max_length=8, description="temperatures of the speedup; None: those of `temperatures`"
    )
    num_timed_prompts: int = Field(6, ge=0, le=1000, description="prompts timed one by one for the speedup; 0: none")
    num_timed_repeats: int = Field(3, ge=1, le=100, description="interleaved repeats; the median is reported")
    threads: int = Field(2, ge=1, le=256, description="CPU threads of the evaluation task")

    @property
    def serving_chain(self) -> int:
        """Largest number of draft tokens per round in the measurement of speed."""
        return self.served_draft_tokens or self.num_draft_tokens

    @property
    def depth(self) -> int:
        """Largest number of tokens that a round of the acceptance measurement can accept."""
        return self.num_draft_tokens if self.tree is None else self.tree.depth


class AdaptConfig(Config):
    """One adaptation job: the immutable input of every stage."""

    target: TargetSpec
    base_draft: str = Field("smollm2-135m@3", description="name@version of a registered base draft", max_length=128)
    served_name: Name | None = Field(None, description="name at /v1/models; default: adapter or model name")
    dataset: DatasetSpec = DatasetSpec()
    eval_dataset: DatasetSpec | None = Field(None, description="held-out prompts; None: split off the domain prompts")
    selfgen: SelfGenConfig = SelfGenConfig()
    selection: SelectionConfig = SelectionConfig()
    draft: DraftSpec = Field(
        DraftSpec(),
        exclude_if=lambda spec: spec == DraftSpec(),
        description="of pretraining; adaptations do not read it",
    )
    train: TrainConfig = TrainConfig()
    evaluation: EvalConfig = EvalConfig()
    deploy: DeployConfig = DeployConfig()
    track: TrackConfig = TrackConfig()
    device: DeviceName = Field(
        "auto",
        description="where every stage computes. cuda: refused where processes see no GPU; auto: on a GPU where "
        "they see one, else on the CPU. `train.use_gpu` reserves GPUs and has to agree",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="root of every random stream of the job")
    min_acceptance_ratio: float = Field(
        0.0,
        ge=0.0,
        le=10.0,
        description="adapted / base acceptance_length at the first temperature below which nothing is published",
    )
    min_gain: float | None = Field(
        None,
        ge=1.0,
        exclude_if=lambda gain: gain is None,
        le=10.0,
        description="before anything is generated, the base draft is measured on the target and on the target that it "
        "was made for; where even all that it lost is less than this factor in acceptance_length, the job ends as "
        "`not_worth_it`; None: not measured",
    )

    _engine_is_the_targets = model_validator(mode="before")(with_engine_of_target)

    @property
    def public_name(self) -> str:
        """Name of the published pack and of the served pair: the one asked for, else the last part of the adapter's or
        model's name.
        """
        source = self.target.adapter or self.target.model
        return self.served_name or as_name(source.rstrip("/").rsplit("/", 1)[-1])

    @model_validator(mode="after")
    def _check_device(self) -> AdaptConfig:
        # Ray does not hide a machine's GPUs from processes that reserved none: they would share one with its owner.
        if self.device == "cuda" and not self.train.use_gpu:
            raise ValueError(
                "device is cuda but train.use_gpu is false, so that stages would compute on a GPU that Ray may give to "
                "others; set train.use_gpu to true, or device to auto or cpu"
            )
        if self.device == "cpu" and self.train.use_gpu:
            raise ValueError(
                "device is cpu but train.use_gpu is true, so that every stage would hold a GPU it does not use; set "
                "train.use_gpu to false, or device to auto or cuda"
            )
        return self

    @model_validator(mode="after")
    def _check_budget(self) -> AdaptConfig:
        if self.eval_dataset is None and self.evaluation.num_prompts >= self.dataset.num_prompts:
            raise ValueError(
                f"evaluation.num_prompts is {self.evaluation.num_prompts} but dataset.num_prompts is only "
                f"{self.dataset.num_prompts}: held-out prompts are split off the dataset; raise one or lower the other"
            )
        return self

"""machine.yaml as frozen, typed sections. Every value has a default that works: without a file all GPUs are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from videollava.machine.devices import count_cores, count_gpus
from videollava.params.bounds import Amount, Count, Flag, Listed, Positive, Section, Whole

__all__ = [
    "CLUSTERS",
    "DEFAULTS",
    "STAGES",
    "Cost",
    "Kubernetes",
    "Machine",
    "Pools",
    "Slurm",
    "Strategy",
    "Work",
    "lay_over",
]

STAGES = ("fetch", "shards", "index", "bases", "align", "pretrain", "finetune", "evaluate")
ALONE = ("fetch", "shards", "index", "bases")  # stages of one process
KINDS = {
    **dict.fromkeys(("fetch", "shards", "index"), "data"),
    **dict.fromkeys(("bases", "align", "pretrain", "finetune"), "gpu"),
    "evaluate": "eval",
}
CLUSTERS = {"slurm": "Slurm", "kubernetes": "Kubernetes"}
MOST = 1024
MOST_WORKERS = 8  # of one rank, where their number is not given


def _not_ddp(value: Any) -> Any:
    if value == "ddp":
        raise PydanticCustomError(
            "strategy",
            "was 'ddp', which is no strategy any more: write `strategy: sharded` (each GPU holds a part of weights, "
            "gradients and moments), or `strategy: replicated` (each holds all, as ddp did)",
        )
    return value


Strategy = Literal[
    "sharded", "sharded-node", "replicated", "zero2", "zero2-offload", "zero3", "zero3-offload"
]


def _whole_or(word: str) -> BeforeValidator:
    """A count, or a word for the one that fits this host; one mistake in words, not one for each type."""

    def check(value: Any) -> Any:
        if value == word or (type(value) is int and 0 <= value <= MOST):
            return value
        raise PydanticCustomError(
            "count", "must be {word} or a whole number up to {most}", {"word": word, "most": MOST}
        )

    return BeforeValidator(check)


def _layers(value: Any) -> Any:
    """true, false, or a count; one mistake in words."""
    if isinstance(value, bool) or (type(value) is int and 0 <= value <= MOST):
        return value
    raise PydanticCustomError(
        "layers", "must be true, false or a number of layers up to {most}", {"most": MOST}
    )


def _is_place(value: Any) -> Any:
    """ "", a folder, or s3://bucket/prefix without a key in it: the value is told and journalled."""
    if not isinstance(value, str):
        raise PydanticCustomError("place", "must be a folder or s3://bucket/prefix")
    scheme, mark, rest = value.strip().partition("://")
    if mark and (scheme.lower() != "s3" or not rest.partition("/")[0]):
        raise PydanticCustomError("place", "must be a folder or s3://bucket/prefix")
    if mark and "@" in rest.partition("/")[0]:
        raise PydanticCustomError(
            "place",
            "holds a key: credentials come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE)",
        )
    return value.strip().rstrip("/") or value.strip()


Place = Annotated[str, AfterValidator(_is_place)]
Gpus = Annotated[Literal["all"] | int, _whole_or("all")]
Workers = Annotated[Literal["auto"] | int, _whole_or("auto")]
Recompute = Annotated[bool | int, BeforeValidator(_layers)]


class Cost(Section):
    """What an hour costs, and how much a stage may cost."""

    per_gpu_hour: Amount = Field(
        0.0, description="price of an hour of a GPU; where none is used, of a process; 0: not known"
    )
    currency: str = Field("USD", description="of the price, as it is shown")
    ceiling: Amount = Field(
        0.0,
        description="a stage's run that has cost so much, over all attempts, ends with a last checkpoint; 0: none",
    )

    @model_validator(mode="after")
    def _is_priced(self) -> Self:
        if self.ceiling and not self.per_gpu_hour:
            raise ValueError("ceiling has no price to go by: set per_gpu_hour, or ceiling: 0")
        return self


class Slurm(Section):
    """What a job asks of Slurm (launcher: slurm); empty: the cluster's default."""

    partition: str = Field("", description="sbatch --partition")
    account: str = Field("", description="sbatch --account")
    qos: str = Field("", description="sbatch --qos")
    time: str = Field("", description="sbatch --time, such as 2-00:00:00")
    notice_seconds: Count = Field(
        120, description="before the time limit: a last checkpoint is made, and the job queued again"
    )
    constraint: str = Field("", description="sbatch --constraint")
    cpus: Whole = Field(
        0, description="cores of a rank (sbatch --cpus-per-task, times its ranks a node); 0: default"
    )
    memory: str = Field("", description="sbatch --mem of a node, such as 480G")
    setup: Annotated[tuple[str, ...], Listed] = Field(
        (), description="shell lines before the ranks start, such as `module load cuda`"
    )
    container: str = Field("", description="image for srun --container-image (Pyxis)")
    options: Annotated[tuple[str, ...], Listed] = Field(
        (), description="further options of sbatch, such as --exclusive"
    )


class Kubernetes(Section):
    """What ranks run as in Kubernetes (launcher: kubernetes); all that is the cluster's is in the manifests."""

    manifests: str = Field(
        "infra/kubernetes/ranks/base",
        description="kustomization of the Job or JobSet that ranks run as: a folder of the checkout, or a path",
    )
    image: str = Field("", description="of the ranks; empty: the manifests'")
    namespace: str = Field("", description="kubectl --namespace")
    context: str = Field("", description="kubectl --context")


class Work(Section):
    """How one stage is computed."""

    launcher: Literal["local", "slurm", "kubernetes"] = Field(
        "local", description="where ranks start: on this host, or as one job of Slurm or of Kubernetes"
    )
    nodes: Count = Field(1, description="hosts (launcher: slurm or kubernetes)")
    gpus: Gpus = Field(
        "all", description="GPUs of a host, one rank each; all: those that are there; 0: none is used"
    )
    processes: Count = Field(1, description="ranks of a host where no GPU is used")
    strategy: Annotated[Strategy, BeforeValidator(_not_ddp)] = Field(
        "sharded",
        description="of weights, gradients and moments: sharded over all ranks, sharded-node: within each host, "
        "replicated: whole on each; zero2, zero3, and -offload: DeepSpeed",
    )
    workers: Workers = Field(
        "auto",
        description="processes of a rank that read and decode; auto: its share of the cores, at most 8",
    )
    tokens_per_pack: Count = Field(
        8192, description="tokens a rank computes at once in pretrain and finetune"
    )
    tokens_per_batch: Count = Field(16384, description="tokens a rank generates from at once in evaluate")
    recompute: Recompute = Field(
        False,
        description="compute activations again (less memory, more time): of all layers that learn, or of the first N",
    )
    compile: Flag = Field(False, description="compile the language model's layers (GPU; not zero3)")
    checkpoint_minutes: Amount = Field(
        15.0, description="between two checkpoints, written beside the work; 0: after every step"
    )
    checkpoint_place: Place = Field(
        "",
        description='where checkpoints stand: a folder, or s3://bucket/prefix; "": checkpoints/ of the checkout',
    )
    slow_minutes: Positive = Field(5.0, description="without a step before a rank is named in a warning")
    stall_minutes: Positive = Field(
        30.0,
        description="without a step (in a stage without steps: without any work) before the run is ended, and tried "
        "again once",
    )
    time_limit_hours: Amount = Field(0.0, description="of the whole stage; 0: none")
    ending_seconds: Positive = Field(
        20.0, description="that a stage has for a last checkpoint when it is told to end; then it is killed"
    )
    cost: Cost = Field(Cost(), description="of an hour, and of a stage at most")

    @property
    def per_node(self) -> int:
        """Ranks on each host."""
        return int(self.gpus) if self.gpus and self.gpus != "all" else self.processes

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.nodes * self.per_node

    def recomputed(self, layers: int) -> int:
        """Layers, of so many, that compute their activations again."""
        return layers if self.recompute is True else min(int(self.recompute), layers)

    @property
    def loaders(self) -> int:
        """Processes of a rank that read and decode."""
        return 0 if self.workers == "auto" else self.workers


class Pools(Section):
    """Prefect's work pools that a retraining sends its stages to; what names none is done in its own process."""

    data: str = Field("", description="of fetch, shards and index")
    gpu: str = Field("", description="of bases, align, pretrain and finetune")
    eval: str = Field("", description="of evaluate, and of the champion's answers to new questions")

    def of(self, stage: str) -> str:
        """The pool of a stage, "" where it has none."""
        return str(getattr(self, KINDS.get(stage.partition("@")[0], ""), ""))


class Machine(Work):
    """All of machine.yaml: values for every stage, other ones for some, and what a cluster is asked for."""

    download_retries: Whole = Field(
        5, description="attempts in a row of a download that may bring nothing new"
    )
    push_to: str = Field(
        "",
        description='git remote, such as origin, that saved retrainings and tags of versions are pushed to; "": none',
    )
    stages: Mapping[str, Mapping[str, Any]] = Field(
        {}, description="by stage, values of the above in the place of those for all"
    )
    slurm: Slurm = Field(Slurm(), description="what a job asks of Slurm")
    kubernetes: Kubernetes = Field(Kubernetes(), description="what ranks run as in Kubernetes")
    pools: Pools = Field(Pools(), description="work pools that stages are sent to")

    def work(self, stage: str) -> Work:
        """How `stage` is computed, what is "auto" filled in. ValidationError where its values are mistaken."""
        shared = {name: getattr(self, name) for name in Work.model_fields}
        asked = Work.model_validate(lay_over(shared, self.stages.get(stage, {})))
        if stage in ALONE:
            asked = asked.replace(launcher="local", nodes=1, processes=1)
        gpus = count_gpus() if asked.gpus == "all" else asked.gpus
        if stage in ALONE:
            gpus = min(gpus, 1)
        found = asked.replace(gpus=gpus)
        if found.workers != "auto":
            return found
        share = count_cores() // (found.per_node if found.launcher == "local" else 1)
        return found.replace(workers=min(MOST_WORKERS, max(1, share)))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for stage in self.stages:
            if stage not in STAGES:
                raise ValueError(f"stages.{stage}: no stage; there are {', '.join(STAGES)}")
        for stage in STAGES:
            work = lay_over(dict(self), self.stages.get(stage, {}))
            if work["launcher"] == "local" and work["nodes"] > 1 and stage not in ALONE:
                raise ValueError(
                    f"nodes is {work['nodes']}, and launcher local starts ranks on this host alone: "
                    "set launcher: slurm or kubernetes, or nodes: 1"
                )
            if work["launcher"] != "local" and work["gpus"] == "all" and stage not in ALONE:
                raise ValueError(
                    f"gpus is all, and this host cannot see those of {CLUSTERS[work['launcher']]}'s nodes: "
                    "set gpus to those of a node, or 0"
                )
        return self


def lay_over(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all stages with a stage's own in their place. Of a mapping (`cost`) what it does not name stays."""
    found = {**shared, **own}
    for name, value in own.items():
        below = shared.get(name)
        below = dict(below) if isinstance(below, Section) else below
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            found[name] = {**below, **value}
    return found


DEFAULTS = Machine()  # what counts without a file

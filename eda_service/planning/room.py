"""The check that a cluster is large enough for a job: GPUs at the same time, GPUs of one node for an engine on one
node, and the memory of each GPU. Imports neither Ray nor torch, so that the API can import it.
"""

from __future__ import annotations

from eda_service.capacity import NOTHING, Capacity, Machines, Need
from eda_service.config.job import AdaptConfig
from eda_service.errors import ClusterShortfallError
from eda_service.planning.constants import ACCELERATORS, DEVICES
from eda_service.planning.engine_need import SIZE_FIELD
from eda_service.planning.placement import MODEL_CPUS, Placement, need_of, needed_at_once, placements
from eda_service.planning.plan import Plan
from eda_service.records import Stage

_NODE_FIELD = "target.vllm.gpus_per_node"


def gpu_of(machines: Machines) -> str | None:
    """Return the plan's name of a cluster's GPU, the one with least memory if there are several; None: unknown."""
    names = [ACCELERATORS.get(kind) for kind in machines.kinds]
    known = [name for name in names if name is not None]
    if not known or len(known) < len(names):
        return None
    return min(known, key=lambda name: DEVICES[name].memory_bytes or 0.0)


def cluster_shortfalls(config: AdaptConfig, machines: Machines, plan: Plan | None) -> tuple[ClusterShortfallError, ...]:
    """List what a cluster lacks for a job.

    Args:
        config: Config of the job, with the engine that its target will have.
        machines: Nodes of the cluster.
        plan: Plan of the job on the cluster's GPUs, if both are known.
    """
    found = (_at_a_time(config, needed_at_once(config), machines.total), _of_one_node(config, machines))
    memory = () if plan is None else plan.lacking
    return (
        *(error for error in found if error is not None),
        *(ClusterShortfallError(_overruled(message), param=SIZE_FIELD) for message in memory),
    )


def _overruled(message: str) -> str:
    return f"{message}, or `force` to queue it all the same"


def _engine(config: AdaptConfig) -> Placement:
    return placements(config)[Stage.GENERATE]


def _at_a_time(config: AdaptConfig, need: Capacity, there: Capacity) -> ClusterShortfallError | None:
    if there.holds(need):
        return None
    engine, advice, param = _engine(config), "lower train.num_workers", "train.num_workers"
    if need.gpus > there.gpus == 0:
        advice, param = "set train.use_gpu to false", "train.use_gpu"
    elif engine.cpus > MODEL_CPUS and not there.holds(Capacity(cpus=engine.cpus, gpus=engine.gpus)):
        advice, param = f"lower {SIZE_FIELD}", SIZE_FIELD
    return ClusterShortfallError(
        f"the job asks for {need} at a time and the cluster has {there}; {advice}, let machines join, or set `force` "
        "to queue it all the same: it then waits for them and holds up no other job",
        param=param,
    )


def _of_one_node(config: AdaptConfig, machines: Machines) -> ClusterShortfallError | None:
    engine, most, process = _engine(config), machines.node_gpus, need_of(config).of_one_node
    if machines.has_node_for(process) or process.gpus > machines.total.gpus == 0:
        return None
    wanted = engine.of_one_node.gpus
    if wanted <= most:
        return ClusterShortfallError(
            f"the job {machines.lack(Need(NOTHING, process))}; let such nodes join, or set `force` to queue it all the "
            "same: it then waits for them",
            param=SIZE_FIELD if engine.cpus > MODEL_CPUS else "train.use_gpu",
        )
    over = f"set {_NODE_FIELD} to {most} for an engine over several nodes, " if engine.gpus % most == 0 else ""
    return ClusterShortfallError(
        f"vLLM asks for {wanted} GPUs of one node and no node of the cluster has more than {most}; {over}lower "
        f"{SIZE_FIELD}, let such nodes join, or set `force` to queue it all the same: it then waits for them",
        param=SIZE_FIELD,
    )

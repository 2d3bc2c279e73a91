"""The devices and machines that share a training, on TensorFlow's own strategies."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from spdf_keras.config import STRATEGIES
from spdf_keras.errors import InputError


@dataclass(frozen=True)
class Cluster:
    """A distribution strategy and this process's place in it.

    Every worker builds the same model and reads the same run. Only the chief, worker
    0, writes to the run.

    Attributes:
        strategy: Its TensorFlow strategy.
        worker: Number of this process, from 0.
        num_workers: Number of processes.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    num_workers: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes to the run."""
        return self.worker == 0

    @property
    def num_replicas(self) -> int:
        """Number of devices that share a batch, in all workers together."""
        return int(self.strategy.num_replicas_in_sync)

    def dataset(self, make: Callable[[int, int, int], tf.data.Dataset]) -> Any:
        """Returns this worker's part of a dataset, in the form that `fit` takes.

        Args:
            make: Makes the part from the number of workers, the worker's number and
                its number of replicas. Each replica takes one element per step, in
                order.
        """
        if not tf.distribute.has_strategy() and self.num_replicas == 1:
            return make(1, 0, 1)
        local = self.num_replicas // self.num_workers

        def part(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return make(context.num_input_pipelines, context.input_pipeline_id, local)

        return self.strategy.distribute_datasets_from_function(part)

    def agree(self, facts: dict[str, str]) -> None:
        """Waits for the other workers and compares facts with theirs.

        Raises:
            InputError: In every worker, if a fact differs in one of them.
        """
        if self.num_workers == 1:
            return
        mine = tf.constant([[_number(value) for value in facts.values()]], tf.int64)

        @tf.function
        def gather() -> Any:
            def all_gather() -> tf.Tensor:
                return tf.distribute.get_replica_context().all_gather(mine, axis=0)

            return self.strategy.run(all_gather)

        everyone = self.strategy.experimental_local_results(gather())[0].numpy()
        for column, name in enumerate(facts):
            odd = [row for row in everyone if row[column] != everyone[0][column]]
            if odd:
                raise InputError(
                    f"All workers must have the same {name}. Received: another one "
                    f"in some worker than '{facts[name]}' in worker {self.worker}. "
                    "Start each with the same command but for --worker, and with "
                    "--out and --data on a disk that all share."
                )


def single_device() -> Cluster:
    """Returns the cluster of one device, with TensorFlow's default strategy."""
    return Cluster(tf.distribute.get_strategy())


def start_cluster(
    strategy: str = "none",
    replicas: int = 0,
    worker: int | None = None,
    workers: Sequence[str] = (),
    tpu: str = "",
) -> Cluster:
    """Starts a strategy; this must be TensorFlow's first use in the process.

    Args:
        strategy: `none` is one device; `mirrored` is all GPUs of this machine;
            `multi_worker` is several machines, given by `workers` or the variable
            TF_CONFIG; `tpu` is a TPU.
        replicas: Number of devices for `mirrored`; 0 is all GPUs. Without a GPU the
            processor is split into this many virtual devices, which serves for tests.
        worker: Number of this process among `workers`.
        workers: `host:port` of every worker, in the same order in every process.
        tpu: Name or address of the TPU; an empty name is the local TPU.

    Raises:
        InputError: If the arguments do not fit each other or the machine.
    """
    if strategy not in STRATEGIES:
        raise InputError(
            f"`strategy` must be one of {', '.join(STRATEGIES)}. Received: {strategy}."
        )
    if (workers or worker is not None) and strategy != "multi_worker":
        raise InputError(
            "`worker` and `workers` go with strategy=multi_worker. Received: "
            f"strategy={strategy}."
        )
    if replicas and strategy != "mirrored":
        raise InputError(
            f"`replicas` goes with strategy=mirrored. Received: strategy={strategy}."
        )
    if strategy == "mirrored":
        return Cluster(tf.distribute.MirroredStrategy(_devices(replicas)))
    if strategy == "multi_worker":
        return _multi_worker(worker, workers)
    if strategy == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu or "local")
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise InputError(f"No TPU at '{tpu or 'local'}': {error}.") from error
        return Cluster(tf.distribute.TPUStrategy(resolver))
    return single_device()


def _devices(replicas: int) -> list[str]:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if replicas > len(gpus):
            raise InputError(
                f"`replicas` must be at most {len(gpus)}, the GPUs here. Received: "
                f"replicas={replicas}."
            )
        return [f"GPU:{index}" for index in range(replicas or len(gpus))]
    count = replicas or 1
    if len(tf.config.list_logical_devices("CPU") if _in_use() else []) < count:
        (processor,) = tf.config.list_physical_devices("CPU")
        virtual = [tf.config.LogicalDeviceConfiguration()] * count
        try:
            tf.config.set_logical_device_configuration(processor, virtual)
        except RuntimeError as error:
            raise InputError(
                f"`replicas`={replicas} needs virtual devices, which TensorFlow makes "
                "only before its first use in a process."
            ) from error
    return [f"CPU:{index}" for index in range(count)]


def _in_use() -> bool:
    from tensorflow.python.eager import context

    return bool(context.context()._initialized)


def _multi_worker(worker: int | None, workers: Sequence[str]) -> Cluster:
    if workers:
        if worker is None or not 0 <= worker < len(workers):
            raise InputError(
                f"`worker` must be 0 to {len(workers) - 1}, the place of this process "
                f"in `workers`. Received: worker={worker}."
            )
        task = {"type": "worker", "index": worker}
        cluster = {"worker": list(workers)}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    try:
        settings = json.loads(os.environ["TF_CONFIG"])
        index = int(settings["task"]["index"])
        addresses = settings["cluster"]["worker"]
        only_workers = set(settings["cluster"]) == {"worker"}
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            "strategy=multi_worker needs `worker` and `workers`, or the variable "
            f"TF_CONFIG with cluster.worker and task.index. Received: {error!r}."
        ) from error
    if not only_workers or not 0 <= index < len(addresses):
        raise InputError(
            "TF_CONFIG must list workers alone, and this one among them. Received: "
            f"{os.environ['TF_CONFIG']}."
        )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return Cluster(strategy, index, len(addresses))


def _number(text: str) -> int:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:7], "little")

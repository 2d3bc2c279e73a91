"""Which rows of each batch a worker reads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spdf_keras.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Share:
    """The part of every batch that one worker reads, in an element for each replica.

    Attributes:
        batch_size: Rows per batch, of all workers together.
        num_workers: Workers that share each batch.
        worker: The number of this worker.
        replicas: Elements that the worker's part of a batch comes in.

    Raises:
        InputError: If the workers cannot share the batch.
    """

    batch_size: int
    num_workers: int = 1
    worker: int = 0
    replicas: int = 1

    def __post_init__(self) -> None:
        rest = self.batch_size % max(self.num_workers * self.replicas, 1)
        if self.num_workers < 1 or rest:
            raise InputError(
                "`num_workers` times `replicas` must divide "
                f"batch_size={self.batch_size}. Received: "
                f"num_workers={self.num_workers}, replicas={self.replicas}."
            )
        if not 0 <= self.worker < self.num_workers:
            raise InputError(
                f"`worker` must be 0 to {self.num_workers - 1}. Received: "
                f"worker={self.worker}."
            )

    @property
    def rows(self) -> int:
        """Rows in an element."""
        return self.batch_size // (self.num_workers * self.replicas)

    def elements(self, start: int, stop: int) -> "tf.data.Dataset":
        """The numbers of the elements of batches `start` to `stop - 1`."""
        import tensorflow as tf

        # The thread that tunes an iterator looks around every minute in the end, and
        # the iterator is not freed before. There is nothing to tune here.
        options = tf.data.Options()
        options.autotune.enabled = False
        first, last = start * self.replicas, stop * self.replicas
        return tf.data.Dataset.range(first, last).with_options(options)

    def place(self, element: int) -> tuple[int, int]:
        """The batch of an element, and the element's first row in that batch."""
        batch, replica = divmod(element, self.replicas)
        return batch, (self.worker * self.replicas + replica) * self.rows

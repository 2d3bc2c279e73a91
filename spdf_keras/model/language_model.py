"""How a GPT trains: the loss over tokens, the step, and its parts."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.adapters.dropout import replica_row, step_draws
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.model.fitting.masked_model import MaskedModel, step_inputs
from spdf_keras.model.fitting.shared_block import SharedBlock, are_alike
from spdf_keras.model.fitting.step_kernels import Handles, StepKernels
from spdf_keras.model.fitting.token_mean import (
    TokenMean,
    add_up,
    labels_that_count,
    one_loss,
    token_weights,
)
from spdf_keras.optimization.adamw import AdamW

LossScaleOptimizer = keras.mixed_precision.LossScaleOptimizer


class LanguageModel(MaskedModel):
    """A Keras model of next tokens; `GPT` says what it computes.

    The loss is a mean over *tokens* (weighted by `sample_weight`, also across
    micro-batches and replicas; see `TokenMean`). Training logs `loss`, the mean since
    the start of the epoch, `batch_loss`, the loss of the step alone, the metrics of
    `compile`, and, with our `AdamW`, `gradient_norm`, the global norm before clipping.

    A subclass may have a `train_step`, `compute_loss` or `compute_metrics` of its
    own, as in any Keras model.
    """

    micro_batches = 1
    recompute = False

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        micro_batches: int = 1,
        recompute: bool = False,
        total_steps: int = 0,
        **kwargs: Any,
    ) -> None:
        """Compiles the model.

        Args:
            optimizer: A Keras optimizer.
            loss: A Keras loss of `(labels, logits)`, per token; its reduction is not
                used. `NextTokenCrossentropy()` if None.
            micro_batches: Parts that a training batch is computed in; more where a
                smaller last batch has no such divisor. Loss, gradient and clipping
                are those of the whole batch; metrics see each part as a batch.
            recompute: Compute each block again in the backward pass instead of
                keeping its activations.
            total_steps: Steps of the whole training, for masks that change by a
                schedule; see `SparsityConfig`.
            **kwargs: The other arguments of `keras.Model.compile`.

        Raises:
            InputError: If the model is in float16 and the optimizer does not scale
                the loss, there are several losses or one of probabilities, or
                TensorFlow cannot compile for the replicas in use.
        """
        _check_compilation(kwargs.get("jit_compile"))
        self._check_parts(micro_batches)
        loss = one_loss(loss, kwargs.get("loss_weights"))
        # Otherwise Keras warns at each dataset with sample weights.
        kwargs.setdefault("weighted_metrics", [])
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        with self.distribute_strategy.scope():
            self._set_untracked("compiled_loss", TokenMean(loss))
        # Logged values are already sums over the replicas.
        self.distribute_reduction_method = "first"
        self.micro_batches, self.recompute = int(micro_batches), recompute
        self._prepare_masks(total_steps)
        self._set_untracked("_stop", None)

    def _check_parts(self, micro_batches: int) -> None:
        if not isinstance(micro_batches, int | np.integer) or micro_batches < 1:
            raise InputError(
                "`micro_batches` must be an integer of at least 1. Received: "
                f"{micro_batches!r}."
            )
        overridden = [
            name
            for name in ("compute_loss", "compute_metrics")
            if getattr(type(self), name) is not getattr(LanguageModel, name)
        ]
        if micro_batches > 1 and overridden:
            raise InputError(
                "`micro_batches` must be 1 in a subclass with its own "
                f"`{overridden[0]}`, which cannot be computed in parts. Received: "
                f"{micro_batches}."
            )

    def _get_optimizer(self, optimizer: Any) -> Any:
        """Returns the optimizer itself; Keras would wrap it by the *global* policy."""
        optimizer = keras.optimizers.get(optimizer)
        inner = getattr(optimizer, "inner_optimizer", None)
        return inner if isinstance(inner, AdamW) else optimizer

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        names = ("micro_batches", "recompute", "total_steps")
        ours = {name: getattr(self, name) for name in names}
        return config and {**config, **ours}

    def watch_stop(self) -> tf.Variable:
        """A variable that any worker sets to 1 to stop all after the same step.

        Training logs `stop`, its sum over all replicas. Call it before `fit`.
        """
        self._set_untracked("_stop", tf.Variable(0.0, trainable=False))
        return self._stop

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        token_ids, labels, weights = step_inputs(data)
        kernels = StepKernels(self.blocks, at_use=self.recompute)
        if self.micro_batches == 1:
            loss, gradients, logits = self._loss_and_gradients(
                lambda logits: self.compute_loss(token_ids, labels, logits, weights),
                token_ids,
                kernels,
                lambda: replica_row(tf.shape(token_ids)[0]),
            )
        else:
            loss, gradients = self._accumulate(token_ids, labels, weights, kernels)
        gradients = kernels.spread(
            self.trainable_variables, gradients, self._keeps_moments
        )
        pairs = zip(gradients, self.trainable_variables, strict=True)
        logs = {"batch_loss": add_up(loss)}
        if isinstance(self.optimizer, AdamW):
            native = not self.jit_compile
            logs["gradient_norm"] = self.optimizer.step(pairs, native=native)
        else:
            self.optimizer.apply_gradients(pairs)
        if self._stop is not None:
            logs["stop"] = add_up(tf.identity(self._stop))
        if self.micro_batches == 1:
            results = self.compute_metrics(token_ids, labels, logits, weights)
        else:
            results = self.get_metrics_result()
        return {**results, **logs}

    def _keeps_moments(self, variable: tf.Variable) -> bool:
        """Whether the optimizer takes a packed gradient of a variable."""
        optimizer = self.optimizer
        is_ours = isinstance(optimizer, AdamW)
        return is_ours and optimizer.kept_mask(variable) is not None

    def compute_metrics(
        self, x: Any, y: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any
    ) -> dict[str, tf.Tensor]:
        self._update_metrics(y, y_pred, sample_weight)
        return self.get_metrics_result()

    def _update_metrics(self, labels: Any, logits: Any, weights: Any) -> None:
        if not self._has_metrics:
            return
        if weights is not None:
            weights = token_weights(weights, labels)
            if not self.compiled_metrics._user_metrics:
                labels = labels_that_count(labels, weights)
        self.compiled_metrics.update_state(labels, logits, weights)

    @property
    def _has_metrics(self) -> bool:
        metrics = self.compiled_metrics
        return bool(metrics._user_metrics or metrics._user_weighted_metrics)

    def _training_logits(
        self, token_ids: tf.Tensor, kernels: StepKernels, handles: Handles
    ) -> tf.Tensor:
        shared: SharedBlock | None = None
        if self.recompute:
            self._check_recomputable()
        elif kernels.shares_blocks and self._shares_blocks():
            shared = SharedBlock(self.blocks[0])
        else:
            call = self.__call__
            if self.needs_no_autograph():
                call = tf.autograph.experimental.do_not_convert(call)
            with kernels.bound(self.blocks, handles):
                return call(token_ids, training=True)
        x = self.embedding(token_ids)
        for block in self.blocks:
            if shared is not None:
                x = shared(block, x, kernels.of_block(block, handles))
            else:
                x = _recomputed(block, x, kernels, handles)
        logits = self.embedding(self.final_norm(x), reverse=True)
        return self.get_layer("logits")(logits)

    def _check_recomputable(self) -> None:
        others = self._other_layers()
        if others:
            raise InputError(
                "`recompute` must be false in a model with other layers than a GPT's, "
                f"or with `add_loss` of its tensors. Received: {', '.join(others)}."
            )

    def _other_layers(self) -> list[str]:
        """Names of layers that a GPT does not have."""
        ours = {"token_ids", "embedding", "final_norm", "logits"}
        ours |= {block.name for block in self.blocks}
        return [layer.name for layer in self.layers if layer.name not in ours]

    def needs_no_autograph(self) -> bool:
        """Whether all layers are ours, whose `call` has no Python control flow.

        AutoGraph takes longer for a block than TensorFlow does for its operations.
        """
        kinds = [*type(self).__mro__, *map(type, self._flatten_layers())]
        ours = ("spdf_keras.", "tf_keras.", "tensorflow", "builtins")
        return not self._other_layers() and all(
            kind.__module__.startswith(ours)
            or not {"call", "__call__"} & vars(kind).keys()
            for kind in kinds
        )

    def _shares_blocks(self) -> bool:
        """Whether one trace of a block serves all blocks; see `SharedBlock`."""
        blocks = self.blocks
        # Each block is called once; the input, the embedding (twice), the last norm
        # and the logits are the other calls.
        calls = sum(map(len, self._nodes_by_depth.values()))
        return (
            not tf.executing_eagerly()
            # In loops and in XLA, functions change the last bit of a result.
            and self.micro_batches == 1
            and not self._loops_over_steps()
            and not self.jit_compile
            and tf.distribute.get_strategy().num_replicas_in_sync == 1
            and calls == len(blocks) + 5
            and self.needs_no_autograph()
            and are_alike(blocks)
        )

    def _loops_over_steps(self) -> bool:
        """Whether Keras takes several steps in a loop in the graph."""
        with tf.init_scope():
            steps = self.steps_per_execution
            several = steps is not None and int(steps.numpy()) != 1
        return several or self.autotune_steps_per_execution

    def _loss_and_gradients(
        self,
        loss_of: Callable[[tf.Tensor], tf.Tensor],
        token_ids: tf.Tensor,
        kernels: StepKernels,
        first_row: Callable[[], Any],
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        """The loss, its gradients, packed for kernels of the step, and the logits."""
        # The gradient comes inside, as it may compute blocks again.
        with step_draws(self.optimizer.iterations, first_row):
            return self._of_batch(loss_of, token_ids, kernels)

    def _of_batch(
        self,
        loss_of: Callable[[tf.Tensor], tf.Tensor],
        token_ids: tf.Tensor,
        kernels: StepKernels,
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        optimizer, wraps = (
            self.optimizer,
            isinstance(self.optimizer, LossScaleOptimizer),
        )
        handles = kernels.handles()
        with tf.GradientTape() as tape:
            tape.watch(handles)
            logits = self._training_logits(token_ids, kernels, handles)
            loss = loss_of(logits)
            scaled = loss
            if wraps:
                scaled = optimizer.get_scaled_loss(loss)
            elif isinstance(optimizer, AdamW) and optimizer.scales_loss:
                scaled = loss * optimizer.loss_scale
        with warnings.catch_warnings():
            # The sparse gradient of the lookup is added to a dense one in any case.
            warnings.filterwarnings("ignore", "Converting sparse IndexedSlices")
            variables = self.trainable_variables
            gradients, packed = tape.gradient(scaled, (variables, handles))
        gradients = kernels.merge(variables, gradients, packed)
        # A norm of undeduplicated slices would be wrong.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if wraps:
            gradients = optimizer.get_unscaled_gradients(gradients)
        return loss, gradients, logits

    def _accumulate(
        self,
        token_ids: tf.Tensor,
        labels: tf.Tensor,
        weights: tf.Tensor | None,
        kernels: StepKernels,
        logs: bool = True,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        mean = self.compiled_loss
        shares, total = mean.shares(labels, weights)
        if weights is not None:
            weights = token_weights(weights, labels)
        batch = token_ids.shape[0] or tf.shape(token_ids)[0]
        parts = _equal_parts(batch, self.micro_batches)

        def split(x: Any) -> Any:
            if x is None:
                return None
            sizes = [x.shape[i] or tf.shape(x)[i] for i in range(1, x.shape.rank)]
            return tf.reshape(x, [parts, batch // parts, *sizes])

        inputs = [split(x) for x in (token_ids, labels, shares, weights)]

        def add_part(index: tf.Tensor, loss: tf.Tensor, sums: Any) -> Any:
            ids, targets, part, tokens = (
                None if x is None else x[index] for x in inputs
            )

            def loss_of(logits: tf.Tensor) -> tf.Tensor:
                return mean.of_part(targets, logits, part, tokens, self.losses, parts)

            def first_row() -> tf.Tensor:
                return replica_row(batch) + index * (batch // parts)

            more, gradients, logits = self._loss_and_gradients(
                loss_of, ids, kernels, first_row
            )
            if logs:
                self._update_metrics(targets, logits, tokens)
            sums = [
                total + tf.cast(gradient, total.dtype)
                for total, gradient in zip(sums, gradients, strict=True)
            ]
            return index + 1, loss + more, sums

        zeros = kernels.zeros(self.trainable_variables)
        _, loss, gradients = tf.while_loop(
            lambda index, *_: index < parts,
            add_part,
            (tf.constant(0), tf.constant(0.0), zeros),
            maximum_iterations=parts,
            parallel_iterations=1,
        )
        if logs:
            mean.track(loss, total)
        return loss, gradients


def _equal_parts(batch: Any, least: int) -> Any:
    """Returns the fewest equal parts, at least `least`; none of them is empty."""
    if isinstance(batch, int):
        least = min(least, batch)
        return next(n for n in range(least, batch + 1) if batch % n == 0)
    batch = tf.maximum(batch, 1)  # a replica may get no row of a small batch
    candidates = tf.range(tf.minimum(least, batch), batch + 1)
    divides = tf.cast(tf.equal(batch % candidates, 0), tf.int32)
    return candidates[0] + tf.argmax(divides, output_type=tf.int32)


def _recomputed(
    block: keras.layers.Layer, x: tf.Tensor, kernels: StepKernels, handles: Handles
) -> tf.Tensor:
    """Applies `block`, whose activations are computed again in the backward pass."""
    own = kernels.handles_of(block, handles)

    def run(x: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
        again = dict(zip(own, values, strict=True))
        # Masked kernels need no `x`; without this order those of all blocks would be
        # computed at the start of the pass, and be in memory together.
        with tf.control_dependencies([x]), kernels.bound([block], again):
            return block(x, training=True)

    # Gradients flow to arguments alone.
    return tf.recompute_grad(run)(x, *own.values())


def _check_compilation(jit_compile: Any) -> None:
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    if not jit_compile or jit_compile == "auto" or replicas == 1:
        return
    if any("CPU" in device.upper() for device in strategy.extended.worker_devices):
        raise InputError(
            "`jit_compile` must be false with several replicas on CPUs, which "
            f"TensorFlow's XLA cannot run. Received: jit_compile={jit_compile} with "
            f"{replicas} replicas. Set it to false, or use one replica."
        )

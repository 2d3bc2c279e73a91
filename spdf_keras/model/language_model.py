"""How a GPT trains: the loss over tokens, the step, and its parts."""

import warnings
from typing import Any

import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.model.loss import NextTokenCrossentropy
from spdf_keras.optimizer import AdamW


class LanguageModel(keras.Model):
    """A Keras model of next tokens; `GPT` says what it computes.

    The loss is a mean over *tokens* (weighted by `sample_weight`, also across
    micro-batches and replicas). Training logs `loss`, the mean since the epoch's
    begin, `batch_loss`, that of the step alone, and, with our `AdamW`,
    `gradient_norm`, the global norm before clipping.
    """

    micro_batches = 1
    recompute = False

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        micro_batches: int = 1,
        recompute: bool = False,
        **kwargs: Any,
    ) -> None:
        """Compiles the model.

        Args:
            optimizer: A Keras optimizer.
            loss: A Keras loss of `(labels, logits)`; its reduction is not used.
                `NextTokenCrossentropy()` if None.
            micro_batches: Parts that a training batch is computed in; must
                divide the batch size. Clipping sees the whole batch's gradient.
            recompute: Compute each block again in the backward pass instead of
                keeping its activations.
            **kwargs: The other arguments of `keras.Model.compile`.

        Raises:
            InputError: If the model is in float16 and the optimizer does not scale
                the loss, or TensorFlow cannot compile for the replicas in use.
        """
        _check_compilation(kwargs.get("jit_compile"))
        loss = keras.losses.get(loss) or NextTokenCrossentropy()
        # Said explicitly, or Keras warns at each dataset with sample weights.
        kwargs.setdefault("weighted_metrics", [])
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        # What is logged has been added up over the replicas.
        self.distribute_reduction_method = "first"
        self._prepare_optimizer()
        self.micro_batches, self.recompute = micro_batches, recompute
        self._set_untracked("_loss_tracker", keras.metrics.Mean(name="loss"))
        self._set_untracked("_stop", None)

    def _prepare_optimizer(self) -> None:
        in_float16 = self.embedding.compute_dtype == "float16"
        if isinstance(self.optimizer, AdamW):
            weights, masks = self.named_weights(), self.named_masks()
            pairs = [(weights[path], mask) for path, mask in masks.items()]
            self.optimizer.prepare(pairs, scales_loss=in_float16)
        elif in_float16:
            raise InputError(
                "`optimizer` of a model in mixed_float16 must be spdf_keras' AdamW, "
                f"which scales the loss. Received: {type(self.optimizer).__name__}. "
                "Take it, or precision='mixed_bfloat16'."
            )

    @tf.__internal__.tracking.no_automatic_dependency_tracking
    def _set_untracked(self, name: str, value: Any) -> None:
        """Sets an attribute that is no part of the saved model."""
        setattr(self, name, value)

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        ours = {"micro_batches": self.micro_batches, "recompute": self.recompute}
        return config and {**config, **ours}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        tracker = getattr(self, "_loss_tracker", None)
        extra = self.compiled_metrics.metrics if self.compiled_metrics else []
        return [*([tracker] if tracker else []), *extra]

    def watch_stop(self) -> tf.Variable:
        """A variable that any worker sets to 1 to stop all after the same step.

        Training logs `stop`, its sum over all replicas. Call it before `fit`.
        """
        self._set_untracked("_stop", tf.Variable(0.0, trainable=False))
        return self._stop

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        token_ids, labels, weights, total = self._unpack(data)
        scale = self.optimizer.loss_scale if self._scales else 1.0
        if self.micro_batches == 1:
            loss, gradients = self._loss_and_gradients(
                token_ids, labels, weights, scale
            )
        else:
            loss, gradients = self._accumulate(token_ids, labels, weights, scale)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        logs = {}
        if isinstance(self.optimizer, AdamW):
            logs["gradient_norm"] = self.optimizer.step(pairs)
        else:
            self.optimizer.apply_gradients(pairs)
        self._track(loss, total)
        if self._stop is not None:
            logs["stop"] = _sum(tf.identity(self._stop))
        return {"loss": self._loss_tracker.result(), "batch_loss": _sum(loss), **logs}

    @property
    def _scales(self) -> bool:
        return isinstance(self.optimizer, AdamW) and self.optimizer.scales_loss

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        token_ids, labels, weights, total = self._unpack(data)
        logits = self(token_ids, training=False)
        self._track(self._weighted_loss(labels, logits, weights), total)
        self.compiled_metrics.update_state(labels, logits, weights)
        return {metric.name: metric.result() for metric in self.metrics}

    def _unpack(self, data: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Token ids, labels, weights that add up to 1, and their former sum."""
        token_ids, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is None:
            weights = tf.ones(tf.shape(labels), tf.float32)
        weights = tf.cast(weights, tf.float32)
        total = _sum(tf.reduce_sum(weights))
        return token_ids, labels, tf.math.divide_no_nan(weights, total), total

    def _weighted_loss(
        self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        loss: Any = self.loss
        per_token = getattr(loss, "call", loss)(labels, logits)
        return tf.reduce_sum(weights * per_token)

    def _track(self, loss: tf.Tensor, total: tf.Tensor) -> None:
        # `loss` is this replica's share, so the shares' numerators add up.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._loss_tracker.update_state(loss * replicas, sample_weight=total / replicas)

    def _training_logits(self, token_ids: tf.Tensor) -> tf.Tensor:
        if not self.recompute:
            return self(token_ids, training=True)
        x = self.embedding(token_ids)
        for block in self.blocks:
            x = _recomputed(block)(x)
        logits = self.embedding(self.final_norm(x), reverse=True)
        return self.get_layer("logits")(logits)

    def _loss_and_gradients(
        self, token_ids: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, scale: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The loss, and the gradients of `scale` times it."""
        with tf.GradientTape() as tape:
            logits = self._training_logits(token_ids)
            loss = self._weighted_loss(labels, logits, weights)
            scaled = loss * scale if self._scales else loss
        with warnings.catch_warnings():
            # The token table's gradient of the lookup joins a dense one in any case.
            warnings.filterwarnings("ignore", "Converting sparse IndexedSlices")
            gradients = tape.gradient(scaled, self.trainable_variables)
        # A norm of undeduplicated slices would be wrong.
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _accumulate(
        self, token_ids: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, scale: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        parts = self.micro_batches
        batch = token_ids.shape[0] or tf.shape(token_ids)[0]
        message = f"The batch size must be a multiple of micro_batches={parts}."
        tf.debugging.assert_equal(batch % parts, 0, message=message)
        inputs = [
            tf.reshape(x, [parts, batch // parts, x.shape[1] or tf.shape(x)[1]])
            for x in (token_ids, labels, weights)
        ]

        def add_part(index: tf.Tensor, loss: tf.Tensor, sums: Any) -> Any:
            ids, targets, shares = (x[index] for x in inputs)
            more, gradients = self._loss_and_gradients(ids, targets, shares, scale)
            sums = [
                total + tf.cast(gradient, total.dtype)
                for total, gradient in zip(sums, gradients, strict=True)
            ]
            return index + 1, loss + more, sums

        zeros = [tf.zeros(v.shape, tf.float32) for v in self.trainable_variables]
        _, loss, gradients = tf.while_loop(
            lambda index, *_: index < parts,
            add_part,
            (tf.constant(0), tf.constant(0.0), zeros),
            maximum_iterations=parts,
            parallel_iterations=1,
        )
        return loss, gradients


def _recomputed(block: keras.layers.Layer) -> Any:
    def run(x: tf.Tensor) -> tf.Tensor:
        # Else the masked kernels of all blocks, which need no `x`, are computed at
        # the start of the pass, and are in memory together.
        with tf.control_dependencies([x]):
            return block(x, training=True)

    return tf.recompute_grad(run)


def _sum(x: tf.Tensor) -> tf.Tensor:
    """The sum over replicas; `x` itself where there is one."""
    return tf.distribute.get_replica_context().all_reduce("sum", x)


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

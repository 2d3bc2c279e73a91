"""Every setting: type, default, meaning, valid values.

A setting is a field of one of the frozen dataclasses below; each is one table of a
config file. Nothing here needs TensorFlow.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass, field

from spdf_keras.config.checks import (
    Section,
    check,
    check_fraction,
    check_not_negative,
    check_positive,
    check_sparsity,
)
from spdf_keras.config.methods import method_names

STRATEGIES = ("none", "mirrored", "multi_worker", "tpu")
COMPUTES = ("dense", "sparse", "auto")
ACTIVATIONS = ("gelu_new", "gelu")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# The six matrices of a block, to which masks and adapters apply.
KERNELS = ("query", "key", "value", "attention_output", "intermediate", "output")
_KNOWN = {
    "distribution": ("uniform", "er", "erk"),
    "axis": ("in", "out"),
    "drop_schedule": ("cosine", "constant"),
    "scope": ("matrix", "global"),
}


@dataclass(frozen=True)
class GPTConfig(Section):
    """Sizes of a GPT. Table 1 gives those of the paper's two models.

    Attributes:
        num_layers: Decoder blocks.
        num_heads: Attention heads; must divide `hidden_dim`.
        hidden_dim: Width of the residual stream, `d_model` in the paper.
        intermediate_dim: Width inside the feedforward part; 0 means
            `4 * hidden_dim`, as in the paper.
        vocabulary_size: Token ids run from 0 to `vocabulary_size - 1`.
        max_sequence_length: Positions that have an embedding.
        layer_norm_epsilon: Added to the variance in each LayerNorm.
        activation: Form of GELU in the feedforward part: `gelu_new` is the one with
            tanh, as in GPT-2 and in the paper, `gelu` the exact one with erf, as in
            Cerebras-GPT.
    """

    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    intermediate_dim: int = 0
    vocabulary_size: int = 50257
    max_sequence_length: int = 2048
    layer_norm_epsilon: float = 1e-5
    activation: str = "gelu_new"

    def _check_values(self) -> None:
        if self.intermediate_dim == 0:
            object.__setattr__(self, "intermediate_dim", 4 * self.hidden_dim)
        names = [field.name for field in dataclasses.fields(self)]
        check_positive(self, *(name for name in names if name != "activation"))
        known = self.activation in ACTIVATIONS
        check(self, "activation", known, "one of " + ", ".join(ACTIVATIONS))
        must = f"a multiple of num_heads={self.num_heads}"
        check(self, "hidden_dim", self.hidden_dim % self.num_heads == 0, must)

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters; the tied embedding counts once."""
        d, f = self.hidden_dim, self.intermediate_dim
        block = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
        tables = (self.vocabulary_size + self.max_sequence_length) * d
        return tables + self.num_layers * block + 2 * d


@dataclass(frozen=True)
class SparsityConfig(Section):
    """Masks: how many weights they keep, which ones, and how both change in training.

    Schedules count completed optimizer steps: an update at `t` comes before step
    `t + 1`. Where nothing is said, a method reads no other setting of its kind.

    Attributes:
        sparsity: Fraction of zeros in the six matrices of every block, in `[0, 1)`. 0
            trains the plain dense model. `gmp` and `one_shot` reach it, `redense`
            starts from it.
        seed: Seed of the masks, and of what grows at random.
        method: `static` never changes a mask (the paper's). `set` and `rigl` drop
            small weights and grow as many, at random or by their gradient. `gmp`
            drops by a cubic schedule, `one_shot` at once, `magnitude_ste` in the
            forward pass alone, and `redense` grows weights in stages.
        distribution: `uniform` gives every matrix the same sparsity; `erk` (or `er`,
            which is equal for matrices) gives wide matrices more, at an equal total.
        densities: Densities by pattern of path, such as `"*/output=0.1"`; the first
            that fits counts, and the other matrices share `sparsity` among them.
        structure: `unstructured`, `N:M` (N of M neighbours are kept), or `RxC` (tiles
            of R inputs by C outputs).
        axis: Neighbours of `N:M` are consecutive inputs (`in`) or outputs (`out`).
        begin: First step of the schedule.
        end: Last step of the schedule, included; 0 is three quarters of all steps.
        interval: Steps between updates; one is always made at `end`. `magnitude_ste`
            is published with 1, the others with 100.
        drop_fraction: Fraction of kept weights that `set` and `rigl` replace at first.
        drop_schedule: `cosine` lowers it to 0 at `end`, `constant` does not.
        initial_sparsity: Sparsity from which `gmp` starts.
        stages: Sparsities to which `redense` goes, one after the other.
        shares: Fraction of all steps at which each of them begins.
        scope: `gmp` and `one_shot` rank the weights of one `matrix`, or of all
            (`global`), each over the norm of its matrix.
        regrow: Whether a weight that is dropped may grow again in the same update, and
            then keeps its value.
        own_counts: Whether AdamW corrects its moments by the steps since a weight has
            grown; otherwise by all steps, which moves it up to 6.6 times too far.
    """

    sparsity: float = 0.0
    seed: int = 0
    method: str = "static"
    distribution: str = "uniform"
    densities: tuple[str, ...] = ()
    structure: str = "unstructured"
    axis: str = "in"
    begin: int = 0
    end: int = 0
    interval: int = 100
    drop_fraction: float = 0.3
    drop_schedule: str = "cosine"
    initial_sparsity: float = 0.0
    stages: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    scope: str = "matrix"
    regrow: bool = True
    own_counts: bool = True

    def _check_values(self) -> None:
        check_sparsity(self.sparsity)
        check_not_negative(self, "seed", "begin", "end")
        check_positive(self, "interval")
        check_fraction(self, "drop_fraction", "initial_sparsity")
        for name, known in _KNOWN.items():
            must = "one of " + ", ".join(known)
            check(self, name, getattr(self, name) in known, must)
        known = method_names()
        check(self, "method", self.method in known, "one of " + ", ".join(known))
        after = self.end == 0 or self.end >= self.begin
        check(self, "end", after, f"at least begin={self.begin}, or 0")
        if not self.sparsity:  # a dense model, whatever its method
            return
        if self.method == "gmp":
            must = f"at most sparsity={self.sparsity}"
            ok = self.initial_sparsity <= self.sparsity
            check(self, "initial_sparsity", ok, must)
        if self.method == "redense":
            self._check_stages()

    def check_has_zeros(self) -> None:
        """Refuses a method without zeros, which would train the dense model.

        A study also has dense runs, so this is not checked when settings are made.

        Raises:
            InputError: If `sparsity` is 0 and `method` is not `static`.
        """
        must = f"above 0 with the method {self.method}"
        check(self, "sparsity", self.sparsity > 0 or self.method == "static", must)

    def _check_stages(self) -> None:
        falls = (self.sparsity, *self.stages)
        for sparsity in self.stages:
            check_sparsity(sparsity, " in `stages`")
        ok = len(falls) > 1 and all(a > b for a, b in itertools.pairwise(falls))
        must = f"sparsities that fall from sparsity={self.sparsity}, such as [0.5, 0.0]"
        check(self, "stages", ok, must)
        rises = (0.0, *self.shares, 1.0)
        ok = len(self.shares) == len(self.stages)
        ok = ok and all(a < b for a, b in itertools.pairwise(rises))
        must = "a rising fraction in (0, 1) for each of `stages`, such as [0.5, 0.8]"
        check(self, "shares", ok, must)


@dataclass(frozen=True)
class StepConfig(Section):
    """Settings of an optimizer step, which pre-training and fine-tuning share.

    Attributes:
        batch_size: Sequences in one optimizer step.
        micro_batches: Number of parts in which a batch is computed, one after the
            other; must divide `batch_size`. More parts need less memory.
        learning_rate: Peak of the schedule.
        beta_1: AdamW's decay of the first moment.
        beta_2: AdamW's decay of the second moment. The paper says 0.999; a
            public configuration of the same group has 0.95.
        epsilon: AdamW's epsilon, added after the bias correction.
        weight_decay: Decoupled decay of matrices and of both embedding tables
            (GPT-2's convention); never of biases and LayerNorm.
        clip_norm: Bound of the gradient's global norm; 0 does not clip.
        seed: Seed of the data order, and in pre-training of the initial weights.
        jit_compile: Compile the step with XLA.
        recompute: Compute each block again in the backward pass instead of keeping
            its activations: less memory, for about a third more operations.
        kept_moments: Whether to hold AdamW's moments only for kept weights: true,
            false, or `auto`, which does so where products skip the zeros; see `AdamW`.
        checkpoint_every: Steps between checkpoints; 0 writes one only at the end.
            Fine-tuning also writes one after each epoch.
        keep_checkpoints: Number of the newest checkpoints to keep; the one of the
            lowest validation loss stays too.
    """

    batch_size: int = 256
    micro_batches: int = 1
    learning_rate: float = 6e-4
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0
    jit_compile: bool = False
    recompute: bool = False
    kept_moments: bool | str = "auto"
    checkpoint_every: int = 500
    keep_checkpoints: int = 2

    def _check_values(self) -> None:
        check_positive(self, "batch_size", "micro_batches", "learning_rate", "epsilon")
        check_positive(self, "keep_checkpoints")
        check_not_negative(self, "weight_decay", "clip_norm", "seed")
        check_not_negative(self, "checkpoint_every")
        check_fraction(self, "beta_1", "beta_2")
        known_moments = self.kept_moments in (True, False, "auto")
        check(self, "kept_moments", known_moments, "true, false or auto")
        divides = self.batch_size % self.micro_batches == 0
        must = f"a divisor of batch_size={self.batch_size}"
        check(self, "micro_batches", divides, must)


@dataclass(frozen=True)
class TrainConfig(StepConfig):
    """Pre-training; the defaults are appendix A.1 and Table 1's GPT-2 Small.

    Attributes:
        tokens: Training tokens; 0 means 20 per parameter (Table 1's caption).
        warmup_tokens: Tokens over which the learning rate rises linearly.
        warmup_fraction: The warm-up takes at most this fraction of all tokens, so that
            a small run of a preset does not consist of warm-up; 0.15 leaves the paper's
            375M tokens as they are. If `warmup_tokens` is given and this is not, this
            is 1.
        final_learning_rate: Last value of the cosine, as a fraction of the peak.
        precision: `float32`, `mixed_bfloat16`, or `mixed_float16`, which scales
            the loss. The model keeps it after training.
        compute: How masked products are computed in training: `dense` multiplies the
            zeros, `sparse` skips them (on CPUs, in float32 and mixed_bfloat16), `auto`
            takes the faster way for each shape of kernel; with `jit_compile` that is
            `dense`.
        validate_every: Steps between validation losses; 0 validates only at the end.
    """

    tokens: int = 0
    warmup_tokens: int = 375_000_000
    warmup_fraction: float = 0.15
    final_learning_rate: float = 0.1
    precision: str = "float32"
    compute: str = "dense"
    validate_every: int = 500

    def _check_values(self) -> None:
        super()._check_values()
        check_not_negative(self, "tokens", "warmup_tokens", "validate_every")
        for name in ("final_learning_rate", "warmup_fraction"):
            check(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        known = self.precision in PRECISIONS
        check(self, "precision", known, "one of " + ", ".join(PRECISIONS))
        known = self.compute in COMPUTES
        check(self, "compute", known, "one of " + ", ".join(COMPUTES))
        if self.compute != "dense":
            fits = self.precision != "mixed_float16"
            must = "dense unless precision is float32 or mixed_bfloat16"
            check(self, "compute", fits, must)

    def total_steps(self, model: GPTConfig, sequence_length: int = 0) -> int:
        """Returns the optimizer steps that see all training tokens, rounded up.

        Args:
            model: Gives the number of parameters if `tokens` is 0.
            sequence_length: Tokens per sequence; 0 is the model's context.
        """
        tokens = self._total_tokens(model)
        return math.ceil(tokens / self._step_tokens(model, sequence_length))

    def warmup_steps(self, model: GPTConfig, sequence_length: int = 0) -> int:
        """Returns the optimizer steps of the warm-up, rounded up."""
        most = self.warmup_fraction * self._total_tokens(model)
        tokens = min(self.warmup_tokens, most)
        return math.ceil(tokens / self._step_tokens(model, sequence_length))

    def _total_tokens(self, model: GPTConfig) -> int:
        return self.tokens or 20 * model.num_parameters

    def _step_tokens(self, model: GPTConfig, sequence_length: int) -> int:
        return self.batch_size * int(sequence_length or model.max_sequence_length)


@dataclass(frozen=True)
class FinetuneConfig(StepConfig):
    """Dense fine-tuning; appendix A.2, and the LoRA recipe to which it refers.

    The paper's grid is 8 to 64 for `batch_size`, and 1e-4, 5e-5 and 2.5e-5 for
    `learning_rate`, the peak of a linear schedule.

    Attributes:
        epochs: Largest number of passes over the training examples.
        patience: Epochs without a better validation loss after which training stops.
        warmup_steps: Steps over which the learning rate rises linearly, but at most
            a tenth of all steps.
        sequence_length: Longest example, context and target together, in
            tokens. Batches are padded to their own longest example.
        label_smoothing: Weight of the uniform distribution in the loss.
        keep_masks: Keep the masks and fine-tune only the kept weights. This is the
            baseline for dense fine-tuning.
        lora_rank: Rank of a LoRA adapter; 0 trains the weights themselves. With an
            adapter the weights are frozen, and the masks stay. The LoRA recipe has 4.
        lora_alpha: The adapter's product counts `lora_alpha / lora_rank` times.
        lora_dropout: Fraction of the adapter's inputs that training leaves out.
        lora_targets: The matrices that get an adapter: `query`, `key`, `value`,
            `attention_output`, `intermediate`, `output`.
    """

    batch_size: int = 8
    learning_rate: float = 1e-4
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 0.0
    epochs: int = 5
    patience: int = 1
    warmup_steps: int = 500
    sequence_length: int = 512
    label_smoothing: float = 0.1
    keep_masks: bool = False
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.1
    lora_targets: tuple[str, ...] = ("query", "value")

    def _check_values(self) -> None:
        super()._check_values()
        check_positive(self, "epochs", "patience", "sequence_length", "lora_alpha")
        check_not_negative(self, "warmup_steps", "lora_rank")
        check_fraction(self, "label_smoothing", "lora_dropout")
        _check_targets(self, "lora_targets")

    @property
    def lora(self) -> "LoRAConfig | None":
        """The settings of the adapter; None if the weights themselves are trained."""
        if not self.lora_rank:
            return None
        return LoRAConfig(
            self.lora_rank,
            self.lora_alpha,
            self.lora_dropout,
            self.lora_targets,
            self.seed,
        )


@dataclass(frozen=True)
class LoRAConfig(Section):
    """A LoRA adapter: `x @ W` becomes `x @ W + alpha / rank * (x @ P) @ Q`.

    It is no table of a config file; `FinetuneConfig` has its settings there.

    Attributes:
        rank: Columns of each P, and rows of each Q.
        alpha: See the formula.
        dropout: Fraction of the inputs of P that training leaves out.
        targets: The matrices of every block that have an adapter.
        seed: Seed of the initial P, and of the dropout.

    Reference:
        [Hu et al., 2021](https://arxiv.org/abs/2106.09685).
    """

    rank: int
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")
    seed: int = 0

    def _check_values(self) -> None:
        check_positive(self, "rank", "alpha")
        check_fraction(self, "dropout")
        check_not_negative(self, "seed")
        _check_targets(self, "targets")

    @property
    def scale(self) -> float:
        """The factor of the adapter's product."""
        return self.alpha / self.rank


def _check_targets(section: Section, name: str) -> None:
    targets = getattr(section, name)
    ok = bool(targets) and len({*targets} & {*KERNELS}) == len(targets)
    check(section, name, ok, f"some of {', '.join(KERNELS)}, each once")


@dataclass(frozen=True)
class DecodeConfig(Section):
    """How `generate` and `evaluate` decode.

    The defaults are greedy. The LoRA recipe, which the paper's tables use, is 10
    beams, `length_penalty` 0.8 and `no_repeat_ngram_size` 4: see `configs/e2e.toml`.

    Attributes:
        max_new_tokens: Largest number of new tokens per prompt. The LoRA recipe has 64.
        batch_size: Prompts that are decoded together.
        num_beams: Beams of the beam search; 1 decodes without beam search.
        length_penalty: A beam's score is the sum of its log-probabilities over its
            length to this power; 0 favours short continuations. Only the beam search
            reads it.
        no_repeat_ngram_size: No n-gram of this size occurs twice in a continuation,
            which ends if this leaves no token; 0 allows repetition.
        repetition_penalty: A value above 1 makes tokens less likely that the
            continuation already has; 1 changes nothing.
        sample: Draw tokens at random instead of taking the likeliest.
        temperature: The logits are divided by it before a draw.
        top_k: Draw from this many of the likeliest tokens; 0 is all.
        top_p: Draw from the fewest likeliest tokens that reach this total probability.
        seed: Seed of the draws. The draws of a prompt depend on the seed and on the
            prompt's position.
    """

    max_new_tokens: int = 64
    batch_size: int = 32
    num_beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def _check_values(self) -> None:
        check_positive(self, "max_new_tokens", "batch_size", "num_beams")
        check_positive(self, "repetition_penalty", "temperature")
        check_not_negative(self, "no_repeat_ngram_size", "top_k", "seed")
        check(self, "length_penalty", math.isfinite(self.length_penalty), "finite")
        check(self, "top_p", 0 < self.top_p <= 1, "in (0, 1]")
        draws = self.sample and self.num_beams > 1
        check(self, "num_beams", not draws, "1 where `sample` is true")


@dataclass(frozen=True)
class StudyConfig(Section):
    """The paper's protocol as one job; the defaults are those of appendix A.2.

    Every pair of sparsity and seed is pre-trained once, and every pair of variant and
    seed. Fine-tuning on each task searches the grid of batch sizes and learning rates
    by the validation score: BLEU, or perplexity for the Curation Corpus. The best
    trial is decoded and scored on the test split.

    Attributes:
        tasks: The fine-tuning tasks; none only pre-trains. Settings of `[finetune]`
            and `[decode]` that hold for one task alone follow its name:
            `"webnlg: finetune.epochs=5"`.
        sparsities: Sparsities of pre-training.
        variants: Further pre-trainings by name, each with the settings of `[model]`,
            `[sparsity]` and `[train]` in which it differs:
            `"rigl: sparsity.sparsity=0.75 sparsity.method=rigl"`. They are fine-tuned
            densely.
        seeds: Each is the seed of masks, initial weights and data order at once.
        equal_operations: Give each pre-training as many tokens as the operations of a
            dense one of `[model]` allow, zeros skipped: a sparse one gets more.
        batch_sizes: Batch sizes of the grid.
        learning_rates: Learning rates of the grid.
        search_seeds: Number of seeds that each search the grid; the other seeds take
            the best trial of the first seed. 0 is all.
        sparse_finetuning: Also fine-tune with the masks kept, at each sparsity
            above 0, with a separate search.
        corpus: Files in the data folder to pre-train on, without `.gz`.
        task_text: Also pre-train on the targets of the tasks' training splits.
        sequence_length: Tokens per sequence of pre-training; 0 is the model's context.
        train_inputs: Number of inputs of the training split to use, evenly spread
            over it; 0 is all.
        validation_inputs: The same for the validation split.
        search_beams: Number of beams when the trials of the search are decoded.
        notes: Sentences for the report; one that begins with a task's name, as in
            `"dart: a part of its dev split"`, is shown with that task's tables.
    """

    tasks: tuple[str, ...] = ("e2e",)
    sparsities: tuple[float, ...] = (0.0, 0.5, 0.75)
    variants: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    equal_operations: bool = False
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    learning_rates: tuple[float, ...] = (1e-4, 5e-5, 2.5e-5)
    search_seeds: int = 0
    sparse_finetuning: bool = True
    corpus: tuple[str, ...] = ("wikitext2/train.txt",)
    task_text: bool = True
    sequence_length: int = 0
    train_inputs: int = 0
    validation_inputs: int = 0
    search_beams: int = 1
    notes: tuple[str, ...] = ()

    def _check_values(self) -> None:
        for name in ("seeds", "batch_sizes", "learning_rates"):
            values = getattr(self, name)
            different = len(set(values)) == len(values) > 0
            check(self, name, different, "one or more values, each once")
        different = len(set(self.sparsities)) == len(self.sparsities)
        has_any = bool(self.sparsities or self.variants)
        must = "one or more values, each once; none if there are variants"
        check(self, "sparsities", different and has_any, must)
        for sparsity in self.sparsities:
            check_sparsity(sparsity)
        check(self, "seeds", min(self.seeds) >= 0, "at least 0")
        for name in ("batch_sizes", "learning_rates"):
            check(self, name, min(getattr(self, name)) > 0, "positive")
        counts = ("search_seeds", "sequence_length", "train_inputs")
        check_not_negative(self, *counts, "validation_inputs")
        check_positive(self, "search_beams")
        has_text = bool(self.corpus) or self.task_text
        check(self, "corpus", has_text, "a file or more where `task_text` is false")


@dataclass(frozen=True)
class Config:
    """All settings of an experiment, as a config file and a run hold them.

    Attributes:
        model: The `[model]` table.
        sparsity: The `[sparsity]` table.
        train: The `[train]` table.
        finetune: The `[finetune]` table.
        decode: The `[decode]` table.
        study: The `[study]` table; only `spdf-keras study` reads it.
    """

    model: GPTConfig = field(default_factory=GPTConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    study: StudyConfig = field(default_factory=StudyConfig)

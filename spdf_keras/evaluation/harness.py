r"""Runs as models of lm-evaluation-harness.

From the shell, this module is the harness's own command with one model more:

    python -m spdf_keras.evaluation.harness --model spdf --model_args run=RUN \
      --tasks piqa

From Python, `harness_model("RUN")` is an object for `lm_eval.simple_evaluate`. The
package `lm_eval` is not a dependency: install the extra `harness`.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

from spdf_keras.config import DecodeConfig, config_from_tables
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation.perplexity import score_text

# Tokens of a continuation if a task does not say; the harness's own models take as
# many.
_MAX_NEW_TOKENS = 256


def harness_model(run: str, batch_size: Any = None) -> Any:
    """Loads a run as a model of the harness.

    Args:
        run: Folder of the run.
        batch_size: Prompts that are decoded together; None is the run's setting. For
            log-likelihoods, sequences of similar length share batches of their own.

    Raises:
        InputError: If the harness is not installed, or the folder is no run.

    Example:
        >>> import lm_eval  # doctest: +SKIP
        >>> model = harness_model("runs/s75")  # doctest: +SKIP
        >>> lm_eval.simple_evaluate(model=model, tasks=["piqa"])  # doctest: +SKIP
    """
    return harness_class()(run=run, batch_size=batch_size)


class RunScorer:
    """A model and its tokenizer with the computations that the harness asks for.

    Args:
        model: A GPT.
        tokenizer: Its tokenizer.
        settings: `[decode]` settings; `batch_size` is used.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, settings: DecodeConfig
    ) -> None:
        from spdf_keras.model.likelihood import Likelihood

        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.context = model.embedding.max_sequence_length
        self._likelihood = Likelihood(model)

    def loglikelihoods(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[tuple[float, bool]]:
        """Scores continuations, each given its context.

        A pair that is too long loses tokens on the left, as in the harness.

        Args:
            pairs: Token ids of a context, at least one, and of its continuation.

        Returns:
            For each the sum of log-probabilities, and whether greedy decoding would
            give it.
        """
        sequences = []
        for context, continuation in pairs:
            whole = [*context, *continuation][-(self.context + 1) :]
            sequences.append((whole, max(len(whole) - len(continuation), 1)))
        return [
            (float(scores.logprobs.sum(dtype="float64")), bool(scores.is_best.all()))
            for scores in self._likelihood(sequences)
        ]

    def rolling(self, text: str) -> float:
        """The log-likelihood of a whole text; see `rolling_windows`."""
        if not text:
            return 0.0
        found = score_text(self._likelihood, self.tokenizer, text, self.context)
        return found.loglikelihood

    def continuations(
        self, prompts: Sequence[Sequence[int]], settings: dict[str, Any]
    ) -> list[str]:
        """Continues prompts up to the first of some texts.

        Args:
            prompts: Token ids; a prompt that leaves no room loses tokens on the left.
            settings: `until`, `max_gen_toks`, `do_sample`, `temperature`, `top_p` and
                `top_k`, as the harness has them.

        Raises:
            InputError: If another setting is given.
        """
        stops, decode = decode_settings(settings, self.settings)
        room = self.context - decode.max_new_tokens
        if room < 1:
            raise InputError(
                "`max_gen_toks` must leave room for a prompt in the context of "
                f"{self.context} tokens. Received: "
                f"max_gen_toks={decode.max_new_tokens}."
            )
        outputs = self.model.generate(
            [list(prompt)[-room:] for prompt in prompts],
            end_token_ids=self._ends(stops),
            **vars(decode),
        )
        return [_cut(self.tokenizer.decode(ids), stops) for ids in outputs]

    def _ends(self, stops: Sequence[str]) -> list[int]:
        """Tokens at which decoding can end: a stop string starts with the token.

        Other stop strings are found in the text; these save the steps behind them.
        """
        vocabulary = self.tokenizer.vocabulary
        starts = [
            number
            for number in vocabulary.values()
            if any(map(self.tokenizer.decode([number]).startswith, stops))
        ]
        return sorted({self.tokenizer.end_token_id, *starts})


def decode_settings(
    given: dict[str, Any], base: DecodeConfig
) -> tuple[list[str], DecodeConfig]:
    """Reads the harness's settings of a generation.

    Args:
        given: From a task.
        base: `batch_size` and `seed` are used.

    Returns:
        The texts that end a continuation, and settings for `generate`.

    Raises:
        InputError: If a setting is unknown.

    Example:
        >>> stops, decode = decode_settings({"until": "."}, DecodeConfig())
        >>> stops, decode.max_new_tokens, decode.sample
        (['.'], 256, False)
    """
    rest = dict(given)
    until = rest.pop("until", None) or []
    stops = [until] if isinstance(until, str) else list(until)
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    limits = [value for name in names if (value := rest.pop(name, None)) is not None]
    temperature = rest.pop("temperature", None)
    # As in the harness, a temperature of 0 is greedy, and without one nothing is drawn.
    sample = bool(rest.pop("do_sample", bool(temperature))) and temperature != 0
    table = {
        "batch_size": base.batch_size,
        "seed": base.seed,
        "max_new_tokens": limits[0] if limits else _MAX_NEW_TOKENS,
        "sample": sample,
    }
    filters = {name: rest.pop(name, None) for name in ("top_p", "top_k")}
    if sample:
        table["temperature"] = 1.0 if temperature is None else temperature
        table.update({n: v for n, v in filters.items() if v is not None})
    if rest:
        raise InputError(
            f"`{sorted(rest)[0]}` is a setting of generation that this model does not "
            "have. Leave it out with `--gen_kwargs`."
        )
    return [stop for stop in stops if stop], config_from_tables(
        {"decode": table}
    ).decode


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text


@cache
def harness_class() -> Any:
    """The class of the harness's models; it exists once `lm_eval` is imported.

    Raises:
        InputError: If the harness is not installed.
    """
    try:
        from lm_eval.api.model import TemplateLM
    except ImportError as error:
        raise InputError(
            "Evaluation with lm-evaluation-harness needs the package lm_eval, which is "
            "not installed. Install the extra `harness`: pip install "
            "'spdf-keras[harness]'."
        ) from error

    class HarnessModel(TemplateLM):
        """A run as the harness sees it; `RunScorer` computes."""

        def __init__(self, run: str, batch_size: Any = None, **unused: Any) -> None:
            super().__init__()
            self._scorer = _load(run, batch_size)
            self._name = str(run)

        @property
        def eot_token_id(self) -> int:
            return self._scorer.tokenizer.end_token_id

        @property
        def max_length(self) -> int:
            return int(self._scorer.context)

        @property
        def max_gen_toks(self) -> int:
            return _MAX_NEW_TOKENS

        @property
        def tokenizer_name(self) -> str:
            return self._name.replace("/", "__")

        def tok_encode(
            self,
            string: str,
            add_special_tokens: bool | None = None,
            **unused: Any,
        ) -> list[int]:
            return self._scorer.tokenizer.encode(string)

        def _loglikelihood_tokens(
            self, requests: Sequence[Any], **unused: Any
        ) -> list[tuple[float, bool]]:
            pairs = [(request[1], request[2]) for request in requests]
            results = self._scorer.loglikelihoods(pairs)
            for (texts, *_), result in zip(requests, results, strict=True):
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, result)
            return results

        def loglikelihood_rolling(
            self, requests: Sequence[Any], disable_tqdm: bool = False
        ) -> list[float]:
            results = []
            for request in requests:
                value = self._scorer.rolling(request.args[0])
                results.append(value)
                self.cache_hook.add_partial(
                    "loglikelihood_rolling", request.args, value
                )
            return results

        def generate_until(
            self, requests: Sequence[Any], disable_tqdm: bool = False
        ) -> list[str]:
            results: dict[int, str] = {}
            for rows in _by_settings(requests):
                prompts = [
                    self.tok_encode(requests[row].args[0]) or [self.prefix_token_id]
                    for row in rows
                ]
                given = requests[rows[0]].args[1]
                texts = self._scorer.continuations(prompts, given)
                results.update(zip(rows, texts, strict=True))
                for row, text in zip(rows, texts, strict=True):
                    self.cache_hook.add_partial(
                        "generate_until", requests[row].args, text
                    )
            return [results[row] for row in range(len(requests))]

    return HarnessModel


def _by_settings(requests: Sequence[Any]) -> list[list[int]]:
    """Groups requests for generation by their settings."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, request in enumerate(requests):
        groups[repr(request.args[1])].append(row)
    return list(groups.values())


def _load(run: str, batch_size: Any) -> RunScorer:
    from dataclasses import replace

    from spdf_keras.training.run import Run

    source = Run.open(run)
    settings = source.config().decode
    if batch_size not in (None, "auto"):
        settings = replace(settings, batch_size=int(batch_size))
    return RunScorer(source.load_model(), source.tokenizer(), settings)


def __getattr__(name: str) -> Any:
    """Lets the harness's registry find the class by its name."""
    if name == "HarnessModel":
        return harness_class()
    raise AttributeError(name)


def register() -> None:
    """Registers the class in the harness under the name `spdf`."""
    model = harness_class()
    from lm_eval.api.registry import register_model

    register_model("spdf")(model)


def main() -> None:
    """Runs the harness's command, which knows the model `spdf` then."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except InputError as error:
        print(f"spdf: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

"""The model of lm-evaluation-harness: against the harness's own for transformers."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import build_gpt
from spdf_keras.config import Config, DecodeConfig, GPTConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation import harness
from spdf_keras.evaluation.harness import RunScorer, decode_settings
from spdf_keras.training.run import Run

TEXT = "The harbour has boats.  The café has guests,\nand the city has both.\n"
SIZES = GPTConfig(2, 2, 32, vocabulary_size=300, max_sequence_length=48)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT * 3], 300)


@pytest.fixture(scope="module")
def model() -> Any:
    model = build_gpt(SIZES)
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(4 * weight)
    return model


@pytest.fixture(scope="module")
def scorer(model: Any, tokenizer: Tokenizer) -> RunScorer:
    return RunScorer(model, tokenizer, DecodeConfig(batch_size=3))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, model: Any) -> Path:
    from spdf_keras.training.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("harness") / "run"
    made = Run.create(folder, Config(model=SIZES), tokenizer, {"kind": "pretrain"})
    save_checkpoint(model, made.checkpoint_folder, 1, keep=1)
    made.finish({})
    return folder


def test_a_pair_that_is_too_long_loses_tokens_on_the_left(
    scorer: RunScorer, model: Any
) -> None:
    ids = np.random.default_rng(0).integers(0, 300, 60).tolist()
    [(found, is_greedy)] = scorer.loglikelihoods([(ids[:55], ids[55:])])
    logits = model(np.array([ids[-49:-1]]))[0].numpy().astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = sum(logprobs[48 + place, ids[place]] for place in range(-5, 0))
    assert found == pytest.approx(expected, rel=1e-5) and not is_greedy


def test_the_greedy_continuation_is_greedy(scorer: RunScorer, model: Any) -> None:
    [best] = model.generate([[1, 2, 3]], max_new_tokens=4)
    other = [*best[:3], (best[3] + 1) % 300]
    pairs = [([1, 2, 3], best), ([1, 2, 3], other)]
    assert [flag for _, flag in scorer.loglikelihoods(pairs)] == [True, False]


def test_a_continuation_is_cut_at_the_first_stop_string(
    scorer: RunScorer, model: Any, tokenizer: Tokenizer
) -> None:
    prompts = [tokenizer.encode(text) for text in ("The", "café", "and the city")]
    whole = scorer.continuations(prompts, {"max_gen_toks": 20})
    stops = [text[8:10] for text in whole]
    cut = scorer.continuations(prompts, {"max_gen_toks": 20, "until": stops})
    for text, short in zip(whole, cut, strict=True):
        place = min(text.find(stop) for stop in stops if stop in text)
        assert short == text[:place]


def test_a_long_prompt_leaves_room_for_its_continuation(scorer: RunScorer) -> None:
    prompt = list(range(100))
    [found] = scorer.continuations([prompt], {"max_gen_toks": 8})
    assert [found] == scorer.continuations([prompt[-40:]], {"max_gen_toks": 8})
    with pytest.raises(
        InputError, match="leave room for a prompt in the context of 48"
    ):
        scorer.continuations([prompt], {"max_gen_toks": 48})


@pytest.mark.parametrize(
    "given, sample, temperature",
    [
        ({}, False, 1.0),
        ({"temperature": 0.0}, False, 1.0),
        ({"do_sample": True, "temperature": 0.0}, False, 1.0),
        ({"do_sample": False, "temperature": 0.7}, False, 1.0),
        ({"do_sample": True, "temperature": 0.7, "top_k": 5}, True, 0.7),
        ({"do_sample": True}, True, 1.0),
    ],
)
def test_settings_of_a_task_are_those_of_decoding(
    given: dict[str, Any], sample: bool, temperature: float
) -> None:
    stops, decode = decode_settings({"until": ["\n", ""], **given}, DecodeConfig())
    assert stops == ["\n"]
    assert (decode.sample, decode.temperature) == (sample, temperature)
    assert decode.top_k == given.get("top_k", 0)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(InputError, match="`num_beams` is a setting"):
        decode_settings({"num_beams": 4}, DecodeConfig())


def test_without_the_harness_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # An import of a module that is None fails, as if it were not installed.
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    harness.harness_class.cache_clear()
    try:
        with pytest.raises(InputError, match=r"spdf-keras\[harness\]"):
            harness.harness_model("run")
        with pytest.raises(SystemExit, match="2"):
            harness.main()
        assert len(capsys.readouterr().err.splitlines()) == 1
    finally:
        harness.harness_class.cache_clear()


def write_tasks(folder: Path) -> list[str]:
    """Tasks of all kinds, from files: nothing is loaded from elsewhere."""
    # No page repeats another one: the harness's cache of logits would mix up windows
    # with equal tokens, of which different numbers are predicted.
    rows = [
        {
            "page": TEXT[number:] * (1 + number),
            "question": TEXT[:number],
            "right": number % 3,
        }
        for number in range(2, 8)
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks: dict[str, dict[str, Any]] = {
        "loglikelihood_rolling": {
            "doc_to_text": "",
            "doc_to_target": "{{page}}",
            "metrics": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
        },
        "multiple_choice": {
            "doc_to_text": "{{question}}",
            "doc_to_target": "right",
            "doc_to_choice": ["boats", "the guests", "a city of both"],
            "metrics": ["acc", "acc_norm"],
        },
        "loglikelihood": {
            "doc_to_text": "{{question}} ",
            "doc_to_target": "boats",
            "metrics": ["perplexity", "acc"],
        },
        "generate_until": {
            "doc_to_text": "{{question}}",
            "doc_to_target": "boats",
            "generation_kwargs": {"until": ["e", "at"], "max_gen_toks": 12},
            "metrics": ["exact_match"],
        },
    }
    for kind, task in tasks.items():
        metrics = [{"metric": name} for name in task.pop("metrics")]
        content = {
            "task": f"spdf_{kind}",
            "output_type": kind,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "metadata": {"version": 0},
            "metric_list": metrics,
            **task,
        }
        (folder / f"{kind}.yaml").write_text(json.dumps(content))  # JSON is YAML
    return [f"spdf_{kind}" for kind in tasks]


def torch_twin(model: Any, tokenizer: Tokenizer) -> Any:
    """The harness's own model for transformers, with the same weights."""
    import tokenizers
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM

    sizes = model.sizes
    config = transformers.GPT2Config(
        vocab_size=sizes.vocabulary_size,
        n_positions=sizes.max_sequence_length,
        n_embd=sizes.hidden_dim,
        n_layer=sizes.num_layers,
        n_head=sizes.num_heads,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=tokenizer.end_token_id,
        eos_token_id=tokenizer.end_token_id,
    )
    twin = transformers.GPT2LMHeadModel(config)
    weights = {path: w.numpy() for path, w in model.named_weights().items()}
    names = {
        "embedding/token": "wte.weight",
        "embedding/position": "wpe.weight",
        "final_norm/gamma": "ln_f.weight",
        "final_norm/beta": "ln_f.bias",
    }
    state = {theirs: weights[ours] for ours, theirs in names.items()}
    parts = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    places = {
        "attention_norm": "ln_1",
        "attention_output": "attn.c_proj",
        "feedforward_norm": "ln_2",
        "intermediate": "mlp.c_fc",
        "output": "mlp.c_proj",
    }
    for number in range(sizes.num_layers):
        for part in ("kernel", "bias"):
            thirds = [
                weights[f"block_{number}/{name}/{part}"]
                for name in ("query", "key", "value")
            ]
            state[f"h.{number}.attn.c_attn.{parts[part]}"] = np.concatenate(thirds, -1)
        for path, value in weights.items():
            block, _, rest = path.partition("/")
            layer, _, part = rest.partition("/")
            if block == f"block_{number}" and layer in places:
                state[f"h.{number}.{places[layer]}.{parts[part]}"] = value
    tensors = {f"transformer.{n}": torch.tensor(value) for n, value in state.items()}
    missing, unexpected = twin.load_state_dict(tensors, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    twin.tie_weights()
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(tokenizer.to_json()),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    return HFLM(pretrained=twin.eval(), tokenizer=theirs, batch_size=4, device="cpu")


@pytest.mark.filterwarnings("default")  # those of other people's packages
def test_scores_equal_those_of_the_harness_for_transformers(
    run: Path, model: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    reason = "needs the extra `harness`, torch and transformers"
    lm_eval = pytest.importorskip("lm_eval", reason=reason)
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=reason)
    from lm_eval.tasks import TaskManager

    tasks = write_tasks(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)

    def results(of: Any) -> Any:
        return lm_eval.simple_evaluate(
            model=of, tasks=tasks, task_manager=manager, log_samples=True
        )

    ours, theirs = (
        results(harness.harness_model(str(run))),
        results(torch_twin(model, tokenizer)),
    )
    for task in tasks:
        for name, value in theirs["results"][task].items():
            if isinstance(value, float):
                found = ours["results"][task][name]
                assert found == pytest.approx(value, rel=1e-6, nan_ok=True), name
        for one, other in zip(
            ours["samples"][task], theirs["samples"][task], strict=True
        ):
            if task == "spdf_generate_until":
                assert one["resps"] == other["resps"]


@pytest.mark.filterwarnings("default")
def test_the_harness_finds_the_model_by_its_name(run: Path, tmp_path: Path) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="needs the extra `harness`")
    from lm_eval.tasks import TaskManager

    harness.register()
    write_tasks(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="spdf",
        model_args=f"run={run}",
        tasks=["spdf_multiple_choice"],
        task_manager=manager,
    )
    assert 0 <= found["results"]["spdf_multiple_choice"]["acc,none"] <= 1

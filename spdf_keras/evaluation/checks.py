"""Checks that inputs and outputs fit into what the model sees at once."""

from collections.abc import Mapping, Sequence

from spdf_keras.config import Config
from spdf_keras.data.tasks.examples import EncodedPairs
from spdf_keras.data.tasks.task import PERPLEXITY, Example, Task
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError


def context_room(config: Config) -> int:
    """The most tokens of a context that leave room for the output in a sequence.

    Raises:
        InputError: If no token of the context would be left.
    """
    length = min(config.finetune.sequence_length, config.model.max_sequence_length)
    room = length - config.decode.max_new_tokens
    if room < 2:  # one token of the context, and the separator
        raise InputError(
            "`decode.max_new_tokens` must leave room for a context in the sequence "
            f"of {length} tokens. Received: max_new_tokens="
            f"{config.decode.max_new_tokens}."
        )
    return room


def check_contexts(
    tokenizer: Tokenizer,
    contexts: Sequence[str],
    length: int,
    what: str = "Example",
    separator: bool = True,
) -> None:
    """Refuses a context that leaves no room for a token, by its number and beginning.

    Args:
        tokenizer: Encodes them.
        contexts: See `generate_texts`; none of them is cut.
        length: Tokens that the model sees at once.
        what: Names a context, before its number; the first is 1.
        separator: Whether each is closed by one token more.
    """
    for number, token_ids in enumerate(tokenizer.encode_batch(contexts), 1):
        size = len(token_ids) + separator
        if size >= length:
            raise InputError(
                f"{what} {number} has {size} tokens, and the model sees {length} at "
                "once, one of which it must add. Shorten it, or take a model with a "
                f"longer context: '{contexts[number - 1][:60]}...'."
            )


def check_data(
    tokenizer: Tokenizer,
    splits: Mapping[str, Sequence[Example]],
    config: Config,
    task: Task,
) -> None:
    """Refuses at once what fine-tuning or decoding would refuse later.

    Args:
        tokenizer: The tokenizer of the model that will be trained.
        splits: The examples by split: `train`, `validation`, `test` or some of them.
        config: `model`, `finetune` and `decode` are used.
        task: It decides the score and whether long contexts are cut.

    Raises:
        InputError: If an example is too long, which the message names by number and
            split, or the settings do not fit the model.
    """
    from spdf_keras.model.decoding.generator import check_beams

    check_beams(config.decode, config.model.vocabulary_size)
    by_perplexity = task.protocol == PERPLEXITY
    longest = min(config.finetune.sequence_length, config.model.max_sequence_length)
    if task.cut_context:
        context_room(config)
    for split, examples in splits.items():
        if split != "test" or by_perplexity:
            name = f"{split} split"
            EncodedPairs.encode(examples, tokenizer, longest, task.cut_context, name)
        if split != "train" and not task.cut_context:
            contexts = [e.context for e in examples]
            what = f"In the {split} split, example"
            check_contexts(tokenizer, contexts, config.model.max_sequence_length, what)

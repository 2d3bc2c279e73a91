"""Opens a GPT-2 checkpoint in Hugging Face's layout."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spdf_keras.errors import InputError
from spdf_keras.interchange.foreign import ForeignModel, Weights
from spdf_keras.interchange.huggingface import masks, settings
from spdf_keras.interchange.huggingface.generation import read_decoding
from spdf_keras.interchange.huggingface.names import tensors
from spdf_keras.interchange.huggingface.tensors import StoredTensors
from spdf_keras.interchange.huggingface.tokenizer import read_tokenizer
from spdf_keras.interchange.json_files import read_json

if TYPE_CHECKING:
    from spdf_keras.config import GPTConfig
    from spdf_keras.model.gpt import GPT

_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def from_huggingface(folder: str | Path) -> "GPT":
    """Loads a GPT-2 checkpoint in Hugging Face's layout, such as GPT-2 or Cerebras-GPT.

    The folder has `config.json` and safetensors, in one file or in shards, with or
    without the prefix `transformer.` and the tied head. Weights in float16 and bfloat16
    are widened to float32. If it has the `masks.safetensors` of an export of this
    package, the model gets these masks; otherwise it is dense. Nothing in the folder is
    run as code. `read_tokenizer` reads its tokenizer.

    Args:
        folder: The folder; nothing is downloaded.

    Returns:
        The model, compiled for pre-training as `build_gpt` compiles one. It computes
        the logits of transformers' model, up to the rounding of sums.

    Raises:
        InputError: If a file is missing or damaged, the weights are no safetensors,
            or the model is none that a GPT here can be; what differs is named.
    """
    from spdf_keras.config import TrainConfig
    from spdf_keras.model.build import compile_for_pretraining

    model = open_huggingface(folder).build()
    compile_for_pretraining(model, TrainConfig())
    return model


def open_huggingface(folder: str | Path) -> ForeignModel:
    """Opens a checkpoint, and checks all but the values of its weights.

    Args:
        folder: As in `from_huggingface`; so are the errors.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"There is no folder '{folder}'. Give a folder with the files of a "
            "checkpoint; nothing is downloaded."
        )
    file = folder / settings.FILE
    if not file.is_file():
        raise InputError(
            f"No model in '{folder}': there is no {settings.FILE}. Give the folder of "
            "a GPT-2 checkpoint of Hugging Face."
        )
    fields = read_json(file, "the settings of the model")
    sizes = settings.read_sizes(fields, file)
    stored = StoredTensors(folder)
    stored.check(sizes)
    sparsity, own_masks = masks.read_masks(folder, sizes)
    decode, notes = read_decoding(folder)
    return ForeignModel(
        sizes=sizes,
        read=partial(_weights, stored, sizes),
        tokenizer=partial(read_tokenizer, folder),
        decode=decode,
        sparsity=sparsity,
        masks=own_masks,
        notes=(*notes, *_dropouts(fields)),
        origin={"format": "huggingface", "folder": folder.resolve().name},
        files=tuple(stored.files),
    )


def _weights(stored: StoredTensors, sizes: "GPTConfig") -> Weights:
    for tensor in tensors(sizes):
        yield from stored.read(tensor).items()


def _dropouts(fields: dict[str, Any]) -> list[str]:
    named = [f"{name}={fields[name]}" for name in _DROPOUTS if fields.get(name)]
    if not named:
        return []
    return [f"A GPT here trains without dropout: {', '.join(named)} has no effect."]

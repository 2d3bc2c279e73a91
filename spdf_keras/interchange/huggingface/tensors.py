"""The safetensors files of a checkpoint: one, or shards with an index."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.interchange.huggingface.names import (
    HEAD,
    PREFIX,
    TOKEN_TABLE,
    Tensor,
    tensors,
)
from spdf_keras.interchange.json_files import read_json
from spdf_keras.parsing import load_json

FILE = "model.safetensors"
INDEX = f"{FILE}.index.json"
# Causal masks that old files store as tensors; they are constants.
_CONSTANTS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
# Files of weights that hold code, or need the library that wrote them.
_OTHER_WEIGHTS = re.compile(r".+\.(bin|pt|pth|ckpt|pkl|pickle|h5|msgpack|gguf|onnx)")
_DTYPES = ("F32", "F16", "BF16")
# Tensors that an error names.
_NAMED = 3


@dataclass(frozen=True)
class _Stored:
    """Where a tensor is stored, and under which name."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str


class StoredTensors:
    """The tensors of a checkpoint, read one at a time.

    Args:
        folder: The folder of the checkpoint.

    Attributes:
        files: The safetensors files.

    Raises:
        InputError: If there are no safetensors, a file is damaged, or the index names
            a file outside the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stored: dict[str, _Stored] = {}
        self._readers: dict[Path, Any] = {}
        self.files: list[Path] = []
        single = folder / FILE
        if single.is_file():
            keys: dict[Path, Sequence[str] | None] = {single: None}
        elif (folder / INDEX).is_file():
            keys = _shards(folder)
        else:
            raise _no_weights(folder)
        for file, names in keys.items():
            self._open(file, names)

    def _open(self, file: Path, names: Sequence[str] | None) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            reader = safe_open(file, "np")
            found = list(reader.keys())
            for key in found if names is None else names:
                if key not in found:
                    raise InputError(
                        f"'{file}' must hold the tensor '{key}', which the index "
                        f"'{INDEX}' looks for in it. Fetch the checkpoint again."
                    )
                about = reader.get_slice(key)
                self._add(
                    _Stored(file, key, tuple(about.get_shape()), about.get_dtype())
                )
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"'{file}' is no complete safetensors file: {error}. Fetch it again."
            ) from error
        self._readers[file] = reader
        self.files.append(file)

    def _add(self, stored: _Stored) -> None:
        name = stored.key.removeprefix(PREFIX)
        if _CONSTANTS.fullmatch(name):
            return
        if name in self._stored:
            raise InputError(
                f"Each tensor in '{self._folder}' must be stored once. Received: "
                f"'{self._stored[name].key}' and '{stored.key}'."
            )
        if stored.dtype not in _DTYPES:
            raise InputError(
                f"The tensors in '{stored.file}' must be float32, float16 or bfloat16. "
                f"Received: '{stored.key}' of {stored.dtype}."
            )
        self._stored[name] = stored

    def check(self, sizes: GPTConfig) -> None:
        """Refuses tensors that are not those of a GPT with these sizes.

        Raises:
            InputError: If one is missing, unknown or of another shape, or the head is
                not tied to the token table; the first ones are named.
        """
        wrong: list[str] = []
        names = {HEAD}
        # A file may claim any number of blocks, so the first errors end the search.
        for tensor in tensors(sizes):
            names.add(tensor.name)
            stored = self._stored.get(tensor.name)
            if stored is None:
                wrong.append(f"'{tensor.name}' is missing")
            elif stored.shape != tensor.shape:
                wrong.append(
                    f"'{stored.key}' has shape {stored.shape} in place of "
                    f"{tensor.shape}"
                )
            if len(wrong) > _NAMED:
                break
        else:
            wrong += [
                f"'{stored.key}' is unknown"
                for name, stored in self._stored.items()
                if name not in names
            ]
        if wrong:
            more = " and others" if len(wrong) > _NAMED else ""
            raise InputError(
                f"The tensors in '{self._folder}' must be those of the GPT-2 in its "
                f"config.json. Received: {', '.join(wrong[:_NAMED])}{more}."
            )
        if HEAD in self._stored:
            self._check_head()

    def _check_head(self) -> None:
        head, table = (self._read(name) for name in (HEAD, TOKEN_TABLE))
        if head.shape != table.shape or not np.array_equal(head, table):
            raise InputError(
                f"'{HEAD}' in '{self._folder}' must equal '{TOKEN_TABLE}', as a GPT "
                "here uses one table for both. Received: other values."
            )

    def read(self, tensor: Tensor) -> dict[str, NDArray[np.float32]]:
        """Reads a tensor, widened to float32, as our weights by path.

        Raises:
            InputError: If it has NaN or infinity.
        """
        array = self._read(tensor.name)
        if not np.isfinite(array).all():
            raise InputError(
                f"The weights in '{self._folder}' must be finite. Received: NaN or "
                f"infinity in '{self._stored[tensor.name].key}'."
            )
        return tensor.split(array)

    def _read(self, name: str) -> NDArray[np.float32]:
        stored = self._stored[name]
        if stored.dtype == "BF16":
            return _widened(stored)
        array = self._readers[stored.file].get_tensor(stored.key)
        return np.asarray(array, np.float32)


def _widened(stored: _Stored) -> NDArray[np.float32]:
    """Reads a bfloat16 tensor, a type that NumPy does not have."""
    with stored.file.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = load_json(file.read(header_bytes))
        start, end = header[stored.key]["data_offsets"]
        file.seek(8 + header_bytes + start)
        halves = np.frombuffer(file.read(end - start), "<u2").astype(np.uint32)
    return (halves << 16).view(np.float32).reshape(stored.shape)


def _shards(folder: Path) -> dict[Path, Sequence[str] | None]:
    """Returns the files that the index names, with the tensors in each."""
    index = folder / INDEX
    places = read_json(index, "the index of shards").get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"'{index}' must have a `weight_map` of tensor to file.")
    shards: dict[Path, list[str]] = {}
    for key, name in places.items():
        # A name with folders in it could lead to any file of the machine.
        plain = isinstance(name, str) and re.fullmatch(
            r"[\w-][\w.-]*\.safetensors", name
        )
        if not plain:
            raise InputError(
                f"'{index}' must name safetensors files of its own folder. Received: "
                f"{name!r} for '{key}'."
            )
        shards.setdefault(folder / name, []).append(key)
    for file in shards:
        if not file.is_file():
            raise InputError(
                f"The shard '{file}' is missing, which '{INDEX}' names. Fetch the "
                "checkpoint again."
            )
    return dict(shards)


def _no_weights(folder: Path) -> InputError:
    names = [path.name for path in sorted(folder.iterdir())]
    others = [name for name in names if _OTHER_WEIGHTS.fullmatch(name)]
    if not others:
        return InputError(f"No weights in '{folder}': expected {FILE} or {INDEX}.")
    return InputError(
        f"The weights in '{folder}' must be safetensors. Received: '{others[0]}', "
        "which can hold code or needs another library, and is not opened. Save the "
        "model with transformers first: "
        "`AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)`."
    )

"""Reads weights by their paths from every kind of file that Keras writes.

Keras finds weights by their positions in a file, which differ between a masked block
and a plain one. A sparse model's file thus does not fit a dense model, or fits only in
part. This module maps positions to the paths of `GPT.named_weights`.
"""

import contextlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import trackable_object_graph_pb2

from spdf_keras.errors import InputError
from spdf_keras.model.paths import KERNELS, block_name, kernel_path

_BLOCK_WEIGHTS = [f"{name}/{kind}" for name in KERNELS for kind in ("kernel", "bias")]
_NORM_WEIGHTS = [
    f"{norm}/{kind}"
    for norm in ("attention_norm", "feedforward_norm")
    for kind in ("gamma", "beta")
]
_TABLES = {"token/embeddings": "token", "position/embeddings": "position"}
_MASK = re.compile(r"mask/(\w+)$")


class Stored(NamedTuple):
    """An array in a file: its shape, and a function that reads it."""

    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


class WeightFile(NamedTuple):
    """The content of a file.

    Attributes:
        weights: Weights by the paths of `GPT.named_weights`.
        masks: Masks by the paths of `GPT.named_masks`; empty for a dense model.
        optimizer: The optimizer's variables in order; empty if the file has none.
        legacy_optimizer: The same for an optimizer of `keras.optimizers.legacy`; in a
            TensorFlow checkpoint, its slots in any order.
        root: In a TensorFlow checkpoint, the name under which the model was tracked;
            empty if it is the root. None in other files.
        prefix: The path from which TensorFlow reads a checkpoint.
    """

    weights: dict[str, Stored]
    masks: dict[str, Stored]
    optimizer: list[Stored] = []
    legacy_optimizer: list[Stored] = []
    root: str | None = None
    prefix: str = ""


@contextlib.contextmanager
def open_weights(path: str) -> Iterator[WeightFile]:
    """Opens a file or folder with weights.

    Args:
        path: A `.keras`, `.weights.h5` or `.h5` file, with or without the model around
            the weights, the prefix of a TensorFlow checkpoint, or the folder of a
            SavedModel.

    Raises:
        InputError: If it is missing, or has no weights of a GPT.
    """
    with contextlib.ExitStack() as stack:
        if os.path.isfile(path) and zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            inner = stack.enter_context(archive.open("model.weights.h5"))
            found = _read_h5(stack.enter_context(h5py.File(inner, "r")))
        elif os.path.isfile(path) and h5py.is_hdf5(path):
            found = _read_h5(stack.enter_context(h5py.File(path, "r")))
        else:
            if tf.saved_model.contains_saved_model(path):
                path = os.path.join(path, "variables", "variables")
            if not os.path.exists(f"{path}.index"):
                raise InputError(f"There are no weights at '{path}'.")
            found = _read_checkpoint(path)
        if not found.weights:
            raise InputError(f"'{path}' holds no weights of a GPT.")
        yield found


def _read_h5(file: h5py.File) -> WeightFile:
    if "layers" in file:
        return _read_v3(file)
    return _read_legacy(file["model_weights"] if "model_weights" in file else file)


def _stored(dataset: h5py.Dataset) -> Stored:
    return Stored(tuple(dataset.shape), lambda: np.asarray(dataset))


def _read_v3(file: h5py.File) -> WeightFile:
    """Reads the layout of `.keras` and `.weights.h5`: weights are numbered."""
    weights: dict[str, Stored] = {}
    masks: dict[str, Stored] = {}

    def take(place: str, paths: list[str], found: dict[str, Stored] = weights) -> None:
        variables = file.get(f"layers/{place}/vars", {})
        for index, path in enumerate(paths):
            if str(index) in variables:
                found[path] = _stored(variables[str(index)])

    take("tied_embedding", ["embedding/token", "embedding/position"])
    take("layer_normalization", ["final_norm/gamma", "final_norm/beta"])
    for index in range(len(file["layers"])):
        name, suffix = block_name(index), f"_{index}" if index else ""
        place, wrapper = f"gpt_block{suffix}", f"prune_fixed_random{suffix}"
        if f"layers/{wrapper}" in file:
            kernels = [kernel_path(name, kernel) for kernel in KERNELS]
            take(wrapper, kernels, masks)
            place = f"{wrapper}/layer"
        take(place, [f"{name}/{path}" for path in _BLOCK_WEIGHTS])
        for norm in ("attention_norm", "feedforward_norm"):
            paths = [f"{name}/{norm}/gamma", f"{name}/{norm}/beta"]
            take(f"{place}/{norm}", paths)
    optimizer = file.get("optimizer/vars", {})
    own = file.get("vars", {})
    legacy = [key for key in own if key.startswith("legacy_optimizer_")]
    return WeightFile(
        weights,
        masks,
        [_stored(optimizer[str(index)]) for index in range(len(optimizer))],
        [_stored(own[f"legacy_optimizer_{index}"]) for index in range(len(legacy))],
    )


def _read_legacy(group: h5py.Group) -> WeightFile:
    """Reads the layout of `.h5`: weights have the names of their variables."""
    weights: dict[str, Stored] = {}
    masks: dict[str, Stored] = {}
    for layer in group:
        block = re.search(r"block_\d+$", layer)
        start = block[0] if block else layer

        def take(name: str, dataset: Any, start: str = start) -> None:
            if not isinstance(dataset, h5py.Dataset):
                return
            name, stored = name.removesuffix(":0"), _stored(dataset)
            if mask := _MASK.search(name):
                masks[kernel_path(start, mask[1])] = stored
            elif path := _path(start, name):
                weights[path] = stored

        group[layer].visititems(take)
    return WeightFile(weights, masks)


def _path(start: str, name: str) -> str | None:
    """Returns the path of a weight from its layer and its variable's name."""
    if start == "embedding":
        ends = {end: f"embedding/{table}" for end, table in _TABLES.items()}
    elif start == "final_norm":
        ends = {end: f"final_norm/{end}" for end in ("gamma", "beta")}
    else:
        ends = {end: f"{start}/{end}" for end in _BLOCK_WEIGHTS + _NORM_WEIGHTS}
    found = [path for end, path in ends.items() if f"/{name}".endswith(f"/{end}")]
    # The slash tells "output/kernel" from "attention_output/kernel".
    return found[0] if found else None


def _read_checkpoint(prefix: str) -> WeightFile:
    reader = tf.train.load_checkpoint(prefix)
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    shapes = reader.get_variable_to_shape_map()

    def children(node: int) -> dict[str, int]:
        return {c.local_name: c.node_id for c in graph.nodes[node].children}

    def stored(node: int) -> Stored:
        (attribute,) = graph.nodes[node].attributes
        key = attribute.checkpoint_key
        return Stored(tuple(shapes[key]), lambda: np.asarray(reader.get_tensor(key)))

    root, layers = "", children(0)
    if "layer-0" not in layers:  # tf.train.Checkpoint wrote it and tracks the model
        for name, node in layers.items():
            if "layer-0" in children(node):
                root, layers = name, children(node)
                break
    weights: dict[str, Stored] = {}
    masks: dict[str, Stored] = {}
    blocks = 0
    for index in range(len(layers)):
        if f"layer-{index}" not in layers:
            break
        inside = children(layers[f"layer-{index}"])
        block = children(inside["layer"]) if "layer" in inside else inside
        if "token/embeddings" in inside:
            for end, table in _TABLES.items():
                weights[f"embedding/{table}"] = stored(inside[end])
        elif "query/kernel" in block:
            name, blocks = block_name(blocks), blocks + 1
            for kernel in KERNELS:
                if mask := inside.get(f"mask/{kernel}"):
                    masks[kernel_path(name, kernel)] = stored(mask)
            for path in _BLOCK_WEIGHTS:
                weights[f"{name}/{path}"] = stored(block[path])
            for path in _NORM_WEIGHTS:
                norm, kind = path.split("/")
                weights[f"{name}/{path}"] = stored(children(block[norm])[kind])
        elif "gamma" in inside:
            for kind in ("gamma", "beta"):
                weights[f"final_norm/{kind}"] = stored(inside[kind])
    state: list[Stored] = []
    slots: list[Stored] = []
    optimizer = children(children(0)[root] if root else 0).get("optimizer")
    if optimizer is not None:
        numbered = children(children(optimizer).get("_variables", optimizer))
        places = sorted((name for name in numbered if name.isdigit()), key=int)
        state = [stored(numbered[name]) for name in places]
        found = graph.nodes[optimizer].slot_variables
        slots = [stored(slot.slot_variable_node_id) for slot in found]
    return WeightFile(weights, masks, state, slots, root, prefix)

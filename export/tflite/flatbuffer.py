"""Reads and writes the flatbuffer of a `.tflite` file, of any size.

The classes of the schema, as flatc generated them, do the work. Two things are done
here because they do not: they align no data, and know no data behind the flatbuffer.
"""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

# Data may lie inside the flatbuffer up to this size, as all runtimes expect it; its
# offsets end at 2 GiB, and the tables need some room too.
MAX_FLATBUFFER_BYTES = 2**31 - 2**25

# Runtimes read weights in place, and some of their kernels want them aligned.
_ALIGNMENT = 64

_IDENTIFIER = b"TFL3"
# Name and value of the metadata that marks a file with data behind the flatbuffer.
_OUTSIDE = b"buffer_location", b"outside flatbuffers"


def read_flatbuffer(flatbuffer: bytes) -> Any:
    """Reads a file; data that lies behind the flatbuffer is in `data` too, uncopied."""
    model = schema.ModelT.InitFromPackedBuf(flatbuffer)
    everything = np.frombuffer(flatbuffer, np.uint8)
    for buffer in model.buffers:
        if buffer.offset > 1:  # 0 and 1 mean that there is no data behind
            buffer.data = everything[buffer.offset : buffer.offset + buffer.size]
        buffer.offset = buffer.size = 0
    model.metadata = [m for m in model.metadata or [] if m.name != _OUTSIDE[0]]
    return model


def write_flatbuffer(model: Any, index_bytes: int, max_flatbuffer_bytes: int) -> bytes:
    """Writes a file.

    Args:
        model: What `read_flatbuffer` returned; it is used up.
        index_bytes: Bytes of the sparse tensors' indices, about.
        max_flatbuffer_bytes: A larger file has its data behind the flatbuffer.
    """
    stored = [buffer.data for buffer in model.buffers if buffer.data is not None]
    total = index_bytes + sum(_padded(len(data)) for data in stored)
    if total <= max_flatbuffer_bytes:
        model.buffers = [_AlignedBuffer(buffer.data) for buffer in model.buffers]
        return _pack(model, total)
    # Runtimes look behind for the data of tensors, but not for that of metadata.
    used = {t.buffer for subgraph in model.subgraphs for t in subgraph.tensors}
    behind = [
        buffer
        for index, buffer in enumerate(model.buffers)
        if index in used and buffer.data is not None
    ]
    data = [buffer.data for buffer in behind]
    for buffer in behind:
        buffer.data, buffer.offset, buffer.size = None, 1, 1
    name, value = _OUTSIDE
    model.buffers.append(schema.BufferT(np.frombuffer(value, np.uint8)))
    model.metadata.append(schema.MetadataT(name, len(model.buffers) - 1))
    # The first pass finds the flatbuffer's length, and the second writes the offsets.
    end = _padded(len(_pack(model, index_bytes)))
    for buffer, part in zip(behind, data, strict=True):
        buffer.offset, buffer.size = end, len(part)
        end += _padded(len(part))
    parts = [_pack(model, index_bytes), *data]
    return b"".join(
        piece for part in parts for piece in (part, b"\0" * (-len(part) % _ALIGNMENT))
    )


class _AlignedBuffer(schema.BufferT):
    """A buffer whose data starts at a multiple of `_ALIGNMENT`."""

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the name is the parent's)
        if self.data is None:
            return super().Pack(builder)
        # The parent's vectors of bytes start anywhere.
        size = len(self.data)
        builder.StartVector(1, size, _ALIGNMENT)
        builder.head -= size
        builder.Bytes[builder.head : builder.head + size] = self.data.tobytes()
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def _pack(model: Any, size_hint: int) -> bytes:
    builder = flatbuffers.Builder(min(size_hint + 2**16, 2**31))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT

"""Scanners that JFlex generated, read from their compiled Java classes.

A scanner is a state machine over classes of UTF-16 units, stored run-length encoded in
constant strings of its class. The actions on a match are Java code; the caller supplies
its own.
"""

import re
import struct
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from spdf_keras.errors import InputError
from spdf_keras.metrics.archives import read_member

# Flags of a state: it accepts; it accepts and no other state follows.
ACCEPTS, IS_LAST = 1, 8

# Number of bytes behind the tag of each kind of constant in a Java class file.
_CONSTANT_SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4}
_TEXT, _LONG, _DOUBLE, _STRING = 1, 5, 6, 8


@dataclass(frozen=True)
class Scanner:
    """The state machine of a scanner.

    Attributes:
        kinds: Class of each UTF-16 unit.
        rows: Where a state's row starts in `moves`.
        moves: Next state by row and class; negative if there is none.
        flags: `ACCEPTS` and `IS_LAST` of each state.
        rules: The rule that a state accepts.
    """

    kinds: NDArray[np.uint16]
    rows: list[int]
    moves: list[int]
    flags: list[int]
    rules: list[int]

    def match(self, kinds: list[int], start: int, state: int) -> tuple[int, int]:
        """Finds the longest match from a state: its rule and where it ends."""
        rows, moves, flags = self.rows, self.moves, self.flags
        accepted, end = -1, start
        for position in range(start, len(kinds)):
            state = moves[rows[state] + kinds[position]]
            if state < 0:
                break
            flag = flags[state]
            if flag & ACCEPTS:
                accepted, end = state, position + 1
                if flag & IS_LAST:
                    break
        return self.rules[accepted], end

    def cut(
        self, kinds: list[int], start: int, end: int, forward: int, backward: int
    ) -> int:
        """Removes the lookahead from a match and returns the end of its token.

        The token is the longest beginning that `forward` accepts and whose
        remainder, read backwards, `backward` accepts.
        """
        can_end = set()
        state = forward
        for position in range(start, end + 1):
            if self.flags[state] & ACCEPTS:
                can_end.add(position)
            if position == end:
                break
            state = self.moves[self.rows[state] + kinds[position]]
            if state < 0:
                break
        state = backward
        while not (end in can_end and self.flags[state] & ACCEPTS):
            end -= 1
            state = self.moves[self.rows[state] + kinds[end]]
        return end


@cache
def read_scanner(archive: str, member: str) -> Scanner:
    """Reads the tables of a scanner from a compiled Java class.

    Args:
        archive: Place of the archive in pycocoevalcap.
        member: Name of the class in the archive.

    Raises:
        InputError: If pycocoevalcap is not installed, or damaged.
    """
    constants = class_constants(read_member(archive, member))

    def table(name: str) -> list[NDArray[np.uint16]]:
        # A long table is cut into constants with numbered names.
        names = sorted(key for key in constants if re.fullmatch(rf"{name}(_\d)?", key))
        return [np.frombuffer(constants[key], "<u2") for key in names]

    def runs(name: str) -> NDArray[np.uint16]:
        return np.concatenate(
            [np.repeat(part[1::2], part[::2]) for part in table(name)]
        )

    (rows,) = table("ZZ_ROWMAP_PACKED")
    return Scanner(
        kinds=runs("ZZ_CMAP_PACKED"),
        rows=(rows[::2].astype(int) << 16 | rows[1::2]).tolist(),
        moves=(runs("ZZ_TRANS_PACKED").astype(int) - 1).tolist(),
        flags=runs("ZZ_ATTRIBUTE_PACKED").tolist(),
        rules=runs("ZZ_ACTION_PACKED").tolist(),
    )


def class_constants(data: bytes) -> dict[str, bytes]:
    """Reads the constant strings of a Java class, as UTF-16 by field name."""
    pool: dict[int, bytes | int] = {}
    (count,) = struct.unpack_from(">H", data, 8)
    at, index = 10, 1
    while index < count:
        tag = data[at]
        if tag == _TEXT:
            (size,) = struct.unpack_from(">H", data, at + 1)
            pool[index] = data[at + 3 : at + 3 + size]
            at += 3 + size
        else:
            if tag not in _CONSTANT_SIZES:
                raise InputError(
                    "The archives of pycocoevalcap must be those of version 1.2. "
                    f"Received: a class with a constant of kind {tag}."
                )
            if tag == _STRING:
                (pool[index],) = struct.unpack_from(">H", data, at + 1)
            at += 1 + _CONSTANT_SIZES[tag]
        # The format counts these two kinds as two entries.
        index += 2 if tag in (_LONG, _DOUBLE) else 1

    def number(offset: int, code: str = ">H") -> int:
        return int(struct.unpack_from(code, data, offset)[0])

    constants = {}
    at += 6  # access, own class, parent
    at += 2 + 2 * number(at)  # interfaces
    fields = number(at)
    at += 2
    for _ in range(fields):
        name, attributes = pool[number(at + 2)], number(at + 6)
        at += 8
        for _ in range(attributes):
            value = pool.get(number(at + 6)) if number(at + 2, ">I") == 2 else None
            if pool[number(at)] == b"ConstantValue" and isinstance(value, int):
                constants[_java_text(name).decode("utf-16-le")] = _java_text(
                    pool[value]
                )
            at += 6 + number(at + 2, ">I")
    return constants


def _java_text(constant: bytes | int) -> bytes:
    """Converts the modified UTF-8 of class files into UTF-16."""
    assert isinstance(constant, bytes)
    text = constant.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
    return text.encode("utf-16-le", "surrogatepass")

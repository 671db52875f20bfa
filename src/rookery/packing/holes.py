# SPDX-License-Identifier: Apache-2.0
"""Sparse files in a tar archive: only what is not a hole is stored, in the PAX form of GNU tar (version 1.0), which GNU
tar, libarchive and Python's tarfile read as well."""

from __future__ import annotations

import copy
import errno
import os
import tarfile
from collections.abc import Iterator
from typing import IO

_BLOCK = 512
_MOST = 1 << 33  # from here on the size in the header is another record, which readers take for that of the file
_FORM = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}


class Part:
    """The stored form of a sparse file: a map of what there is, and then that. As tarfile reads it: no more than the
    size that it was told, in order."""

    def __init__(self, file: IO[bytes], extents: list[tuple[int, int]]) -> None:
        numbers = [len(extents), *(number for extent in extents for number in extent)]
        text = "".join(f"{number}\n" for number in numbers).encode()
        self._head = text + bytes(-len(text) % _BLOCK)
        self._file, self._extents = file, list(extents)
        self.size = len(self._head) + sum(length for _, length in extents)

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes; fewer than asked for when the file became shorter."""
        found, self._head = self._head[:size], self._head[size:]
        parts, left = [found], size - len(found)
        while left > 0 and self._extents:
            offset, length = self._extents[0]
            self._file.seek(offset)
            data = self._file.read(min(length, left))
            if not data:
                break
            parts.append(data)
            left -= len(data)
            rest = (offset + len(data), length - len(data))
            self._extents[:1] = [rest] if rest[1] else []
        return b"".join(parts)


def sparse(info: tarfile.TarInfo, file: IO[bytes], number: int) -> tuple[tarfile.TarInfo, Part] | None:
    """The member for a file with holes, and its content; None for one without. number: another one for each member."""
    state = os.fstat(file.fileno())
    if state.st_blocks * _BLOCK >= info.size:
        return None
    extents = list(_extents(file.fileno(), info.size))
    part = Part(file, extents)
    if part.size >= min(info.size, _MOST):
        return None
    member = copy.copy(info)
    member.name, member.size = f"GNUSparseFile.0/{number}", part.size
    told = {"GNU.sparse.name": info.name, "GNU.sparse.realsize": str(info.size)}
    member.pax_headers = {**info.pax_headers, **_FORM, **told}
    return member, part


def _extents(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what is not a hole; at the end an empty one, which says how long the file is."""
    at = 0
    while at < size:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = min(os.lseek(handle, start, os.SEEK_HOLE), size)
        if at > start:
            yield start, at - start
    yield size, 0

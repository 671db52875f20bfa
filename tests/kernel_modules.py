# SPDX-License-Identifier: Apache-2.0
"""Kernel modules made by a test, for kmod's tools to read."""

from __future__ import annotations

import struct


def module(modinfo: bytes) -> bytes:
    """The smallest object file (ELF, 64 bits) that kmod's tools read: that section, and no symbols."""
    names = b"\0.modinfo\0.shstrtab\0.symtab\0.strtab\0"
    starts = [64, 64 + len(modinfo), 64 + len(modinfo) + len(names)]
    body = modinfo + names + bytes(25)
    body += bytes(-len(body) % 8)

    def section(name: bytes, kind: int, at: int, size: int, link: int = 0, entry: int = 0) -> bytes:
        return struct.pack("<IIQQQQIIQQ", names.index(name + b"\0"), kind, 0, 0, at, size, link, link // 4, 1, entry)

    sections = [
        bytes(64),
        section(b".modinfo", 1, starts[0], len(modinfo)),
        section(b".shstrtab", 3, starts[1], len(names)),
        section(b".symtab", 2, starts[2], 24, link=4, entry=24),
        section(b".strtab", 3, starts[2] + 24, 1),
    ]
    fields = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections), 2)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + fields + body + b"".join(sections)

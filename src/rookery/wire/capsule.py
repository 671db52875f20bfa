# SPDX-License-Identifier: Apache-2.0
"""The capsule: one version in one file that another site takes in (see FORMAT.md).

A POSIX tar archive of which nothing but the content is free: the reader knows from the signed head which bytes must
follow, every header of the archive included, and refuses any other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import Annotated

from rookery import codec
from rookery.codec import Length, Range
from rookery.errors import ErrorKind, RookeryError
from rookery.wire.manifest import Blob, SignedManifest, require_sha256

FORMAT = 1
SUFFIX = ".capsule"
HEAD = "capsule.json"
MAX_HEAD = 16 << 20
BLOCK = 512
END = bytes(2 * BLOCK)
# What the exporter's key signs begins so: a signature of anything else can never be taken for one of a capsule.
CONTEXT = b"rookery capsule\0"
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_MOST_OCTAL = 8**11 - 1


@dataclass(frozen=True)
class Capsule:
    """What a capsule says of its version. manifest: signed by the same key as the capsule. exported_at: seconds since
    1970 (UTC). recipe: the text it was built from, or empty. packages: name -> version."""

    manifest: SignedManifest
    exported_at: Annotated[int, Range(0, 2**53)]
    recipe: Annotated[str, Length(1 << 20)] = ""
    packages: dict[str, str] = field(default_factory=dict)
    format: Annotated[int, Range(FORMAT, FORMAT)] = FORMAT


@dataclass(frozen=True)
class SignedCapsule:
    """A Capsule in its envelope: `payload` is the base64 of its canonical JSON; `key` the public half of the exporter's
    site key (64 hex digits); `signature` the Ed25519 signature (RFC 8032) of CONTEXT and the payload's bytes, 128 hex
    digits."""

    payload: Annotated[str, Length(2 * MAX_HEAD)]
    key: Annotated[str, Length(64)]
    signature: Annotated[str, Length(128)]

    def __post_init__(self) -> None:
        require_sha256(self.key, "key")
        if not _SIGNATURE.fullmatch(self.signature):
            raise ValueError("signature: expected 128 hex digits")

    @property
    def signed_bytes(self) -> bytes:
        """The bytes of the payload. Raises RookeryError `invalid` when it is not plain base64."""
        try:
            found = base64.b64decode(self.payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RookeryError("the capsule's payload is not base64", kind=ErrorKind.INVALID) from error
        if base64.b64encode(found).decode() != self.payload:
            raise RookeryError("the capsule's payload is not plain base64", kind=ErrorKind.INVALID)
        return found


def parse_payload(payload: bytes) -> Capsule:
    """The capsule in signed bytes. Call only after the signature was checked. Raises RookeryError `invalid`."""
    return codec.loads(Capsule, payload, most=MAX_HEAD, what="capsule")


def member_name(blob: Blob) -> str:
    """What a blob is called in the archive: its digest, since its name is for the manifest to say."""
    return f"blobs/{blob.sha256}"


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member: POSIX ustar (IEEE 1003.1), mode 0644, owner 0, time 0. A size from 8 GiB on is
    written in base 256, as GNU tar, libarchive and Python's tarfile read it."""
    digits = b"%011o\0" % size if size <= _MOST_OCTAL else b"\x80" + size.to_bytes(11, "big")
    fields = (
        name.encode().ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" + b"0000000\0",
        digits,
        b"00000000000\0",
        b" " * 8,  # of the checksum, while it is counted
        b"0".ljust(101, b"\0"),
        b"ustar\0" + b"00",
    )
    plain = b"".join(fields).ljust(BLOCK, b"\0")
    return plain[:148] + b"%06o\0 " % sum(plain) + plain[156:]


def head_size(found: bytes) -> int:
    """The size of the head, from the archive's first 512 bytes. Raises RookeryError `invalid`, `corrupt`,
    `too-large`."""
    digits = found[124:135]
    size = int(digits, 8) if re.fullmatch(rb"[0-7]{11}", digits) else -1
    if size < 0 or found != header(HEAD, size):
        if found.startswith(HEAD.encode()):
            raise RookeryError(
                "the capsule is damaged: its first header is not what it should be",
                kind=ErrorKind.CORRUPT,
                hint="copy it again from where it came; if it stays, export it again",
            )
        raise RookeryError(
            "this is not a capsule: it does not begin like one",
            kind=ErrorKind.INVALID,
            hint="'rookery image export' writes capsules",
        )
    if not 0 < size <= MAX_HEAD:
        raise RookeryError(f"the capsule's head claims {size} bytes; {MAX_HEAD} are possible", kind=ErrorKind.TOO_LARGE)
    return size


def padding(size: int) -> int:
    """How many zero bytes follow `size` bytes of a member."""
    return -size % BLOCK


def length(head: int, blobs: tuple[Blob, ...]) -> int:
    """Bytes of a whole capsule whose head has `head` bytes."""
    return sum(BLOCK + size + padding(size) for size in (head, *(blob.size for blob in blobs))) + len(END)


def fingerprint(key: str) -> str:
    """What people compare of a public key (64 hex digits): 160 bits of its SHA-256, in groups of four."""
    digits = hashlib.sha256(bytes.fromhex(key)).hexdigest()[:40]
    return ":".join(digits[at : at + 4] for at in range(0, 40, 4))

# SPDX-License-Identifier: Apache-2.0
"""The manifest: the signed list of a version's blobs.

A version's id is the SHA-256 of what it contains (`version_id`), so the same bytes are the same version wherever and
whenever they were built. The manifest adds how the swarm carries them, and is signed as a whole (see FORMAT.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from rookery import codec
from rookery.codec import Length, Range
from rookery.errors import ErrorKind, RookeryError

FORMAT = 1
MAX_MANIFEST = 1 << 20
MAX_BLOB = 1 << 50
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class VersionKind(StrEnum):
    """What a version holds."""

    IMAGE = "image"  # roles root, kernel, drivers
    FILE = "file"  # role data: one file
    TREE = "tree"  # role data: a tar archive (POSIX pax) of one directory


class Role(StrEnum):
    """What a blob is for."""

    ROOT = "root"  # squashfs of the root file system
    KERNEL = "kernel"  # bzImage (x86-64) or Image (arm64)
    DRIVERS = "drivers"  # cpio of kernel modules that the agent needs
    DATA = "data"


ROLES = {
    VersionKind.IMAGE: frozenset({Role.ROOT, Role.KERNEL, Role.DRIVERS}),
    VersionKind.FILE: frozenset({Role.DATA}),
    VersionKind.TREE: frozenset({Role.DATA}),
}


@dataclass(frozen=True)
class Blob:
    """One file of a version.

    name: file name without a directory. size: bytes. sha256: 64 hex digits of the whole file. info_hash: the torrent's
    v2 info-hash (SHA-256 of the info dictionary, BEP 52; 64 hex digits), or empty for a blob that only HTTP carries.
    info_hash_v1: the info-hash of its v1 form, by which swarms know it (torrents.py; SHA-1, 40 hex digits), or empty.
    chunks: SHA-256 of its chunk index (wire/chunks.py; 64 hex digits), or empty for a blob without one. pieces_root:
    root of the tree over its blocks (BEP 52's `pieces root`; 64 hex digits), or empty where that was not published.
    """

    role: Role
    name: Annotated[str, Length(128)]
    size: Annotated[int, Range(0, MAX_BLOB)]
    sha256: str
    info_hash: str = ""
    info_hash_v1: str = ""
    chunks: str = ""
    pieces_root: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"blob name {self.name!r} is not a plain file name")
        require_sha256(self.sha256, "blob digest")
        if self.info_hash:
            require_sha256(self.info_hash, "v2 info-hash")
        if self.info_hash_v1 and not _SHA1.fullmatch(self.info_hash_v1):
            raise ValueError(f"v1 info-hash: expected 40 hex digits, got {self.info_hash_v1[:80]!r}")
        if self.chunks:
            require_sha256(self.chunks, "chunk index")
        if self.pieces_root:
            require_sha256(self.pieces_root, "pieces root")


@dataclass(frozen=True)
class Manifest:
    """One immutable version.

    image: the name it was published under. created: seconds since 1970 (UTC). architecture: as in `uname -m`
    ("x86_64", "aarch64"), or empty where that does not matter. kernel_release: as in `uname -r`, images only.
    """

    version: str
    kind: VersionKind
    image: Annotated[str, Length(128)]
    created: Annotated[int, Range(0, 2**53)]
    blobs: Annotated[tuple[Blob, ...], Length(64)]
    architecture: Annotated[str, Length(32)] = ""
    kernel_release: Annotated[str, Length(128)] = ""
    format: Annotated[int, Range(FORMAT, FORMAT)] = FORMAT

    def __post_init__(self) -> None:
        roles = [blob.role for blob in self.blobs]
        if len(set(roles)) != len(roles) or set(roles) != ROLES[self.kind]:
            wanted = ", ".join(sorted(ROLES[self.kind]))
            raise ValueError(f"a version of kind {self.kind} has exactly the roles {wanted}, got {', '.join(roles)}")
        if self.version != version_id(self.kind, self.blobs):
            raise ValueError("the version id does not match the content that the manifest lists")

    def blob(self, role: Role) -> Blob:
        """The blob of a role. Raises RookeryError `not-found`."""
        for blob in self.blobs:
            if blob.role is role:
                return blob
        raise RookeryError(f"version {self.version[:12]} has no {role} blob", kind=ErrorKind.NOT_FOUND)


@dataclass(frozen=True)
class SignedManifest:
    """A manifest in its envelope: `payload` is the base64 of the canonical JSON of a Manifest; `key` the site key's
    public half (64 hex digits); `signature` the Ed25519 signature (RFC 8032) of the payload's bytes, 128 hex digits."""

    payload: Annotated[str, Length(2 * MAX_MANIFEST)]
    key: Annotated[str, Length(64)]
    signature: Annotated[str, Length(128)]

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that the signature covers. Raises RookeryError `invalid` when they are not base64."""
        try:
            return base64.b64decode(self.payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RookeryError("the manifest's payload is not base64", kind=ErrorKind.INVALID) from error


def version_id(kind: VersionKind, blobs: tuple[Blob, ...]) -> str:
    """SHA-256 (64 hex digits) over what a version contains: its kind and each blob's role, name, size and digest."""
    content = sorted([str(blob.role), blob.name, blob.size, blob.sha256] for blob in blobs)
    return hashlib.sha256(codec.canonical({"blobs": content, "kind": kind})).hexdigest()


def payload_of(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest: what is signed."""
    return codec.canonical(manifest)


def parse_payload(payload: bytes) -> Manifest:
    """The manifest in signed bytes. Call only after the signature was checked. Raises RookeryError `invalid`."""
    return codec.loads(Manifest, payload, most=MAX_MANIFEST, what="manifest")


def require_sha256(text: str, what: str) -> str:
    """`text` when it is 64 lower-case hex digits; else ValueError."""
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{what}: expected 64 hex digits, got {text[:80]!r}")
    return text


def require_name(text: str, what: str) -> str:
    """`text` when it is a plain name (letters, digits, `.`, `_`, `-`; 128 at most); else RookeryError `invalid`."""
    if not _NAME.fullmatch(text):
        raise RookeryError(
            f"{what} {text[:80]!r} is not a plain name",
            kind=ErrorKind.INVALID,
            hint="use letters, digits, '.', '_' and '-', starting with a letter or digit",
        )
    return text

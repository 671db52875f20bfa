# SPDX-License-Identifier: Apache-2.0
"""The site's key: an Ed25519 pair (RFC 8032) that signs every manifest; agents carry its public half."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.config import Paths
from rookery.wire.manifest import Manifest, SignedManifest, payload_of


class SiteKey:
    """The site's signing key, loaded."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @classmethod
    def create(cls, paths: Paths) -> SiteKey:
        """Make a new key and store both halves. Raises RookeryError `conflict` when there is one: it is never replaced,
        since every agent and every manifest of the site depends on it."""
        seed = secrets.token_bytes(32)
        temporary = paths.site_key.with_name(f".{paths.site_key.name}.{secrets.token_hex(8)}")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(seed.hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, paths.site_key)  # unlike a rename, refuses to replace
        except FileExistsError:
            raise RookeryError(
                f"there is a site key already: {paths.site_key}",
                kind=ErrorKind.CONFLICT,
                hint="keep it: nodes believe only images that it signed",
            ) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        files.sync_directory(paths.directory)
        key = cls(SigningKey(seed))
        files.write_atomic(paths.site_public, f"{key.public}\n".encode())
        return key

    @classmethod
    def load(cls, paths: Paths) -> SiteKey:
        """Read the key. Raises RookeryError: `not-found`; `forbidden` when others may read it; `corrupt` when it is not
        a key, or not the one that site.pub belongs to."""
        path = paths.site_key
        try:
            text, mode = path.read_text(), path.stat().st_mode
        except FileNotFoundError:
            raise RookeryError(
                f"there is no site key {path}",
                kind=ErrorKind.NOT_FOUND,
                hint=f"run 'rookery init --dir {paths.directory}', or bring the key back from a backup",
            ) from None
        except PermissionError:
            raise RookeryError(f"not allowed to read {path}", kind=ErrorKind.FORBIDDEN, hint="run as root") from None
        if mode & 0o077:
            raise RookeryError(
                f"others than its owner may read {path}",
                kind=ErrorKind.FORBIDDEN,
                hint=f"chmod 600 {path}; if somebody may have read it, make a new site",
            )
        key = cls(SigningKey(_hex32(text, path)))
        if _public(paths) != key.public:
            raise RookeryError(
                f"{paths.site_public} is not the public half of {path}",
                kind=ErrorKind.CORRUPT,
                hint=f"bring back the key that belongs to it; if {path.name} is right, write {key.public} into it",
            )
        return key

    @property
    def public(self) -> str:
        """The public half: 64 hex digits."""
        return bytes(self._key.verify_key).hex()

    def sign(self, manifest: Manifest) -> SignedManifest:
        """The manifest in its envelope."""
        payload = payload_of(manifest)
        signature = self._key.sign(payload).signature
        return SignedManifest(base64.b64encode(payload).decode(), self.public, signature.hex())

    def sign_bytes(self, data: bytes) -> str:
        """The signature of bytes that begin with what they are for: 128 hex digits."""
        return self._key.sign(data).signature.hex()

    def secret(self, purpose: str) -> str:
        """A secret of this site for one purpose, 64 hex digits: always the same, and only made with the private half
        (Ed25519 signatures are deterministic, RFC 8032)."""
        return hashlib.sha256(self._key.sign(b"rookery secret\0" + purpose.encode()).signature).hexdigest()


def is_signed(manifest: SignedManifest, public: str) -> bool:
    """Whether the site key with the public half `public` (64 hex digits) signed these bytes."""
    try:
        return manifest.key == public and verifies(public, manifest.signature, manifest.signed_bytes)
    except RookeryError:
        return False


def verifies(public: str, signature: str, data: bytes) -> bool:
    """Whether a signature (128 hex digits) of `data` is by the key with this public half (64 hex digits)."""
    try:
        VerifyKey(bytes.fromhex(public)).verify(data, bytes.fromhex(signature))
    except (BadSignatureError, ValueError):
        return False
    return True


def _public(paths: Paths) -> str:
    try:
        return paths.site_public.read_text().strip()
    except FileNotFoundError:
        return ""


def _hex32(text: str, path: Path) -> bytes:
    try:
        seed = bytes.fromhex(text.strip())
    except ValueError:
        seed = b""
    if len(seed) != 32:
        raise RookeryError(
            f"{path} is not a site key: expected 64 hex digits",
            kind=ErrorKind.CORRUPT,
            hint="bring it back from a backup",
        )
    return seed

# SPDX-License-Identifier: Apache-2.0
"""The one place where a node decides whether to believe a manifest.

A node believes the site's public key that was packed into its agent (or given on the command line) and nothing else:
no host name, no address, no certificate. Ed25519 as in RFC 8032, by libsodium.
"""

from __future__ import annotations

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from rookery.errors import ErrorKind, RookeryError
from rookery.wire.manifest import Manifest, SignedManifest, parse_payload


def site_key(text: str, what: str = "the site's public key") -> VerifyKey:
    """The public key written as 64 hex digits (white space around it is ignored). Raises RookeryError `invalid`."""
    digits = text.strip().lower()
    try:
        if len(digits) != 64:
            raise ValueError
        return VerifyKey(bytes.fromhex(digits))
    except ValueError:
        raise RookeryError(
            f"{what} is not 64 hex digits: {text.strip()[:80]!r}",
            kind=ErrorKind.INVALID,
            hint="copy it from the head's site.pub",
        ) from None


def open_manifest(signed: SignedManifest, public_key_hex: str) -> Manifest:
    """The manifest inside the envelope, after its signature was checked against `public_key_hex` (64 hex digits).

    The key that the envelope names is only compared, never used: it cannot vouch for itself.
    Raises RookeryError: `corrupt` when another key signed it or the bytes were changed, `invalid` when the key, the
    signature's form or the (well signed) content is not what the format says.
    """
    trusted = site_key(public_key_hex)
    named = signed.key.strip().lower()
    if named != public_key_hex.strip().lower():
        raise RookeryError(
            "the manifest is signed by another site's key",
            kind=ErrorKind.CORRUPT,
            details=f"trusted: {public_key_hex.strip().lower()}\nsigned by: {named[:64]}",
            hint="check that this machine's agent and the head belong to the same site",
        )
    try:
        signature = bytes.fromhex(signed.signature)
        if len(signature) != 64:
            raise ValueError
    except ValueError:
        raise RookeryError("the manifest's signature is not 128 hex digits", kind=ErrorKind.INVALID) from None
    payload = signed.signed_bytes
    try:
        trusted.verify(payload, signature)
    except BadSignatureError:
        raise RookeryError(
            "the manifest's signature is wrong: it was changed after it was signed, or signed with another key",
            kind=ErrorKind.CORRUPT,
            details=f"trusted: {public_key_hex.strip().lower()}",
            hint="publish the version again; if it happens again, find out who sits between this node and the head",
        ) from None
    return parse_payload(payload)

# SPDX-License-Identifier: Apache-2.0
"""Public keys of package archives, as recipes give them: armored text, or the path of a file in either of the two forms
that keyrings have (RFC 9580, section 6: the armor)."""

from __future__ import annotations

import base64
from pathlib import Path

from rookery.errors import ErrorKind, RookeryError

_BEGIN, _END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
MOST = 1 << 20  # bytes of a keyring


def armored(key: str, what: str) -> str:
    """A key's armored text. `what` names in errors whose key it is: `of the repository site`.

    Raises RookeryError `not-found` when its file is not there, `invalid` when it holds no public key.
    """
    if key.startswith(_BEGIN):
        return key.strip() + "\n"
    try:
        with Path(key).open("rb") as file:
            content = file.read(MOST)
    except OSError as error:
        raise RookeryError(
            f"the key {key} {what} cannot be read: {error.strerror}",
            kind=ErrorKind.NOT_FOUND,
            hint="correct its path in the recipe, or put the key's armored text there",
        ) from error
    if content.lstrip().startswith(_BEGIN.encode()):
        return content.decode(errors="replace").strip() + "\n"
    # Every OpenPGP packet begins with a byte whose highest bit is set (section 4.2); a public key's has tag 6.
    if not content or not (content[0] & 0xFC == 0x98 or content[0] == 0xC6):
        raise RookeryError(
            f"{key} {what} is not a public key",
            kind=ErrorKind.INVALID,
            hint="a key that 'gpg --export' or 'gpg --armor --export' wrote is one",
        )
    return _armor(content)


def _armor(content: bytes) -> str:
    text = base64.b64encode(content).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    check = base64.b64encode(_crc24(content).to_bytes(3)).decode()
    return "\n".join([_BEGIN, "", *lines, f"={check}", _END, ""])


def _crc24(content: bytes) -> int:
    """The armor's checksum (RFC 9580, 6.1.1)."""
    crc = 0xB704CE
    for byte in content:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    return crc

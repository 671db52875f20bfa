# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tarfile

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.wire import capsule


@pytest.mark.parametrize("size", [0, 1, 511, 8**11 - 1, 8**11, 10**15])
def test_a_header_is_what_tar_reads(size: int) -> None:
    found = tarfile.TarInfo.frombuf(capsule.header("blobs/" + "ab" * 32, size), "utf-8", "strict")
    assert (found.name, found.size, found.type, found.mode) == ("blobs/" + "ab" * 32, size, tarfile.REGTYPE, 0o644)
    assert (found.uid, found.gid, found.mtime, found.linkname) == (0, 0, 0, "")


def test_the_size_of_the_head() -> None:
    assert capsule.head_size(capsule.header(capsule.HEAD, 5000)) == 5000
    for wrong in (
        b"\0" * 512,
        b"\xff" * 512,
        capsule.header("other.json", 5000),
    ):
        with pytest.raises(RookeryError, match="not a capsule") as caught:
            capsule.head_size(wrong)
        assert caught.value.kind is ErrorKind.INVALID
    for wrong in (
        capsule.header(capsule.HEAD, 9 << 30),
        capsule.header(capsule.HEAD, 5000).replace(b"ustar", b"uStar"),
    ):
        with pytest.raises(RookeryError, match="damaged") as caught:
            capsule.head_size(wrong)
        assert caught.value.kind is ErrorKind.CORRUPT
    for size in (0, capsule.MAX_HEAD + 1, 8**11 - 1):
        with pytest.raises(RookeryError, match="claims") as caught:
            capsule.head_size(capsule.header(capsule.HEAD, size))
        assert caught.value.kind is ErrorKind.TOO_LARGE


def test_the_fingerprint_is_of_the_whole_key() -> None:
    one, other = "00" * 32, "00" * 31 + "01"
    assert capsule.fingerprint(one) == "6668:7aad:f862:bd77:6c8f:c18b:8e9f:8e20:0897:1485"
    assert capsule.fingerprint(other) != capsule.fingerprint(one)


def test_base64_has_one_form_only() -> None:
    good = capsule.SignedCapsule("QQ==", "0" * 64, "0" * 128)
    assert good.signed_bytes == b"A"
    for text in ("QR==", "QQ=", "Q Q==", "QQ==\n"):
        with pytest.raises(RookeryError, match="base64"):
            _ = capsule.SignedCapsule(text, "0" * 64, "0" * 128).signed_bytes
    with pytest.raises(ValueError, match="key"):
        capsule.SignedCapsule("QQ==", "A" * 64, "0" * 128)
    with pytest.raises(ValueError, match="signature"):
        capsule.SignedCapsule("QQ==", "0" * 64, "A" * 128)

# SPDX-License-Identifier: Apache-2.0
import base64
import dataclasses

import pytest
from nacl.signing import SigningKey

from rookery.errors import ErrorKind, RookeryError
from rookery.node.trust import open_manifest, site_key
from rookery.wire.manifest import Blob, Manifest, Role, SignedManifest, VersionKind, payload_of, version_id


@pytest.fixture
def manifest() -> Manifest:
    blobs = (Blob(role=Role.DATA, name="data.bin", size=3, sha256="ab" * 32),)
    return Manifest(version_id(VersionKind.FILE, blobs), VersionKind.FILE, "data", 0, blobs)


def signed_by(key: SigningKey, payload: bytes) -> SignedManifest:
    return SignedManifest(
        base64.b64encode(payload).decode(), key.verify_key.encode().hex(), key.sign(payload).signature.hex()
    )


def test_a_well_signed_manifest_is_opened(manifest: Manifest) -> None:
    key = SigningKey.generate()
    envelope = signed_by(key, payload_of(manifest))
    assert open_manifest(envelope, key.verify_key.encode().hex()) == manifest
    assert open_manifest(envelope, key.verify_key.encode().hex().upper() + "\n") == manifest


def test_another_sites_key_is_refused(manifest: Manifest) -> None:
    stranger, ours = SigningKey.generate(), SigningKey.generate()
    with pytest.raises(RookeryError, match="another site's key") as caught:
        open_manifest(signed_by(stranger, payload_of(manifest)), ours.verify_key.encode().hex())
    assert caught.value.kind is ErrorKind.CORRUPT
    assert caught.value.record.hint


def test_a_stranger_who_names_our_key_is_refused(manifest: Manifest) -> None:
    stranger, ours = SigningKey.generate(), SigningKey.generate()
    envelope = dataclasses.replace(signed_by(stranger, payload_of(manifest)), key=ours.verify_key.encode().hex())
    with pytest.raises(RookeryError, match="signature is wrong") as caught:
        open_manifest(envelope, ours.verify_key.encode().hex())
    assert caught.value.kind is ErrorKind.CORRUPT


def test_every_flipped_byte_of_the_payload_is_noticed(manifest: Manifest) -> None:
    key = SigningKey.generate()
    payload = payload_of(manifest)
    good = signed_by(key, payload)
    for place in range(0, len(payload), 7):
        flipped = bytearray(payload)
        flipped[place] ^= 1
        bad = dataclasses.replace(good, payload=base64.b64encode(bytes(flipped)).decode())
        with pytest.raises(RookeryError, match="signature is wrong"):
            open_manifest(bad, good.key)


@pytest.mark.parametrize("signature", ["", "00", "zz" * 64, "00" * 63])
def test_a_signature_of_the_wrong_form(manifest: Manifest, signature: str) -> None:
    key = SigningKey.generate()
    bad = dataclasses.replace(signed_by(key, payload_of(manifest)), signature=signature)
    with pytest.raises(RookeryError) as caught:
        open_manifest(bad, bad.key)
    assert caught.value.kind is ErrorKind.INVALID


def test_a_payload_that_is_not_base64(manifest: Manifest) -> None:
    key = SigningKey.generate()
    bad = dataclasses.replace(signed_by(key, payload_of(manifest)), payload="*")
    with pytest.raises(RookeryError, match="base64"):
        open_manifest(bad, bad.key)


def test_well_signed_nonsense_is_invalid_all_the_same() -> None:
    key = SigningKey.generate()
    with pytest.raises(RookeryError) as caught:
        open_manifest(signed_by(key, b'{"version": 1}'), key.verify_key.encode().hex())
    assert caught.value.kind is ErrorKind.INVALID


@pytest.mark.parametrize("text", ["", "12", "zz" * 32, "00" * 33])
def test_a_site_key_of_the_wrong_form(text: str) -> None:
    with pytest.raises(RookeryError, match="64 hex digits") as caught:
        site_key(text)
    assert caught.value.kind is ErrorKind.INVALID

# SPDX-License-Identifier: Apache-2.0
"""One file on a server that does something wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import socket
import threading
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.catalog.rows import MirrorFile, MirrorState
from rookery.head.mirrors import check
from rookery.head.mirrors.check import SAMPLE, SAMPLES, Wanted, client, look, spans
from rookery.head.swarm.dressing import Pieces
from tests.head.mirrors.liar import Liar

PATH = "/base/v1/root.squashfs"


def path_of(wanted: Wanted) -> Path:
    assert wanted.path
    return wanted.path


def content_of(wanted: Wanted) -> bytes:
    return path_of(wanted).read_bytes()


def seen(liar: Liar, wanted: Wanted, *, whole: bool = False) -> MirrorFile:
    if PATH not in liar.content:
        liar.content[PATH] = content_of(wanted)
    with client() as http:
        return look(http, liar.url + PATH, wanted, whole=whole)


@pytest.mark.parametrize("whole", [False, True])
def test_a_good_one(liar: Liar, wanted: Wanted, whole: bool) -> None:
    found = seen(liar, wanted, whole=whole)
    assert (found.state, found.reason, found.etag) == (MirrorState.GOOD, "", True)
    assert (found.sha256, found.url) == (wanted.sha256, liar.url + PATH)
    assert len(liar.asked) == (2 if whole else SAMPLES + 1)


@pytest.mark.parametrize("fault", ["no-etag", "weak-etag"])
def test_one_without_a_strong_etag_is_good_and_it_is_told(liar: Liar, wanted: Wanted, fault: str) -> None:
    liar.fault = fault
    found = seen(liar, wanted)
    assert (found.state, found.etag) == (MirrorState.GOOD, False)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("302", "redirects to http://elsewhere.example/x"),
        ("401", "refuses"),
        ("403", "refuses"),
        ("418", "418"),
        ("html", "HTML page"),
        ("no-ranges", "ranges"),
        ("size", "3000006 bytes, not 3000001"),
        ("shift", "another range"),
        ("no-content-range", "Content-Range"),
        ("gzip", "encoded"),
        ("too-much", "more or less"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_what_no_client_could_use(liar: Liar, wanted: Wanted, fault: str, why: str, whole: bool) -> None:
    liar.fault = fault
    found = seen(liar, wanted, whole=whole)
    assert found.state is MirrorState.BAD
    assert why in found.reason


def test_other_bytes(liar: Liar, wanted: Wanted) -> None:
    content = bytearray(content_of(wanted))
    content[-1] ^= 1
    liar.content[PATH] = bytes(content)
    found = seen(liar, wanted)
    assert found.state is MirrorState.BAD
    assert "bytes 2949120 to 3000000" in found.reason
    # What no sample has hit is found when all is read.
    content[-1] ^= 1
    content[SAMPLE * 20] ^= 1
    liar.content[PATH] = bytes(content)
    with client() as http:
        lucky = look(http, liar.url + PATH, wanted, dice=random.Random(1))
    assert lucky.state is MirrorState.GOOD
    found = seen(liar, wanted, whole=True)
    assert found.state is MirrorState.BAD
    assert "SHA-256" in found.reason


def test_pieces_are_compared_by_their_digests(liar: Liar, wanted: Wanted) -> None:
    content, length = content_of(wanted), 256 << 10
    parts = [content[place : place + length] for place in range(0, len(content), length)]
    pieces = Pieces("sha-1", length, tuple(hashlib.sha1(part).hexdigest() for part in parts))
    by_pieces = dataclasses.replace(wanted, pieces=pieces, path=None)
    liar.content[PATH] = content
    assert seen(liar, by_pieces).state is MirrorState.GOOD
    assert all(int(asked.partition("=")[2].partition("-")[0]) % length == 0 for _, _, asked in liar.asked[:SAMPLES])
    liar.content[PATH] = content[:-1] + bytes([content[-1] ^ 1])
    found = seen(liar, by_pieces)
    assert found.state is MirrorState.BAD
    assert f"bytes {11 * length} to 3000000" in found.reason


def test_a_shorter_and_a_longer_one(liar: Liar, wanted: Wanted) -> None:
    for content in (content_of(wanted)[:-1], content_of(wanted) + b"x"):
        liar.content[PATH] = content
        found = seen(liar, wanted)
        assert found.state is MirrorState.BAD
        assert f"{len(content)} bytes, not 3000001" in found.reason


def test_what_is_not_there_is_no_fault(liar: Liar, wanted: Wanted) -> None:
    with client() as http:
        assert look(http, f"{liar.url}/nothing", wanted).state is MirrorState.MISSING


@pytest.mark.parametrize("fault", ["500", "503", "cut"])
def test_one_that_is_broken_says_nothing_about_files(liar: Liar, wanted: Wanted, fault: str) -> None:
    liar.fault = fault
    with pytest.raises(RookeryError) as caught:
        seen(liar, wanted)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert caught.value.record.hint


def test_one_that_does_not_answer(liar: Liar, wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "READ_SECONDS", 0.5)
    liar.fault = "hang"
    with pytest.raises(RookeryError, match="in time") as caught:
        seen(liar, wanted)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    with socket.create_server(("127.0.0.1", 0)) as wire:
        port = wire.getsockname()[1]
    with client() as http, pytest.raises(RookeryError, match="does not answer"):
        look(http, f"http://127.0.0.1:{port}/x", wanted)
    with client() as http, pytest.raises(RookeryError, match="does not answer"):
        look(http, "http://no-such-host.invalid/x", wanted)


def test_a_trickle_is_not_waited_for(liar: Liar, wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PATIENCE", 0.0)
    monkeypatch.setattr(check, "SLOWEST", 1e12)
    with pytest.raises(RookeryError, match="too slow"):
        seen(liar, wanted)


def test_a_check_can_be_cancelled(liar: Liar, wanted: Wanted) -> None:
    liar.content[PATH] = content_of(wanted)
    cancel = threading.Event()
    cancel.set()
    with client() as http, pytest.raises(RookeryError) as caught:
        look(http, liar.url + PATH, wanted, cancel=cancel)
    assert caught.value.kind is ErrorKind.CANCELLED


def test_no_mirror_is_blamed_for_the_heads_own_fault(liar: Liar, wanted: Wanted) -> None:
    liar.content[PATH] = content_of(wanted)
    path_of(wanted).write_bytes(b"x" + content_of(wanted)[1:])
    with pytest.raises(RookeryError, match="the head's own copy") as caught:
        seen(liar, wanted)
    assert caught.value.kind is ErrorKind.CORRUPT


def test_an_empty_file(liar: Liar, wanted: Wanted) -> None:
    path_of(wanted).write_bytes(b"")
    empty = dataclasses.replace(wanted, size=0)
    assert seen(liar, empty).state is MirrorState.GOOD
    liar.content[PATH] = b"not empty"
    assert seen(liar, empty).state is MirrorState.BAD


def test_samples_are_in_the_file_and_hold_both_ends() -> None:
    for size in (1, SAMPLE, SAMPLE + 1, 3_000_001, 10**12):
        found = spans(size, random.Random(size))
        assert (found[0][0], found[-1][1]) == (0, size)
        assert all(0 <= first < end <= size and first % SAMPLE == 0 for first, end in found)
        assert len(set(found)) == len(found) <= SAMPLES

# SPDX-License-Identifier: Apache-2.0
"""The build on another machine: what runs there, out of the program that parcel.py makes.

Standard input: the root squashfs of the image below, where the recipe has one; then nothing, and it stays open. When it
ends, the head wants no more of this, or is gone: the build is cancelled. Standard output: lines of JSON,
`{"progress": {...}}`, at last `{"error": {...}}` or `{"image": {...}}`; after an image the bytes of its files, in the
order in which it names them. Everything is removed before the program ends.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rookery import files
from rookery.errors import ErrorKind, RookeryError, record_of
from rookery.head.build import image, kept
from rookery.head.build.builder import Base, BasePart, no_base
from rookery.head.build.parcel import SentBase, SentFile, SentImage, unpack
from rookery.head.progress import Progress

KEPT = "rookery-"  # and image.failed(), beside the directory of the build: the root of one that failed
FILES = ("root", "kernel", "drivers")
_BLOCK = 1 << 20
_EVERY = 0.2  # seconds between two messages of one stage


def main() -> None:
    """Build, send, and clean up. The first argument is the directory of this build, which holds the program."""
    place = Path(sys.argv[1])
    os.umask(0o022)  # as on the head; what is made lies in a directory that others cannot enter
    cancel = threading.Event()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: cancel.set())
    voice = _Voice(cancel)
    try:
        _work(place, voice, cancel)
    except Exception as error:  # noqa: BLE001 - all of them are told to the head
        record = dataclasses.asdict(_kept(record_of(error), place))
        voice.last({"error": record})
        sys.exit(1)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _work(place: Path, voice: _Voice, cancel: threading.Event) -> None:
    job = unpack(Path(sys.argv[0]))
    base: Base = no_base
    if job.base:
        part = _receive(job.base, place / "base.squashfs", voice, cancel)
        base = lambda _reference: part  # noqa: E731
    threading.Thread(target=_wait_for_the_end, args=(cancel,), daemon=True).start()
    built = image.build(job.recipe, place / "work", voice.tell, cancel, "", base, job.name)
    paths = [getattr(built, name) for name in FILES]
    sent = []
    for path in paths:
        size = path.stat().st_size
        sent.append(SentFile(size, files.sha256_file(path, voice.bytes_of("reading the image", size))))
    told = SentImage(tuple(sent), built.kernel_release, built.architecture, built.packages, built.notes)
    voice.last({"image": dataclasses.asdict(told)})
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                if cancel.is_set():
                    raise RookeryError("sending the image was cancelled", kind=ErrorKind.CANCELLED)
                sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


def _receive(sent: SentBase, path: Path, voice: _Voice, cancel: threading.Event) -> BasePart:
    """Take the image below from standard input, read without a buffer: what follows is not ours to read."""
    tell, digest, done = voice.bytes_of("sending the image below", sent.size), hashlib.sha256(), 0
    with path.open("wb") as file:
        while done < sent.size:
            block = os.read(0, min(_BLOCK, sent.size - done))
            if not block or cancel.is_set():
                raise RookeryError("sending the image below was cancelled", kind=ErrorKind.CANCELLED)
            file.write(block)
            digest.update(block)
            done += len(block)
            tell(done)
    if digest.hexdigest() != sent.sha256:
        raise RookeryError("the image below did not arrive as it was sent", kind=ErrorKind.CORRUPT)
    return BasePart(path, sent.packages, sent.version, sent.architecture)


def _wait_for_the_end(cancel: threading.Event) -> None:
    while os.read(0, _BLOCK):
        pass
    cancel.set()


class _Voice:
    """What the head hears: each stage at once, and how far it is a few times a second; no last word is lost.
    When nobody hears it any more, the build is cancelled."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel
        self._lock = threading.Lock()
        self._stage, self._closed = "", False
        self._waiting: Progress | None = None
        threading.Thread(target=self._flush, daemon=True).start()

    def tell(self, progress: Progress) -> None:
        with self._lock:
            self._waiting = progress
            if progress.stage != self._stage:
                self._stage = progress.stage
                self._send()

    def bytes_of(self, stage: str, total: int) -> Callable[[int], None]:
        """For those who count bytes."""
        return lambda done: self.tell(Progress(stage, done, total, "bytes"))

    def last(self, message: dict[str, Any]) -> None:
        """Say this, and then nothing any more: what follows is no line."""
        with self._lock:
            self._send()
            self._closed = True
            _say(message)

    def _flush(self) -> None:
        while not self._closed:
            time.sleep(_EVERY)
            with self._lock:
                self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting and not self._closed:
            try:
                _say({"progress": dataclasses.asdict(waiting)})
            except OSError:
                self._closed = True
                self._cancel.set()


def _say(message: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def _kept(record: Any, place: Path) -> Any:
    """Keep the root of a build that failed, for a look, and say in the error where it is."""
    for failed in (place / "work").glob(f"{image.FAILED}*"):
        there = place.parent / f"{KEPT}{failed.name}"
        said = f"is in {there} there"
        try:
            kept.keep(failed, there, f"{KEPT}{image.FAILED}")
        except OSError as error:
            said = f"could not be kept in {there} there: {error.strerror}"
        record = dataclasses.replace(record, details=record.details.replace(f"is in {failed}", said))
    return record

# SPDX-License-Identifier: Apache-2.0
"""The one error record of Rookery.

Everything that can go wrong and is worth telling a person is a `RookeryError`. It is shown in exactly three
places: on the terminal (cli), as problem+json (head/http, RFC 9457) and on a node's console (node/console).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ErrorKind(StrEnum):
    """What sort of failure it is; decides the HTTP status and the exit code."""

    INVALID = "invalid"  # the input is wrong: correct it and call again
    UNAUTHORIZED = "unauthorized"  # no credential, or one that is spent, expired or unknown
    FORBIDDEN = "forbidden"  # a good credential that does not allow this
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"  # clashes with what is there already
    TOO_LARGE = "too-large"  # over a stated limit
    CORRUPT = "corrupt"  # bytes are not what their digest or signature says
    MISSING = "missing"  # a program, file or kernel feature this host lacks
    UNAVAILABLE = "unavailable"  # could not be reached or is busy: the same call may work later
    NO_SPACE = "no-space"
    FAILED = "failed"  # a command or step failed
    CANCELLED = "cancelled"
    INTERNAL = "internal"  # a fault of ours


@dataclass(frozen=True)
class ErrorRecord:
    """An error as data, to be stored or sent.

    kind: the sort of failure. message: one sentence, no trailing full stop, names the subject.
    details: further lines (a command's last output, positions in a file), may be empty.
    hint: one thing to try, may be empty.
    """

    kind: ErrorKind
    message: str
    details: str = ""
    hint: str = ""


class RookeryError(Exception):
    """A failure that a person is told about: what failed, and one thing to try."""

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind = ErrorKind.FAILED,
        details: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.record = ErrorRecord(kind, message, details, hint)

    @property
    def kind(self) -> ErrorKind:
        """The sort of failure."""
        return self.record.kind

    @classmethod
    def from_record(cls, record: ErrorRecord) -> RookeryError:
        """The exception that carries `record`, as when one arrives over the wire."""
        return cls(record.message, kind=record.kind, details=record.details, hint=record.hint)


def record_of(error: BaseException) -> ErrorRecord:
    """The record of any exception; one that is not ours becomes kind `internal` (or `no-space` for ENOSPC)."""
    if isinstance(error, RookeryError):
        return error.record
    if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
        return ErrorRecord(ErrorKind.NO_SPACE, f"no space left on device: {error.filename or ''}".rstrip(": "))
    return ErrorRecord(ErrorKind.INTERNAL, f"{type(error).__name__}: {error}")

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.head.http.blobs import Span, span_of

ETAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, Span(0, 100, partial=False)),
        ("bytes=0-", Span(0, 100, partial=True)),
        ("bytes=10-19", Span(10, 20, partial=True)),
        ("bytes=90-200", Span(90, 100, partial=True)),
        ("bytes=-5", Span(95, 100, partial=True)),
        ("bytes=-500", Span(0, 100, partial=True)),
        ("Bytes = 1 - 2", Span(1, 3, partial=True)),
        # RFC 9110 14.2: what is malformed, or of another unit, is ignored
        ("bytes=5-4", Span(0, 100, partial=False)),
        ("bytes=-", Span(0, 100, partial=False)),
        ("lines=1-2", Span(0, 100, partial=False)),
        ("bytes=1-2,4-5", Span(0, 100, partial=False)),
        ("bytes=" + "9" * 500 + "-", Span(0, 100, partial=False)),
        ("bytes=100-", None),
        ("bytes=-0", None),
    ],
)
def test_range(header: str | None, expected: Span | None) -> None:
    assert span_of(header, None, ETAG, 100) == expected


def test_if_range() -> None:
    assert span_of("bytes=1-2", ETAG, ETAG, 100) == Span(1, 3, partial=True)
    assert span_of("bytes=1-2", '"other"', ETAG, 100) == Span(0, 100, partial=False)
    assert span_of("bytes=1-2", "Wed, 21 Oct 2015 07:28:00 GMT", ETAG, 100) == Span(0, 100, partial=False)


def test_nothing_of_an_empty_file() -> None:
    assert span_of("bytes=0-", None, ETAG, 0) is None
    assert span_of(None, None, ETAG, 0) == Span(0, 0, partial=False)


@given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(0, 10**15))
def test_never_outside_the_file(header: str, size: int) -> None:
    span = span_of(header, None, ETAG, size)
    assert span is None or 0 <= span.first <= span.end <= size

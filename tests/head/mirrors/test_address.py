# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rookery.errors import ErrorKind, RookeryError
from rookery.head.mirrors.address import file_url, normal

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://near.example/images", "http://near.example/images"),
        (" HTTP://Near.Example:80/images/ ", "http://near.example/images"),
        ("https://near.example:443", "https://near.example"),
        ("https://near.example:8443/", "https://near.example:8443"),
        ("http://[FE80::1]:8080/a b", "http://[fe80::1]:8080/a%20b"),
        ("http://müller.example/größe", "http://xn--mller-kva.example/gr%C3%B6%C3%9Fe"),
        ("http://near.example/a%20b", "http://near.example/a%20b"),
        ("http://near.example/blobs/{sha256}", "http://near.example/blobs/{sha256}"),
        ("http://near.example/get?v={version}&f={name}", "http://near.example/get?v={version}&f={name}"),
    ],
)
def test_one_mirror_has_one_form(text: str, expected: str) -> None:
    assert normal(text) == expected
    assert normal(expected) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ftp://near.example/images", "http or https"),
        ("near.example/images", "http or https"),
        ("http:///images", "http or https"),
        ("http://near.example:99999/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://user:secret@near.example/", "login"),
        ("http://user@near.example/", "login"),
        ("http://near.example/#x", "fragment"),
        ("http://near.example/?x=1", "query"),
        ("http://near.example/{file}", "placeholder"),
        ("http://near.example/{image", "brace"),
        ("http://near.example/{image}", "one place"),
        ("http://near.example/{image}/{name}", "one place"),
        ("http://near.example/a\nb", "control"),
        ("http://near.example/" + "a" * 3000, "longer"),
        ("", "http or https"),
    ],
)
def test_what_cannot_be_a_mirror_is_said(text: str, why: str) -> None:
    with pytest.raises(RookeryError, match=why) as caught:
        normal(text)
    assert caught.value.kind is ErrorKind.INVALID
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_whatever_is_typed_is_taken_or_refused(text: str) -> None:
    try:
        found = normal(f"http://h/{text}")
    except RookeryError:
        return
    assert normal(found) == found
    assert not set(found) & set(' <>"\\^`|\n\t')


def test_where_a_file_lies() -> None:
    usual = normal("http://near.example/images/")
    assert file_url(usual, "base", "v1", "root.squashfs", SHA) == "http://near.example/images/base/v1/root.squashfs"
    flat = normal("http://near.example/b/{sha256}")
    assert file_url(flat, "base", "v1", "root.squashfs", SHA) == f"http://near.example/b/{SHA}"
    asked = normal("http://near.example/get?v={version}&f={name}")
    assert file_url(asked, "base", "v1", "a{image}&b", SHA) == "http://near.example/get?v=v1&f=a%7Bimage%7D%26b"

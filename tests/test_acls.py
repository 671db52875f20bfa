# SPDX-License-Identifier: Apache-2.0
"""Access control lists, written into a file of a root and given back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rookery import acls, codec, run
from rookery.errors import ErrorKind, RookeryError

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# Version 2; owner rw-, user 1234 rw-, group r--, mask rw-, others r-- (acl(5); linux/posix_acl_xattr.h).
USER = bytes.fromhex("02000000 01000600ffffffff 02000600d2040000 04000400ffffffff 10000600ffffffff 20000400ffffffff")


def tree(top: Path) -> Path:
    (top / "deep").mkdir(parents=True)
    odd = os.fsencode(top / "deep") + b"/\xff odd\nname"
    with open(odd, "wb"):
        pass
    os.setxattr(odd, ACCESS, USER)
    run.run(["setfacl", "-m", "d:g:99:rx", top / "deep"])
    run.run(["setfacl", "-m", "u:5:x", top])
    (top / "link").symlink_to("deep")
    (top / "plain").touch()
    return top


def test_there_and_back(tmp_path: Path) -> None:
    top = tree(tmp_path / "root")
    odd = os.fsencode(top / "deep") + b"/\xff odd\nname"
    values = os.getxattr(odd, ACCESS), os.getxattr(top / "deep", DEFAULT), os.getxattr(top, ACCESS)
    assert acls.record(top) == 3
    os.removexattr(odd, ACCESS)
    os.removexattr(top / "deep", DEFAULT)
    os.removexattr(top, ACCESS)
    assert acls.restore(top) == 3
    assert (os.getxattr(odd, ACCESS), os.getxattr(top / "deep", DEFAULT), os.getxattr(top, ACCESS)) == values
    # What is not there any more is no error, and a list that was taken away is forgotten with the next record.
    os.unlink(odd)
    assert acls.restore(top) == 2
    os.removexattr(top / "deep", DEFAULT)
    os.removexattr(top, ACCESS)
    assert acls.record(top) == 0
    assert not (top / acls.FILE).exists()
    assert acls.restore(top) == 0


@pytest.mark.parametrize("path", ["../out", "deep/../../out", "/etc", "a//b", "%2e%2e/out", "deep/%00"])
def test_a_path_that_leads_outside(tmp_path: Path, path: str) -> None:
    file = tmp_path / "root" / acls.FILE
    file.parent.mkdir(parents=True)
    (tmp_path / "out").touch()
    file.write_text(codec.dumps(acls.Lists((acls.Entry(path, "AgAAAA=="),))))
    with pytest.raises(RookeryError, match="outside") as caught:
        acls.restore(tmp_path / "root")
    assert caught.value.kind is ErrorKind.INVALID


def test_a_symbolic_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    top = tmp_path / "root"
    file = top / acls.FILE
    file.parent.mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    (top / "link").symlink_to(tmp_path / "out")
    lists = acls.Lists((acls.Entry("link/file", "AgAAAA=="), acls.Entry("link", "AgAAAA==")))
    file.write_text(codec.dumps(lists))
    assert acls.restore(top) == 0

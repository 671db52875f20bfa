# SPDX-License-Identifier: Apache-2.0
"""Finding an image's kernel."""

from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import kernel


def install(tree: Path, release: str, config: str | None = None, modules: bool = True) -> None:
    (tree / "boot").mkdir(parents=True, exist_ok=True)
    (tree / "boot" / f"vmlinuz-{release}").write_bytes(b"MZ")
    if modules:
        (tree / "usr/lib/modules" / release).mkdir(parents=True)
        (tree / "usr/lib/modules" / release / "modules.dep").write_text("")
    if config is not None:
        (tree / "boot" / f"config-{release}").write_text(config)


def test_the_newest_kernel_that_has_modules(tmp_path: Path) -> None:
    for release in ("6.1.0-9-amd64", "6.1.0-10-amd64"):
        install(tmp_path, release)
    install(tmp_path, "6.5.0-1-amd64", modules=False)
    found = kernel.find(tmp_path)
    assert found.release == "6.1.0-10-amd64"
    assert found.image == tmp_path / "boot/vmlinuz-6.1.0-10-amd64"
    assert found.modules == tmp_path / "usr/lib/modules/6.1.0-10-amd64"


def test_kernels_beside_their_modules(tmp_path: Path) -> None:
    """As rpm-based distributions install them."""
    install(tmp_path, "5.14.0-1.el9.x86_64")
    (tmp_path / "boot/vmlinuz-5.14.0-1.el9.x86_64").rename(tmp_path / "usr/lib/modules/5.14.0-1.el9.x86_64/vmlinuz")
    assert kernel.find(tmp_path).release == "5.14.0-1.el9.x86_64"


@pytest.mark.parametrize(
    ("config", "compression"),
    [
        ("# CONFIG_RD_XZ is not set\nCONFIG_RD_ZSTD=y\n", "zstd"),
        ("CONFIG_RD_GZIP=y\n# CONFIG_RD_ZSTD is not set\n", "gzip"),
        (None, "gzip"),
    ],
)
def test_compression_is_one_that_the_kernel_reads(tmp_path: Path, config: str | None, compression: str) -> None:
    install(tmp_path, "6.1.0-9-amd64", config)
    assert kernel.find(tmp_path).compression == compression


def test_no_kernel_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RookeryError) as caught:
        kernel.find(tmp_path)
    assert caught.value.kind is ErrorKind.INVALID
    assert "'kernel'" in caught.value.record.hint

# SPDX-License-Identifier: Apache-2.0
"""Modules: depmod's tables, and what a choice brings along."""

import pytest

from rookery.head.build import modules

DEP = """\
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
kernel/lib/libcrc32c.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
kernel/sound/snd.ko:
"""
SOFTDEP = "# Soft dependencies\nsoftdep libcrc32c pre: crc32c post: snd\nsoftdep ext4 pre: libcrc32c builtin-thing\n"
ALIAS = """\
alias crc32c crc32c_generic
alias crypto-crc32c crc32c_intel
alias crc32c crc32c_intel
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
"""


def tables() -> modules.ModuleTables:
    needs = modules.parse_dep(DEP)
    names = {modules.name_of(path): path for path in needs}
    return modules.ModuleTables(needs, modules.parse_softdep(SOFTDEP), modules.parse_alias(ALIAS), names)


def test_names() -> None:
    assert modules.name_of("kernel/fs/nls/nls_iso8859-1.ko.zst") == "nls_iso8859_1"


def test_aliases_of_hardware_are_not_kept() -> None:
    aliases = modules.parse_alias(ALIAS)
    assert aliases == {"crc32c": ("crc32c_generic", "crc32c_intel"), "crypto_crc32c": ("crc32c_intel",)}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["kernel/net/core/*"], ["failover"]),
        (["kernel/drivers/net/virtio_net"], ["failover", "net_failover", "virtio_net"]),
        (["kernel/drivers/*"], ["failover", "net_failover", "virtio_net"]),
        (["kernel/lib/libcrc32c"], ["crc32c_generic", "crc32c_intel", "libcrc32c", "snd"]),
        (["kernel/fs/ext4/ext4"], ["crc32c_generic", "crc32c_intel", "ext4", "jbd2", "libcrc32c", "snd"]),
        (["kernel/not/there", "kernel/fs/*/jbd2"], ["jbd2"]),
        ([], []),
    ],
)
def test_a_choice_brings_what_it_needs(patterns: list[str], chosen: list[str]) -> None:
    paths = modules.closure(tables(), patterns)
    assert sorted(modules.name_of(path) for path in paths) == chosen
    assert list(paths) == sorted(paths)

# SPDX-License-Identifier: Apache-2.0
"""Packs the `drivers` cpio: those modules of the image's own kernel that a node needs before it has the image.

The archive holds `lib/modules/RELEASE` and `lib/firmware` as real directories (a kernel's own loader and modprobe look
there), to be unpacked beside the agent's archive, whose `lib` must be a directory too.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import cpio, modules, rooted
from rookery.head.build.kernel import Kernel
from rookery.run import run

# What stage one may meet: fnmatch patterns on paths below the modules directory, without suffix (`*` also crosses `/`).
# Whole directories where hardware lives: a driver forgotten here is a machine that cannot be provisioned.
WANTED = (
    # the network
    "kernel/drivers/net/ethernet/*",
    "kernel/drivers/net/phy/*",
    "kernel/drivers/net/mdio/*",
    "kernel/drivers/net/pcs/*",
    "kernel/drivers/net/virtio_net",
    "kernel/drivers/net/xen-netfront",
    "kernel/drivers/net/hyperv/*",
    "kernel/drivers/net/vmxnet3/*",
    "kernel/drivers/net/usb/*",
    "kernel/drivers/net/bonding/*",
    "kernel/net/8021q/8021q",
    "kernel/net/packet/af_packet",
    # disks
    "kernel/drivers/block/virtio_blk",
    "kernel/drivers/block/xen-blkfront",
    "kernel/drivers/block/loop",
    "kernel/drivers/nvme/host/nvme",
    "kernel/drivers/ata/*",
    *(f"kernel/drivers/scsi/{name}" for name in ("sd_mod", "sr_mod", "sg", "virtio_scsi", "hv_storvsc", "vmw_pvscsi")),
    *(f"kernel/drivers/scsi/{name}*" for name in ("megaraid", "mpt3sas", "hpsa", "smartpqi", "aacraid", "mpi3mr")),
    *(f"kernel/drivers/scsi/{name}*" for name in ("arcmsr", "isci", "mvsas", "pm8001", "3w-", "aic94xx", "libsas")),
    "kernel/drivers/message/fusion/*",
    # buses, and a keyboard for whoever stands before the machine
    "kernel/drivers/virtio/virtio_pci",
    "kernel/drivers/virtio/virtio_mmio",
    "kernel/drivers/hv/hv_vmbus",
    "kernel/drivers/pci/controller/*",
    "kernel/drivers/usb/host/*",
    "kernel/drivers/usb/storage/usb-storage",
    "kernel/drivers/usb/storage/uas",
    "kernel/drivers/hid/hid-generic",
    "kernel/drivers/hid/usbhid/usbhid",
    "kernel/drivers/char/hw_random/virtio-rng",
    # the image, and what a disk may hold
    "kernel/fs/squashfs/squashfs",
    "kernel/fs/overlayfs/overlay",
    "kernel/fs/ext4/ext4",
    "kernel/fs/fat/vfat",
    "kernel/fs/nls/nls_cp437",
    "kernel/fs/nls/nls_ascii",
    "kernel/fs/nls/nls_iso8859-1",
    "kernel/fs/efivarfs/efivarfs",
)
FIRMWARE_MOST = 32 << 20  # bytes of firmware files: every node holds them in memory until it has its root
_TABLES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


@dataclass(frozen=True)
class Drivers:
    """What was packed. modules: their paths below the modules directory. firmware: paths below /lib/firmware, and
    left_out: those that the cap kept out, though the image has them."""

    modules: tuple[str, ...]
    firmware: tuple[str, ...]
    left_out: tuple[str, ...]


def pack(
    tree: Path,
    kernel: Kernel,
    destination: Path,
    scratch: Path,
    cancel: threading.Event,
    earlier: Path | None = None,
) -> Drivers:
    """Write the drivers of `kernel`, installed in the root `tree`, to `destination`.

    The same modules and firmware give the same bytes, whatever else is in the tree. earlier: the drivers of an earlier
    version, see `cpio.pack_tree`. Modules go in without a compression of their own
    (the archive as a whole has one, and the agent's modprobe knows none), with depmod's tables made anew for them.
    Raises RookeryError (`cancelled`) and OSError.
    """
    with files.scratch_directory(scratch, "drivers-") as staged:
        chosen = modules.closure(modules.read(kernel.modules), WANTED)
        target = staged / "lib/modules" / kernel.release
        target.mkdir(parents=True)  # also for a kernel that has everything built in
        place = str(kernel.modules.relative_to(tree))
        for path in chosen:
            _stage_module(_own(tree, f"{place}/{path}"), target / path)
        for name in _TABLES:
            if table := rooted.file(tree, f"{place}/{name}"):
                shutil.copyfile(table, target / name)
        run(["depmod", "--basedir", staged, kernel.release], cancel=cancel)
        named = _firmware_names(sorted(target.rglob("*.ko")), cancel)
        kept, left_out = _stage_firmware(tree, named, staged / "lib/firmware")
        for entry in [staged, *staged.rglob("*")]:
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        cpio.pack_tree(staged, destination, kernel.compression, cancel, earlier)
    return Drivers(chosen, kept, left_out)


def _own(tree: Path, name: str) -> Path:
    """A module of the root. The tables that name it came with the root: they may say anything."""
    found = None if ".." in name.split("/") else rooted.file(tree, name)
    if found is None:
        raise RookeryError(
            f"the image's modules.dep names {name}, which is no file of the image",
            kind=ErrorKind.INVALID,
            hint="install the kernel package anew in the image",
        )
    return found


def _stage_module(source: Path, target: Path) -> None:
    target = target.with_name(target.name.partition(".ko")[0] + ".ko")
    target.parent.mkdir(parents=True, exist_ok=True)
    match source.suffix:
        case ".xz":
            target.write_bytes(lzma.decompress(source.read_bytes()))
        case ".gz":
            target.write_bytes(gzip.decompress(source.read_bytes()))
        case ".zst":
            run(["zstd", "-d", "-q", "-f", "-o", target, source])
        case _:
            shutil.copyfile(source, target)


def _firmware_names(paths: list[Path], cancel: threading.Event) -> list[str]:
    """The firmware files that modules name, which may be patterns, sorted."""
    if not paths:
        return []
    said = run(["modinfo", "-F", "firmware", *paths], cancel=cancel).stdout
    return sorted(set(said.split("\n")) - {""})


def _stage_firmware(tree: Path, names: list[str], target: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Copy what the image has of `names`, the smallest first until the cap; returns (kept, left out)."""
    directory = rooted.directory(tree, "usr/lib/firmware")
    sources: dict[str, Path] = {}
    for name in names if directory else ():
        assert directory is not None
        for suffix in ("", ".xz", ".zst"):  # a kernel that reads compressed firmware looks for these names as well
            for path in directory.glob(name.lstrip("/") + suffix) if ".." not in name.split("/") else ():
                if real := rooted.file(tree, str(path.relative_to(tree))):
                    sources[str(path.relative_to(directory))] = real
    sizes = {name: source.stat().st_size for name, source in sources.items()}
    kept, left_out, total = [], [], 0
    for name, size in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
        if total + size > FIRMWARE_MOST:
            left_out.append(name)
            continue
        total += size
        kept.append(name)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources[name], target / name)
    return tuple(sorted(kept)), tuple(sorted(left_out))

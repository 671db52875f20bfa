# SPDX-License-Identifier: Apache-2.0
"""Mode `ram`: the squashfs that was fetched is the root. Nothing is unpacked: a loop device and an overlay make it
writable, memory holds the image once, and the same file goes on being given to others after boot."""

from __future__ import annotations

from rookery.errors import ErrorKind, RookeryError
from rookery.node.action import Action, Kind
from rookery.node.places import BLOBS, LOWER, NEW_ROOT, UPPER
from rookery.wire.facts import Facts
from rookery.wire.manifest import Manifest, Role
from rookery.wire.report import Step

# Room in the blobs' file system beside the blob: what the swarm engine keeps of pieces that are not whole yet.
SLACK = 16 << 20
# What the agent, the image's init and a shell need beside the image.
LEAST_FREE = 192 << 20


def plan(manifest: Manifest, facts: Facts | None) -> tuple[Action, ...]:
    """The steps fetch, verify and root. Raises RookeryError `no-space` for a machine with too little memory."""
    blob = manifest.blob(Role.ROOT)
    if facts is not None and facts.memory < blob.size + LEAST_FREE:
        raise RookeryError(
            f"image {manifest.image} does not fit into this machine's memory: "
            f"{(blob.size + LEAST_FREE) / 1e6:.0f} MB needed, {facts.memory / 1e6:.0f} MB there",
            kind=ErrorKind.NO_SPACE,
            hint="give the machine more memory, or a smaller image",
        )
    file = f"{BLOBS}/{blob.sha256}"
    layers = f"lowerdir={LOWER},upperdir={UPPER}/data,workdir={UPPER}/work"
    return (
        Action(
            Step.FETCH,
            Kind.MOUNT_MEMORY,
            str(BLOBS),
            "the image stays in memory, outside of its own root, to be given to others",
            f"size={blob.size + SLACK},mode=0700",
        ),
        Action(Step.FETCH, Kind.FETCH, blob.sha256, f"the root of {manifest.image}, {blob.size / 1e6:.0f} MB"),
        Action(
            Step.VERIFY, Kind.VERIFY, blob.sha256, "no byte is used before the whole is known to be what was signed"
        ),
        Action(Step.ROOT, Kind.MOUNT_IMAGE, str(LOWER), "the image, read-only", file),
        Action(Step.ROOT, Kind.MOUNT_MEMORY, str(UPPER), "what this machine will write", "mode=0755"),
        Action(Step.ROOT, Kind.MOUNT_OVERLAY, str(NEW_ROOT), "the root that the image's init will see", layers),
    )

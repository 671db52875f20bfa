# SPDX-License-Identifier: Apache-2.0
"""Builds roots from container images: skopeo fetches them, umoci unpacks their layers."""

from __future__ import annotations

import json
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import apply, guard, installed
from rookery.head.build.apart import PROGRAMS, apart, full_disk, require, require_root
from rookery.head.build.builder import BuildSite, BuiltTree
from rookery.head.build.recipe import Recipe
from rookery.head.progress import OnProgress, Progress
from rookery.run import RunError, run

# `uname -m` -> the word of the OCI image specification
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_TAG = "image"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_DOCUMENT = 16 << 20  # bytes of an index, a manifest or a configuration
_ARCHIVES = ("docker-archive", "oci-archive")
_ZSTD = "+zstd"  # how the media type of a layer ends that umoci cannot unpack


@dataclass(frozen=True)
class _Image:
    """An image in an OCI layout. layers: its files, lowest first. zstd: one of them is packed so."""

    architecture: str
    layers: tuple[Path, ...]
    zstd: bool


class ContainerBuilder:
    """A container image becomes a root; the recipe's packages, files and commands are added inside it."""

    def check(self, recipe: Recipe) -> None:  # noqa: ARG002 - which container it is does not matter yet
        """See Builder.check."""
        require_root("building an image")
        require({"skopeo": "skopeo", "umoci": "umoci", **PROGRAMS}, "building from a container")

    def build(self, recipe: Recipe, site: BuildSite) -> BuiltTree:
        """See Builder.build."""
        site.tree.parent.chmod(0o700)  # what is unpacked may have programs with the set-user-ID bit, and devices
        layout = site.scratch / "layout"
        _look_at_archive(recipe, site)
        _fetch(recipe, layout, site)
        image = _read(layout)
        wanted = ARCHITECTURES[recipe.architecture]
        if image.architecture != wanted:
            raise RookeryError(
                f"{recipe.container} is for {image.architecture or 'no architecture'}, and the recipe for {wanted}",
                kind=ErrorKind.INVALID,
                hint="name another image, or the recipe's 'architecture'",
            )
        rules = _look_through(recipe, image, site.on_progress, site.cancel)
        # Plain layers are gone again before the root is unpacked.
        needed = max(rules.size, rules.streamed) if image.zstd else rules.size
        files.require_space(site.tree.parent, needed, "unpacking the container")
        if image.zstd:
            _repack(recipe, layout, site)
        _unpack(recipe, layout, site, len(image.layers))
        shutil.rmtree(layout)
        apply.apply(site.tree, recipe, site.scratch, site.on_progress, site.cancel, site.network_namespace)
        return BuiltTree(installed.packages(site.tree, cancel=site.cancel))


def _look_at_archive(recipe: Recipe, site: BuildSite) -> None:
    """Hold the limits over what skopeo unpacks when it opens an archive: to its temporary files goes the whole of a
    compressed docker-archive, and every file of an oci-archive."""
    kind, path = recipe.container.split(":")[:2]
    source = Path(path)
    if kind not in _ARCHIVES or not source.is_file():  # skopeo tells what is wrong with it
        return
    rules, total = guard.Guard(recipe.container, recipe.limits, layers=False), source.stat().st_size

    def told(done: int) -> None:
        site.on_progress(Progress("looking through the archive", done, total, "bytes"))

    for entry in guard.scan(source, told, site.cancel, rules.stream):
        rules.count(1, entry.size)
    if kind == "oci-archive" or guard.compressor(source):
        files.require_space(site.scratch, max(rules.size, rules.streamed), f"unpacking {source}")


def _fetch(recipe: Recipe, layout: Path, site: BuildSite) -> None:
    network = site.network_namespace if recipe.container.startswith("docker://") else ""
    stage = "fetching the container"
    site.on_progress(Progress(stage))
    try:
        _skopeo(
            ["--override-os", "linux", "--override-arch", ARCHITECTURES[recipe.architecture]],
            [recipe.container, f"oci:{layout}:{_TAG}"],
            site,
            stage,
            network,
            {"http_proxy": recipe.proxy, "https_proxy": recipe.proxy} if recipe.proxy else {},
        )
    except RunError as error:
        raise full_disk(error, f"fetch {recipe.container}", site.scratch) or _explained(
            recipe.container, error
        ) from error


def _skopeo(
    options: list[str],
    words: list[str],
    site: BuildSite,
    stage: str,
    network: str = "",
    env: dict[str, str] | None = None,
) -> None:
    # Plain layers are packed here, which costs time: what skopeo 1.9 writes when it is told to accept them as they are
    # (--dest-oci-accept-uncompressed-layers) says that they are packed, and umoci believes it.
    run(
        [*apart(network), "skopeo", "--tmpdir", str(site.scratch), *options, "copy", *words],
        on_line=lambda line: site.on_progress(Progress(stage, line=line)),
        cancel=site.cancel,
        env=env,
    )


def _explained(container: str, error: RunError) -> RookeryError:
    said = error.completed.stdout
    known = (
        (
            r"no such file or directory|could not find|file not found",
            ErrorKind.NOT_FOUND,
            "there is no container image at",
        ),
        (r"manifest unknown|name unknown|not found in|No descriptor found", ErrorKind.NOT_FOUND, "the registry has no"),
        (r"unauthorized|authentication required|denied", ErrorKind.UNAUTHORIZED, "not allowed to fetch"),
        (r"connection refused|no such host|i/o timeout|network is unreachable", ErrorKind.UNAVAILABLE, "cannot reach"),
    )
    for pattern, kind, words in known:
        if re.search(pattern, said, re.IGNORECASE):
            return RookeryError(
                f"{words} {container}",
                kind=kind,
                details=error.record.details,
                hint="'skopeo inspect' on the head tells the same; 'skopeo login' there keeps a registry's password",
            )
    return RookeryError(f"cannot fetch the container {container}", details=error.record.details)


def _repack(recipe: Recipe, layout: Path, site: BuildSite) -> None:
    """Unpack zstd layers to plain ones, by the only way that skopeo has for it."""
    plain, stage = site.scratch / "plain", "unpacking zstd layers"
    try:
        _skopeo([], ["--dest-decompress", f"oci:{layout}:{_TAG}", f"dir:{plain}"], site, stage)
        shutil.rmtree(layout)
        _skopeo([], [f"dir:{plain}", f"oci:{layout}:{_TAG}"], site, stage)
    except RunError as error:
        raise full_disk(error, f"unpack {recipe.container}", site.scratch) or RookeryError(
            f"cannot unpack the zstd layers of {recipe.container}",
            details=error.record.details,
            hint="make it again with gzip layers: 'skopeo copy --dest-compress-format gzip'",
        ) from error
    shutil.rmtree(plain)


def _read(layout: Path) -> _Image:
    """Follow the layout's index to the configuration and the layers. skopeo has checked every digest."""
    try:
        index = _document(layout / "index.json")
        manifest = _document(_blob(layout, index["manifests"][0]))
        config = _document(_blob(layout, manifest["config"]))
        layers = manifest["layers"]
        packed = any(str(layer.get("mediaType", "")).endswith(_ZSTD) for layer in layers)
        return _Image(str(config.get("architecture", "")), tuple(_blob(layout, layer) for layer in layers), packed)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RookeryError(
            "the container's description is no description",
            kind=ErrorKind.INVALID,
            details=str(error),
            hint="'skopeo inspect --config' shows what it says of itself",
        ) from error


def _document(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST_DOCUMENT:
        raise RookeryError("the container's description is too large", kind=ErrorKind.TOO_LARGE)
    document = json.loads(path.read_bytes())
    if not isinstance(document, dict):
        raise TypeError(f"{path.name} is no table")
    return document


def _blob(layout: Path, descriptor: dict[str, Any]) -> Path:
    digest = str(descriptor.get("digest", ""))
    if not _DIGEST.fullmatch(digest):
        raise RookeryError(f"the container names a part by {digest[:80]!r}", kind=ErrorKind.INVALID)
    return layout / "blobs/sha256" / digest.removeprefix("sha256:")


def _look_through(recipe: Recipe, image: _Image, on_progress: OnProgress, cancel: threading.Event) -> guard.Guard:
    """Hold the rules over all layers."""
    rules = guard.Guard(recipe.container, recipe.limits, layers=True)
    total, before = sum(layer.stat().st_size for layer in image.layers), 0
    for layer in image.layers:

        def told(done: int, before: int = before) -> None:
            on_progress(Progress("looking through the layers", before + done, total, "bytes"))

        for entry in guard.scan(layer, told, cancel, rules.stream):
            rules.look(entry)
        before += layer.stat().st_size
    return rules


def _unpack(recipe: Recipe, layout: Path, site: BuildSite, layers: int) -> None:
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        done += "unpack layer:" in line
        site.on_progress(Progress("unpacking the layers", max(done - 1, 0), layers, line=line))

    on_line("")
    words = [*apart(), "umoci", "--log=info", "raw", "unpack", "--image", f"{layout}:{_TAG}", str(site.tree)]
    try:
        run(words, on_line=on_line, cancel=site.cancel, hint="'skopeo copy' of it into a new layout may repair it")
    except RunError as error:
        if full := full_disk(error, f"unpack {recipe.container}", site.scratch):
            raise full from error
        raise

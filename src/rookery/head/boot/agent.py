# SPDX-License-Identifier: Apache-2.0
"""Packs the agent: the archive that turns any machine into a Rookery node until the image's root takes over.

It holds the head's own Python interpreter, what the node's modules import (found by importing them, so nothing is
listed by hand), the shared libraries these need, busybox and kmod; and the site's public key, the one thing that a node
trusts. It is the same for every image of an architecture. The head packs the node's files and never imports them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rookery import codec, files
from rookery.errors import ErrorKind, RookeryError
from rookery.head.build import cpio
from rookery.log import logger
from rookery.run import run, which

log = logger(__name__)

# What the node starts with. Everything else follows from what these import.
ENTRIES = (
    "rookery.node.init",
    "rookery.node.journey",
    "rookery.node.after",
    # The codecs of host names and of the console: imported by name, when first used.
    "encodings.idna",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.utf_8",
)
# What those would import if it were there, and do without otherwise. ssl: a node speaks plain HTTP and believes only
# signatures and digests; OpenSSL's protocol half would be dead weight. The others: no such archive is ever opened.
WITHOUT = ("ssl", "_ssl", "bz2", "_bz2", "lzma", "_lzma", "readline")
SITE_KEY = "etc/rookery/site.pub"
DIRECTORIES = ("dev", "etc", "newroot", "proc", "run/rookery", "sys", "tmp", "var")
MOST_BYTES = 16_000_000
START = "usr/lib/rookery/start"
# A shell for one mount, then Python has its place (and process number 1). Python does not start where there is neither
# randomness yet, as in a machine's first second, nor a /dev/urandom to ask instead.
_INIT = f"""#!/bin/busybox sh
[ $$ != 1 ] || /bin/busybox mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
exec /usr/bin/python3 -IS /{START} "$@"
"""
_START = """from rookery.node.init import main
main()
"""
# Beside the image the agent's Python runs in the image's root, with the agent's loader and C library. The place is
# node/places.py's; a test holds them together.
AGENT = "/run/rookery/agent"
_READY = """#!{agent}/bin/busybox sh
exec {agent}{loader} --library-path {agent}{libraries} {agent}/usr/bin/python3 -IS {agent}/{start} ready
"""
_ASK = """
import json, sys
answer = {"version": "%d.%d" % sys.version_info[:2], "executable": sys._base_executable, "path": sys.path}
with open(sys.argv[1], "w") as file:
    json.dump(answer, file)
"""
_LIBRARY = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$")


@dataclass(frozen=True)
class PackedAgent:
    """The agent cpio. sha256: 64 hex digits. size: bytes."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class Interpreter:
    """A Python. version: `3.11`. executable: its own file, behind any virtual environment. path: the directories that
    it searches besides the standard library."""

    version: str
    executable: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class Closure:
    """What the node imports. modules: names of those compiled. extensions: of those that are shared objects, name,
    file, and `package` or `module`."""

    modules: tuple[str, ...]
    extensions: tuple[tuple[str, ...], ...]


def pack(
    site_public: str,
    destination: Path,
    architecture: str = "",
    interpreter: Path | None = None,
    compression: str = "zstd",
) -> PackedAgent:
    """Write the agent cpio to `destination`, whole or not at all; the same head gives the same bytes.

    site_public: 64 hex digits. architecture: as in `uname -m`; only this machine's own can be packed. interpreter: the
    Python to pack, this one by default. compression: as in cpio.pack_tree.
    Raises RookeryError: `invalid` for another architecture, `missing` when busybox or kmod is not installed.
    """
    own = os.uname().machine
    if architecture not in ("", own):
        raise RookeryError(
            f"an agent for {architecture} cannot be packed on this {own} machine",
            kind=ErrorKind.INVALID,
            hint=f"pack it on a head that is {architecture}, and copy the file",
        )
    with files.scratch_directory(destination.parent, ".agent.") as scratch:
        tree, archive = scratch / "tree", scratch / "cpio"
        stage(site_public, tree, interpreter)
        # The best compression takes half a minute; what it would be made of is known in two seconds.
        inputs, noted = f"{compression} {_digest(tree)}", destination.with_name(f"{destination.name}.inputs")
        if not (destination.exists() and noted.exists() and noted.read_text() == inputs):
            log.info("packing the agent, once; this takes up to a minute, and later starts find it packed")
            cpio.pack_tree(tree, archive, compression)
            noted.unlink(missing_ok=True)
            os.replace(archive, destination)
            files.write_atomic(noted, inputs.encode())
    return PackedAgent(destination, files.sha256_file(destination), destination.stat().st_size)


def _digest(tree: Path) -> str:
    """SHA-256 over every path, mode and content of a tree."""
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else files.sha256_file(path) if path.is_file() else ""
        digest.update(f"{path.relative_to(tree)}\0{path.lstat().st_mode:o}\0{content}\n".encode())
    return digest.hexdigest()


def stage(site_public: str, tree: Path, interpreter: Path | None = None) -> Closure:
    """Lay out the agent's file tree in `tree`, a directory that is made, and return what was found to be imported."""
    for name in DIRECTORIES:
        (tree / name).mkdir(parents=True, exist_ok=True)
    python = ask_interpreter(interpreter or Path(sys.executable))
    closure = find_closure(python, tree / f"usr/lib/python{python.version}")
    _stage_programs(tree, python, closure)
    (tree / SITE_KEY).parent.mkdir(parents=True, exist_ok=True)
    (tree / SITE_KEY).write_text(f"{site_public.strip()}\n")
    (tree / START).parent.mkdir(parents=True)
    (tree / START).write_text(_START)
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    _settle_modes(tree)
    return closure


def _once(extensions: tuple[tuple[str, ...], ...]) -> list[tuple[str, ...]]:
    """Without the second name that cffi gives to its modules (`_sodium` beside `nacl._sodium`)."""
    longest = {file: max((row[0] for row in extensions if row[1] == file), key=len) for _, file, _ in extensions}
    return [row for row in extensions if row[0] == longest[row[1]]]


def ask_interpreter(python: Path) -> Interpreter:
    """What `python` says of itself."""
    with tempfile.TemporaryDirectory(prefix="rookery-python.") as name:
        answer = Path(name, "answer")
        run([python, "-I", "-c", _ASK, answer])
        return codec.loads(Interpreter, answer.read_bytes(), what=f"{python}'s answer")


def find_closure(python: Interpreter, target: Path) -> Closure:
    """Let `python` import the node's modules and compile them into `target`, which is made; see closure.py."""
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="rookery-closure.") as name:
        request, answer = Path(name, "request"), Path(name, "answer")
        wish = {"entries": ENTRIES, "without": WITHOUT, "path": python.path, "into": str(target)}
        request.write_text(codec.dumps({**wish, "shown": f"/usr/lib/python{python.version}"}))
        run([python.executable, "-IS", Path(__file__).with_name("closure.py"), request, answer])
        found = codec.loads(Closure, answer.read_bytes(), what="the agent's import closure")
    # Without this directory Python takes its own prefix for wrong.
    (target / "lib-dynload").mkdir()
    return found


def _stage_programs(tree: Path, python: Interpreter, closure: Closure) -> None:
    placed = {
        tree / "usr/bin/python3": Path(python.executable),
        tree / "bin/busybox": _busybox(),
        tree / "bin/kmod": _program("kmod", "kmod"),
    }
    modules = tree / f"usr/lib/python{python.version}"
    for name, file, form in _once(closure.extensions):
        source, place = Path(file), modules / name.replace(".", "/")
        placed[place / source.name if form == "package" else place.with_name(source.name)] = source
    for target, source in placed.items():
        _copy(source, target)
    shared = libraries(list(placed.values()))
    for source, place in shared.items():
        _copy(source, tree / place.relative_to("/"))
    loader = next(place for place in shared.values() if place.name.startswith("ld"))
    libc = next(place for place in shared.values() if place.name.startswith("libc.so"))
    (tree / "ready").write_text(_READY.format(agent=AGENT, loader=loader, libraries=libc.parent, start=START))
    (tree / "ready").chmod(0o755)
    (tree / "sbin").mkdir()
    (tree / "sbin/modprobe").symlink_to("../bin/kmod")
    (tree / "bin/sh").symlink_to("busybox")


def libraries(binaries: list[Path]) -> dict[Path, Path]:
    """The shared libraries that `binaries` need: real file -> where it goes in the agent.

    The dynamic loader goes to the path that the binaries name. All others go to the directory of the C library, which
    that loader searches without a cache and without the binaries' own search paths (a pyenv has its own).
    """
    found: dict[str, Path] = {}
    for binary in binaries:
        for line in run(["ldd", binary], check=False).stdout.splitlines():
            if "not found" in line:
                raise RookeryError(
                    f"{binary} needs a library that is not there: {line.strip()}", kind=ErrorKind.MISSING
                )
            if match := _LIBRARY.match(line):
                found.setdefault(match[1] or match[2], Path(match[2]))
    libc = next((path for name, path in found.items() if name.startswith("libc.so")), None)
    if libc is None:
        raise RookeryError("the interpreter's C library was not found by ldd", kind=ErrorKind.MISSING)
    return {path.resolve(): Path(name) if name.startswith("/") else libc.parent / name for name, path in found.items()}


def _program(name: str, package: str) -> Path:
    found = which(name)
    if found is None:
        raise RookeryError(
            f"the program {name} is not installed, and the agent carries it",
            kind=ErrorKind.MISSING,
            hint=f"apt install {package}",
        )
    return found.resolve()


def _busybox() -> Path:
    path = _program("busybox", "busybox-static")
    if run(["ldd", path], check=False).code == 0:
        raise RookeryError(
            f"{path} needs shared libraries; the agent carries a static busybox",
            kind=ErrorKind.MISSING,
            hint="apt install busybox-static",
        )
    return path


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    strip = _strip()
    # Not every file can be stripped (a static program may be packed); those go in as they are.
    if strip is None or run([strip, "--strip-unneeded", "-o", target, source], check=False).code != 0:
        shutil.copyfile(source, target)
    target.chmod(0o755)


@functools.cache
def _strip() -> Path | None:
    return which("strip")


def _settle_modes(tree: Path) -> None:
    # Independent of the umask of whoever packs.
    for path in tree.rglob("*"):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runs else 0o644)

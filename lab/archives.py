# SPDX-License-Identifier: Apache-2.0
"""Package archives that a test makes itself: keys, deb and rpm packages, and signed repositories of them.

The real tools make them (gpg, dpkg-deb, apt-ftparchive, rpmbuild, rpmsign, createrepo_c), so that what reads them is
tried with what it will meet.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rookery.run import run, which


@dataclass(frozen=True)
class Key:
    """A key pair for signing. home: the GnuPG directory that it is in. owner: its user id."""

    home: Path
    owner: str

    @property
    def armor(self) -> str:
        """The public key as armored text."""
        return self._gpg("--armor", "--export", self.owner)

    def export(self, path: Path) -> Path:
        """Write the public key in binary form to `path`."""
        self._gpg("--output", str(path), "--export", self.owner)
        return path

    def clearsign(self, source: Path, target: Path) -> None:
        """Write `source` with a signature around it to `target`."""
        self._gpg("--yes", "--clearsign", "--output", str(target), str(source))

    def sign_rpm(self, package: Path) -> None:
        """Put a signature into an rpm package."""
        macros = {
            "__gpg": str(which("gpg")),  # Debian's rpm looks for gpg2
            "_gpg_name": self.owner,
            "_gpg_path": str(self.home),
            "_dbpath": f"{self.home}/rpmdb",
        }
        words = [f"--define={name} {value}" for name, value in macros.items()]
        run(["rpmsign", *words, "--addsign", package], env=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        return {"GNUPGHOME": str(self.home), "HOME": str(self.home)}

    def _gpg(self, *words: str) -> str:
        return run(["gpg", "--batch", "--quiet", *words], env=self._environment).stdout


@contextlib.contextmanager
def signing_key(home: Path, owner: str = "Test Archive <archive@site.example>") -> Iterator[Key]:
    """A new key in the new directory `home`; its agent is gone when the block ends."""
    home.mkdir(mode=0o700, parents=True)
    environment = {"GNUPGHOME": str(home), "HOME": str(home)}
    made = ["--batch", "--quiet", "--passphrase", "", "--quick-generate-key", owner, "rsa2048", "sign", "never"]
    try:
        run(["gpg", *made], env=environment)
        yield Key(home, owner)
    finally:
        run(["gpgconf", "--kill", "all"], env=environment, check=False)


@dataclass(frozen=True)
class Package:
    """What is packed. files: path -> content, with modes as of `modes` (else 0644). links: path -> target. scripts: of
    deb `postinst` …, of rpm `post` …. requires: names of other packages. directories: of its
    own, without what is in them. attributes: rpm's words before a path in `%files`, as `%caps(cap_net_raw=ep)`.
    owner: the user and group of an rpm's files. architecture: deb's or rpm's word for it; `all`: any."""

    name: str
    version: str = "1.0"
    files: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    directories: Sequence[str] = ()
    modes: Mapping[str, int] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    requires: Sequence[str] = ()
    provides: Sequence[str] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    owner: str = "root"
    architecture: str = "all"


BUSYBOX = Path("/bin/busybox")
_APPLETS = (
    *("sh", "cat", "chmod", "chown", "cp", "date", "echo", "env", "id", "ln", "ls", "mkdir", "mv", "rm", "sleep"),
    *("stat", "test", "touch", "true", "uname"),
)


def tiny_root(architecture: str, busybox: bytes = b"") -> Package:
    """What a root needs to run shell scripts: busybox (this machine's own, of Debian's busybox-static, unless it is
    given), users, and the usual directories."""
    return Package(
        "tiny-root",
        files={
            "/usr/bin/busybox": busybox or BUSYBOX.read_bytes(),
            "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:2:2:daemon:/:/bin/false\n",
            "/etc/group": b"root:x:0:\nadm:x:4:\n",
        },
        modes={"/usr/bin/busybox": 0o755},
        links={f"/usr/bin/{name}": "busybox" for name in _APPLETS} | {"/bin": "usr/bin"},
        provides=("/bin/sh",),
        directories=("/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/log", "/var/tmp"),
        architecture=architecture,
    )


def tiny_kernel(directory: Path, architecture: str, release: str = "9.9.9-test") -> Package:
    """What stands in for a kernel with one module, and for an init: enough to be packed and published, not booted."""
    module = directory / "module.ko"
    source = '.section .modinfo,"a"\n.asciz "license=GPL"\n.asciz "name=virtio_net"\n'
    run(["as", "-o", module, "-"], stdin=source.encode())
    top, path = f"/usr/lib/modules/{release}", "kernel/drivers/net/virtio_net.ko"
    return Package(
        "tiny-kernel",
        files={
            "/sbin/init": b"#!/bin/sh\n",
            f"{top}/vmlinuz": b"a kernel",
            f"{top}/{path}": module.read_bytes(),
            f"{top}/modules.dep": f"{path}:\n".encode(),
            f"{top}/modules.builtin": b"",
            f"{top}/modules.order": f"{path}\n".encode(),
        },
        provides=("kernel",),
        architecture=architecture,
    )


def own(*names: str) -> dict[str, bytes]:
    """Programs of this machine with the libraries that they need: path -> content."""
    programs = [path for path in map(which, names) if path is not None]
    listed = "".join(run(["ldd", path]).stdout for path in programs)
    libraries = {Path(word) for word in listed.split() if word.startswith("/")}
    return {str(path): path.read_bytes() for path in sorted({*programs, *libraries})}


def own_rpm(architecture: str, database: str) -> Package:
    """This machine's own rpm as a package, set to keep its database in `database` of the root."""
    programs = own("rpm", "rpmdb")
    settings = [path for path in Path("/usr/lib/rpm").rglob("*") if path.is_file() and not os.access(path, os.X_OK)]
    files = programs | {str(path): path.read_bytes() for path in settings}
    files["/etc/rpm/macros"] = f"%_dbpath {database}\n%_db_backend sqlite\n".encode()
    return Package("rpm", files=files, modes=dict.fromkeys(programs, 0o755), architecture=architecture)


def own_sysusers(architecture: str) -> Package:
    """This machine's systemd-sysusers as a package."""
    programs = own("systemd-sysusers")
    return Package("sysusers", files=programs, modes=dict.fromkeys(programs, 0o755), architecture=architecture)


def _lay_out(package: Package, root: Path) -> None:
    root.mkdir(parents=True)
    for name in package.directories:
        (root / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for name, content in package.files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(package.modes.get(name, 0o644))
    for name, target in package.links.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


def deb(package: Package, directory: Path) -> Path:
    """Build a deb package into `directory`; returns its path."""
    root = directory / f"{package.name}.root"
    _lay_out(package, root)
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    lines = [f"Package: {package.name}", f"Version: {package.version}", f"Architecture: {package.architecture}"]
    lines += ["Maintainer: Test <test@site.example>", f"Description: {package.name}"]
    lines += [f"Depends: {', '.join(package.requires)}"] if package.requires else []
    (control / "control").write_text("\n".join(lines) + "\n")
    for name, text in package.scripts.items():
        (control / name).write_text(f"#!/bin/sh\nset -e\n{text}\n")
        (control / name).chmod(0o755)
    target = directory / f"{package.name}_{package.version}_{package.architecture}.deb"
    run(["dpkg-deb", "--root-owner-group", "--build", root, target])
    run(["rm", "-rf", root])
    return target


def deb_archive(top: Path, suite: str, components: Mapping[str, Sequence[Path]], architecture: str, key: Key) -> None:
    """Make an archive as Debian's and Ubuntu's of packages (component -> files, which are linked or copied), signed."""
    suite_directory = top / "dists" / suite
    for component, packages in components.items():
        pool, lists = top / "pool" / component, suite_directory / component / f"binary-{architecture}"
        for directory in (pool, lists):
            directory.mkdir(parents=True, exist_ok=True)
        for package in packages:
            run(["cp", "--link", "--remove-destination", package, pool])
        listed = run(["apt-ftparchive", "packages", f"pool/{component}"], cwd=top).stdout
        (lists / "Packages").write_text(listed)
    facts = {
        "Suite": suite,
        "Codename": suite,
        "Components": " ".join(components),
        "Architectures": architecture,
    }
    options = [word for name, value in facts.items() for word in ("-o", f"APT::FTPArchive::Release::{name}={value}")]
    (top / "Release.new").write_text(run(["apt-ftparchive", *options, "release", suite_directory]).stdout)
    (top / "Release.new").rename(suite_directory / "Release")
    key.clearsign(suite_directory / "Release", suite_directory / "InRelease")


def flat_deb_archive(top: Path, key: Key) -> None:
    """Make a flat archive (packages and lists in one directory) of the deb packages in `top`, signed."""
    (top / "Packages").write_text(run(["apt-ftparchive", "packages", "."], cwd=top).stdout)
    release = run(["apt-ftparchive", "release", "."], cwd=top).stdout
    (top / "Release").write_text(release)
    key.clearsign(top / "Release", top / "InRelease")


def rpm(package: Package, directory: Path, key: Key | None) -> Path:
    """Build an rpm package into `directory` and sign it; returns its path."""
    architecture = "noarch" if package.architecture == "all" else package.architecture
    work = directory / f"{package.name}.build"
    _lay_out(package, work / "content")
    lines = [f"Name: {package.name}", f"Version: {package.version}", "Release: 1", f"Summary: {package.name}"]
    lines += ["License: Apache-2.0", "AutoReqProv: no"]
    lines += ["BuildArch: noarch"] if architecture == "noarch" else []
    lines += [f"Requires: {name}" for name in package.requires] + [f"Provides: {name}" for name in package.provides]
    lines += ["%description", package.name, "%install", f"cp -a {work}/content/. %{{buildroot}}/"]
    for name, text in package.scripts.items():
        lines += [f"%{name}", text]
    lines += ["%files"]
    lines += [f"%dir {name}" for name in package.directories]
    for name in package.files:
        mode = f"%attr({package.modes.get(name, 0o644):04o}, {package.owner}, {package.owner})"
        lines.append(f"{mode} {package.attributes.get(name, '')} {name}")
    lines += list(package.links)
    spec = work / "package.spec"
    spec.write_text("\n".join(lines) + "\n")
    macros = {
        "_topdir": f"{work}/top",
        "_rpmdir": str(directory),
        "_rpmfilename": "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm",
        "_build_id_links": "none",
        "__os_install_post": "%{nil}",
        "debug_package": "%{nil}",
        "_dbpath": f"{work}/rpmdb",
        "_binary_payload": "w1.gzdio",
    }
    words = ["rpmbuild", "--quiet", "-bb", "--target", architecture]
    run([*words, *(f"--define={name} {value}" for name, value in macros.items()), spec], env={"HOME": str(work)})
    run(["rm", "-rf", work])
    target = directory / f"{package.name}-{package.version}-1.{architecture}.rpm"
    if key is not None:
        key.sign_rpm(target)
    return target


def rpm_repository(top: Path, groups: Mapping[str, Sequence[str]] | None = None) -> None:
    """Make a repository of the rpm packages in `top`. groups: id -> names of its mandatory packages."""
    words: list[str | Path] = ["createrepo_c", "--quiet"]
    if groups:
        comps = top / "comps.xml"
        comps.write_text(
            '<?xml version="1.0" encoding="UTF-8"?>\n<comps>\n'
            + "".join(
                f"<group><id>{group}</id><name>{group}</name><default>false</default>"
                f"<uservisible>true</uservisible><packagelist>"
                + "".join(f'<packagereq type="mandatory">{name}</packagereq>' for name in names)
                + "</packagelist></group>\n"
                for group, names in groups.items()
            )
            + "</comps>\n"
        )
        words += ["--groupfile", comps]
    run([*words, top])


class _Files(SimpleHTTPRequestHandler):
    def __init__(self, asked: list[str], *words: Any, **named: Any) -> None:
        self._asked = asked
        super().__init__(*words, **named)

    def log_request(self, *_: object) -> None:
        self._asked.append(self.path)

    def log_message(self, *_: object) -> None:
        pass


class _Relay(_Files):
    """A forward proxy, which is asked for whole URLs."""

    def do_GET(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.path, timeout=20) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def _serving(handler: Callable[..., _Files], address: str) -> Iterator[str]:
    with ThreadingHTTPServer((address, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{address}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def served(top: Path, address: str = "127.0.0.1") -> Iterator[tuple[str, list[str]]]:
    """Serve `top` by HTTP; gives its URL, and the list of paths that are asked for, as they come."""
    asked: list[str] = []
    with _serving(functools.partial(_Files, asked, directory=str(top)), address) as url:
        yield url, asked


@contextlib.contextmanager
def proxy(address: str = "127.0.0.1") -> Iterator[tuple[str, list[str]]]:
    """An HTTP proxy that fetches what it is asked for; gives its URL, and the list of URLs that are asked for."""
    asked: list[str] = []
    with _serving(functools.partial(_Relay, asked), address) as url:
        yield url, asked

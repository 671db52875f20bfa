# SPDX-License-Identifier: Apache-2.0
"""Two archives of deb packages from which a root is built without a network."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Iterator
from pathlib import Path

from lab import archives
from lab.archives import Key, Package
from rookery.head.build.deb import ARCHITECTURES
from rookery.head.build.recipe import Recipe, Repository
from rookery.run import run

SUITE = "noble"
TOOL = "/usr/bin/site-tool"


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Two archives below `top`: `ubuntu`, in Ubuntu's form, signed by `ours`; and `site`, by `theirs`."""

    top: Path
    ours: Key
    theirs: Key

    @property
    def recipe(self) -> Recipe:
        """Builds from the directory itself."""
        return Recipe(
            distribution="ubuntu",
            suite=SUITE,
            kernel="kernel-stand-in",
            mirror=f"file://{self.top}/ubuntu",
            key=self.ours.armor.strip(),
            commands=(f"{TOOL} > /root/said",),
            packages=("site-tool",),
            repositories=(self.site(f"copy://{self.top}/site"),),
        )

    def site(self, url: str, key: str | None = None) -> Repository:
        """The second one, by the address at which it is served, with its key or another one."""
        return Repository("site", url, self.theirs.armor.strip() if key is None else key, suites=("./",))


@contextlib.contextmanager
def shelf_of_debs(top: Path) -> Iterator[Shelf]:
    """Make both in the directory `top`. The second one has `waiting`, too, which never gets installed: its script waits
    for ten minutes once it has made /root/waits."""
    top.chmod(0o755)
    architecture = ARCHITECTURES[platform.machine()]
    cache = top / "cache"
    (cache / "partial").mkdir(parents=True)
    (top / "status").touch()
    # What a root cannot do without, as the head's own archive has it: not one of these packages says Debian or Ubuntu.
    wanted = ["?essential", "apt", "usr-is-merged"]
    settings = (f"Dir::State::status={top}/status", f"Dir::Cache::archives={cache}", "APT::Sandbox::User=root")
    options = [word for setting in (*settings, "APT::Install-Recommends=false") for word in ("-o", setting)]
    run(["apt-get", "-qq", "-y", *options, "--download-only", "install", *wanted], stdin=b"")
    stand_in = dataclasses.replace(archives.tiny_kernel(top, architecture), name="kernel-stand-in", provides=())
    kernel = archives.deb(stand_in, top)
    tool = Package(
        "site-tool",
        files={TOOL: b"#!/bin/sh\ncat /var/lib/site-tool\n"},
        modes={TOOL: 0o755},
        scripts={"postinst": "echo set up > /var/lib/site-tool"},
        requires=("kernel-stand-in",),
    )
    waiting = Package("waiting", scripts={"postinst": "trap '' TERM; sleep 600 & touch /root/waits; sleep 600"})
    with (
        archives.signing_key(top / "ours") as ours,
        archives.signing_key(top / "theirs", "Site <site@site.example>") as theirs,
    ):
        shelf = Shelf(top, ours, theirs)
        packages = sorted(cache.glob("*.deb"))
        parts = {"main": packages, "universe": [kernel]}
        archives.deb_archive(top / "ubuntu", SUITE, parts, architecture, ours)
        (top / "site").mkdir()
        for package in (tool, waiting):
            archives.deb(package, top / "site")
        archives.flat_deb_archive(top / "site", theirs)
        yield shelf

# SPDX-License-Identifier: Apache-2.0
"""The agent: what is in it, how large it is, and that it runs without anything of this machine."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.boot import agent
from rookery.head.build import cpio
from rookery.run import run

SITE = "ab" * 32
CLOSURE = Path(__file__).with_name("agent-closure.txt")
DEBIAN = Path("/usr/bin/python3")
# Everything that a node may come to use must be there without the head's files: the engine, the signature check, names.
PROGRAM = """
import hashlib, importlib, os, socket, sys
for root, _, names in os.walk("/usr/lib/python%d.%d" % sys.version_info[:2]):
    for name in names:
        module = os.path.relpath(os.path.join(root, name), sys.path[1]).replace("/", ".")
        if module.endswith(".pyc"):
            importlib.import_module(module.removesuffix(".pyc").removesuffix(".__init__"))
socket.getaddrinfo("127.0.0.1", 80)
import libtorrent, nacl.signing
libtorrent.session({"listen_interfaces": ""})
key = nacl.signing.SigningKey(bytes(32))
key.verify_key.verify(key.sign(b"x"))
assert hashlib.sha256.__name__.startswith("openssl"), "the digest of a whole image would take five times as long"
from rookery.node.probe import facts, record
sys.stdout.write(facts(record()).agent_version)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "tree"
    agent.stage(SITE, path)
    return path


def test_closure_is_the_recorded_one(tmp_path: Path) -> None:
    closure = agent.find_closure(agent.ask_interpreter(Path(sys.executable)), tmp_path / "lib")
    # Which of the standard library's own machine code is built into the interpreter is its packager's choice.
    shared = {name.partition(".")[0] for name, *_ in closure.extensions} - sys.stdlib_module_names
    found = sorted({name.partition(".")[0] for name in closure.modules} | shared)
    recorded = CLOSURE.read_text().split()
    more, fewer = sorted(set(found) - set(recorded)), sorted(set(recorded) - set(found))
    assert found == recorded, (
        f"the agent now also imports {more} and no longer {fewer}. Every node downloads this from the head before it "
        f"can take part in the swarm. If it is meant, write the new list to {CLOSURE.name}, one name a line:\n"
        + "\n".join(found)
    )


def test_size(tmp_path: Path) -> None:
    packed = agent.pack(SITE, tmp_path / "agent.cpio")
    assert packed.size == packed.path.stat().st_size
    assert packed.size < agent.MOST_BYTES, (
        f"the agent has {packed.size / 1e6:.1f} MB, more than {agent.MOST_BYTES / 1e6:.0f} MB: what made it grow?"
    )
    # What has not changed is not packed again.
    made = packed.path.stat().st_ino
    assert agent.pack(SITE, tmp_path / "agent.cpio") == packed
    assert packed.path.stat().st_ino == made
    # The site's key is part of it.
    other = agent.pack("cd" * 32, tmp_path / "agent.cpio", compression="none")
    assert other.sha256 != packed.sha256


def test_same_bytes_again(tree: Path, tmp_path: Path) -> None:
    agent.stage(SITE, tmp_path / "tree")
    archives = []
    for number, path in enumerate((tree, tmp_path / "tree")):
        cpio.pack_tree(path, tmp_path / str(number), "none")
        archives.append((tmp_path / str(number)).read_bytes())
    assert archives[0] == archives[1]


def test_nothing_names_this_machine(tree: Path) -> None:
    own = os.fsencode(str(Path(agent.__file__).parents[4]))
    for path in tree.rglob("*.pyc"):
        assert own not in path.read_bytes(), path


def test_no_sources_and_no_links_out(tree: Path) -> None:
    assert not list(tree.rglob("*.py"))
    assert {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_symlink()} == {"bin/sh", "sbin/modprobe"}
    assert (tree / agent.SITE_KEY).read_text() == f"{SITE}\n"


@pytest.mark.system
def test_runs_on_its_own(tree: Path) -> None:
    done = run(["chroot", tree, "/usr/bin/python3", "-IS", "-c", PROGRAM])
    assert done.stdout
    for words in (["/sbin/modprobe", "--version"], ["/bin/sh", "-c", "exit 0"]):
        run(["chroot", tree, *words])


@pytest.mark.system
def test_runs_beside_an_image(tree: Path, tmp_path: Path) -> None:
    """As the ready unit starts it: in another root, by its own loader."""
    (tmp_path / "run/rookery").mkdir(parents=True)
    os.rename(tree, tmp_path / "run/rookery/agent")
    try:
        for name in ("proc", "tmp", "dev"):
            (tmp_path / name).mkdir()
        done = run(["chroot", tmp_path, "/run/rookery/agent/ready"], check=False)
        # There is no handover for it here; what counts is that Python, its modules and the program ran.
        assert "handover.json" in done.stderr
    finally:
        os.rename(tmp_path / "run/rookery/agent", tree)


@pytest.mark.system
@pytest.mark.skipif(not DEBIAN.exists(), reason="no /usr/bin/python3 here")
def test_debians_interpreter(tmp_path: Path) -> None:
    """A statically linked interpreter in /usr/bin, in a virtual environment as on a Debian head."""
    version = run([DEBIAN, "-c", "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"]).stdout
    if version != f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("the installed wheels are for another version")
    run([DEBIAN, "-m", "venv", "--without-pip", "--copies", tmp_path / "venv"])
    packages = tmp_path / f"venv/lib/python{version}/site-packages"
    source = Path(agent.__file__).parents[3]
    (packages / "here.pth").write_text(f"{source}\n{sysconfig.get_paths()['platlib']}\n")
    agent.stage(SITE, tmp_path / "tree", tmp_path / "venv/bin/python")
    assert run(["chroot", tmp_path / "tree", "/usr/bin/python3", "-IS", "-c", PROGRAM]).stdout


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RookeryError, match="cannot be packed on this") as caught:
        agent.pack(SITE, tmp_path / "agent.cpio", "sparc64")
    assert caught.value.kind is ErrorKind.INVALID
    assert not (tmp_path / "agent.cpio").exists()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "which", lambda _name: None)
    with pytest.raises(RookeryError, match="busybox is not installed") as caught:
        agent.pack(SITE, tmp_path / "agent.cpio")
    assert caught.value.kind is ErrorKind.MISSING
    assert "busybox-static" in caught.value.record.hint
    assert not list(tmp_path.iterdir())

# SPDX-License-Identifier: Apache-2.0
"""The command line against a real head: what an operator types, what it prints, and its exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from rookery import run
from rookery.cli.connection import connect
from rookery.head.catalog.catalog import Catalog
from rookery.head.catalog.rows import Mirror
from rookery.head.config import Paths

# The first start packs the agent, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(600)
WORDS = [sys.executable, "-m", "rookery.cli"]


@pytest.fixture(autouse=True)
def no_nodes(operate: Any) -> Any:
    yield
    if listed := json.loads(operate("node", "list", "--json").out)["nodes"]:
        operate("node", "rm", ",".join(node["name"] for node in listed), "-y")


def test_nodes(operate: Any, tmp_path: Path) -> None:
    table = tmp_path / "machines.csv"
    table.write_text(
        "name,mac,address\n# rack one\nn1,52:54:00:00:00:01,10.0.0.1\nn2,52-54-00-00-00-02\nn2,525400000003\n\n"
    )
    assert (
        operate("node", "add", "n[1-2]", "--macs-from", str(table), "--set", "groups=compute").out == "added n[1-2]\n"
    )
    listed = json.loads(operate("node", "list", "@compute", "--json").out)["nodes"]
    assert [node["macs"] for node in listed] == [["52:54:00:00:00:01"], ["52:54:00:00:00:02", "52:54:00:00:00:03"]]
    shown = operate("node", "show", "n1").out
    assert "10.0.0.1" in shown
    assert "compute" in shown
    again = operate("node", "add", "n1")
    assert (again.code, "n1 exists already" in again.err) == (4, True)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("n1", ":1: "),
        ("n1,zz", ":1: 'zz' is not a MAC"),
        ("n1,52:54:00:00:00:01,10.0.0.300", ":1: "),
        ("n1,52:54:00:00:00:01,10.0.0.1,more", ":1: "),
        (",52", ":1: "),
    ],
)
def test_a_table_with_an_error(operate: Any, tmp_path: Path, line: str, named: str) -> None:
    table = tmp_path / "machines.csv"
    table.write_text(f"{line}\n")
    done = operate("node", "add", "n1", "--macs-from", str(table))
    assert (done.code, named in done.err) == (2, True)


@pytest.mark.parametrize(
    ("noderange", "named"), [("n[1-", "n[1-"), ("n[3-1]", "n[3-1]"), ("@nobody", "nobody"), ("n 1", "n 1")]
)
def test_a_noderange_with_an_error(operate: Any, noderange: str, named: str) -> None:
    for argv in (("status", noderange), ("node", "set", noderange, "rack=a", "-y"), ("node", "rm", noderange, "-y")):
        done = operate(*argv)
        assert done.code in (2, 3)
        assert named in done.err
        assert "try: " in done.err


def test_one_mac_for_many(operate: Any) -> None:
    done = operate("node", "add", "n[1-2]", "--mac", "52:54:00:00:00:01")
    assert (done.code, "--macs-from" in done.err) == (2, True)


def test_set_shows_asks_and_changes(operate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    operate("node", "add", "n[1-3]", "--set", "rack=a1")
    preview = operate("node", "set", "n[1-2]", "rack=b2", "--dry-run")
    assert preview.code == 0
    assert preview.out.splitlines()[1].split() == ["n[1-2]", "rack", "a1", "->", "b2"]
    unattended = operate("node", "set", "n[1-2]", "rack=b2")
    assert (unattended.code, "give -y" in unattended.err) == (2, True)
    assert "rack=a1" in operate("node", "list", "n1").out
    assert operate("node", "set", "n[1-2]", "rack=b2", "-y").code == 0
    assert "rack=b2" in operate("node", "list", "n1").out
    assert "nothing changes" in operate("node", "set", "n1", "rack=b2").err
    for wrong in (("rack",), ("rack=1", "rack=2"), ("=x",)):
        assert operate("node", "set", "n1", *wrong).code == 2


def test_answering_no_changes_nothing(operate: Any, running: Any) -> None:
    operate("node", "add", "n1")
    # A terminal of its own: the question is asked only where somebody can answer it.
    controller, terminal = os.openpty()
    try:
        argv = [*WORDS, "node", "set", "n1", "rack=b2", "--dir", str(running.directory)]
        with run.spawn(argv, stdin=terminal, stdout=run.PIPE, stderr=run.PIPE) as child:
            os.write(controller, b"n\n")
            out, err = child.communicate(timeout=60)
    finally:
        os.close(controller)
        os.close(terminal)
    assert child.returncode == 130
    assert b"b2" in out
    assert b"nothing was changed" in err
    assert "rack" not in operate("node", "list", "n1").out


def test_no_node_fits(operate: Any) -> None:
    for argv in (("status",), ("node", "list")):
        assert "no nodes yet" in operate(*argv).err
    operate("node", "add", "n1")
    for argv in (("status", "x*"), ("node", "list", "x*")):
        assert operate(*argv).err == "no node fits x*\n"
    assert operate("node", "rm", "n1", "-y").out == "removed 1 node\n"


def test_rename(operate: Any) -> None:
    operate("node", "add", "n1")
    assert operate("node", "rename", "n1", "login1", "-y").code == 0
    assert operate("node", "show", "n1").code == 3
    assert operate("node", "rename", "login1", "Not A Name", "-y").code == 2


def test_publish_a_file_and_fetch_it(operate: Any, running: Any, tmp_path: Path) -> None:
    source = tmp_path / "data.bin"
    source.write_bytes(os.urandom(700_000))
    done = operate("publish", str(source), "--as", "data", "--tag", "v1")
    assert done.code == 0, done.err
    assert "data:v1 is version" in done.err
    _rookery, _fetch, url, _to, _where = done.out.replace("'", "").split()
    fetched = operate("fetch", url, "--to", str(tmp_path / "there"), "--stats", str(tmp_path / "stats.json"))
    assert fetched.code == 0, fetched.err
    assert (tmp_path / "there" / "data.bin").read_bytes() == source.read_bytes()
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert (stats["bytes_total"], stats["bytes_from_head"], stats["hash_failures"]) == (700_000, 700_000, 0)
    # The same from a file with the head's answer, on a machine that has the key from elsewhere.
    (tmp_path / "offer.json").write_bytes(urllib.request.urlopen(url).read())
    key = str(Paths(running.directory).site_public)
    again = operate("fetch", str(tmp_path / "offer.json"), "--key", key, "--to", str(tmp_path / "elsewhere"))
    assert again.code == 0, again.err
    assert (tmp_path / "elsewhere" / "data.bin").read_bytes() == source.read_bytes()
    assert again.out.startswith(f"data in {tmp_path / 'elsewhere'}: 700.0 kB in ")
    other = "0" * 64
    wrong = operate("fetch", url.split("&key")[0], "--key", other, "--to", str(tmp_path / "not"))
    assert wrong.code == 8
    assert not list((tmp_path / "not").glob("*.bin"))


def test_the_same_content_under_another_name_has_that_name(operate: Any, tmp_path: Path) -> None:
    source = tmp_path / "twice.bin"
    source.write_bytes(os.urandom(10_000))
    for argv, name in (((), "twice.bin"), (("--as", "twice"), "twice"), ((), "twice.bin")):
        done = operate("publish", str(source), *argv)
        assert done.code == 0, done.err
        assert f"{name}:latest is version" in done.err
        assert f"/fetch/{name}@" in done.out
        url = shlex.split(done.out)[2]
        there = tmp_path / f"there-{name}"
        assert operate("fetch", url, "--to", str(there)).code == 0
        assert (there / "twice.bin").read_bytes() == source.read_bytes()


def test_publish_a_tree_and_fetch_it(operate: Any, tmp_path: Path) -> None:
    tree = tmp_path / "models"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "weights").write_bytes(os.urandom(100_000))
    (tree / "link").symlink_to("deep/weights")
    ticket = json.loads(operate("publish", str(tree), "--json").out)
    assert operate("fetch", ticket["url"], "--to", str(tmp_path / "there")).code == 0
    there = tmp_path / "there" / "models"
    assert (there / "link").read_bytes() == (tree / "deep" / "weights").read_bytes()
    assert (there / "link").is_symlink()
    again = json.loads(operate("ticket", "models", "--days", "0.5", "--json").out)
    assert again["version"] == ticket["version"]


def test_a_ticket_that_is_lacking_or_wrong(operate: Any, running: Any, tmp_path: Path) -> None:
    source = tmp_path / "guarded"
    source.write_text("guarded\n")
    whole = json.loads(operate("publish", str(source), "--json").out)["url"]
    bare, _, query = whole.partition("?")
    key = query.partition("&")[2]
    to = ("--to", str(tmp_path / "to"))
    try_it = "try: 'rookery ticket NAME' on that head prints a new one\n"
    for url, said in (
        (f"{bare}?{key}", "the URL has no ticket"),
        (f"{bare}?ticket=guess&{key}", "the ticket is not known or has expired"),
    ):
        done = operate("fetch", url, *to)
        assert (done.code, done.err) == (5, f"error: {said}\n{try_it}")
        imported = operate("image", "import", url)
        assert (imported.code, imported.err.count(said), imported.err.endswith(try_it)) == (5, 1, True), imported
    with connect(running.directory) as client:
        head = client.head().url
    done = operate("image", "list", "--head", head, "--token", "guess")
    assert (done.code, "try: " in done.err, "operator.token" in done.err) == (5, True, True)


def test_the_saved_answer_is_fetched(operate: Any, tmp_path: Path) -> None:
    source = tmp_path / "saved"
    source.write_text("saved\n")
    for command in (("publish", str(source)), ("ticket", "saved")):
        answer, to = tmp_path / f"{command[0]}.json", tmp_path / f"to-{command[0]}"
        answer.write_text(operate(*command, "--json").out)
        done = operate("fetch", str(answer), "--to", str(to))
        assert (done.code, (to / "saved").read_text()) == (0, "saved\n"), done.err


def test_an_import_says_what_its_tag_was(operate: Any, tmp_path: Path) -> None:
    source, file = tmp_path / "carried", tmp_path / "carried.capsule"
    ids = []
    for text in ("old\n", "new\n"):
        source.write_text(text)
        ids.append(json.loads(operate("publish", str(source), "--json").out)["version"])
        if not file.exists():
            assert operate("image", "export", "carried", str(file)).code == 0
    told = operate("image", "import", str(file)).out
    assert told == f"carried:latest is version {ids[0][:12]}, 4 B; carried:latest was version {ids[1][:12]}\n"
    assert "was version" not in operate("image", "import", str(file)).out
    assert "was version" not in operate("image", "import", str(file), "--as", "fresh").out


def test_images(operate: Any, tmp_path: Path) -> None:
    source = tmp_path / "notes.txt"
    source.write_text("hello\n")
    operate("publish", str(source), "--as", "notes", "--tag", "v1")
    assert "notes" in operate("image", "list").out
    assert operate("image", "tag", "notes", "stable", "v1").code == 0
    shown = json.loads(operate("image", "show", "notes:stable", "--json").out)
    assert shown["version"]["tags"] == ["stable", "v1"]
    deployed = operate("deploy", "@all", "--image", "notes:v1", "-y")
    assert deployed.code == 2
    removed = operate("image", "rm", "notes", "-y")
    assert removed.code == 0
    assert operate("image", "show", "notes:v1").code == 3


def test_removing_a_version_tells_every_tag_that_goes(operate: Any, tmp_path: Path) -> None:
    source = tmp_path / "told.txt"
    source.write_text("told\n")
    for name in ("told", "kept"):
        assert operate("publish", str(source), "--as", name, "--tag", "v1").code == 0
    operate("image", "tag", "told", "stable", "v1")
    asked = operate("image", "rm", "told", "--version", "v1")
    assert (asked.code, "(told:stable, told:v1)?" in asked.err) == (2, True)
    asked = operate("image", "rm", "told")
    assert (asked.code, "remove told: version " in asked.err, "told:stable, told:v1" in asked.err) == (2, True, True)
    assert operate("image", "rm", "told", "--version", "v2", "-y").code == 3
    done = operate("image", "rm", "told", "--version", "v1", "-y")
    assert (done.code, "(told:stable, told:v1)\n" in done.out) == (0, True), done.err
    assert operate("image", "show", "told:stable").code == 3
    # The same content under another name is not what was asked to go.
    assert operate("image", "verify", "kept:v1").code == 0
    assert operate("image", "rm", "kept", "-y").code == 0


def test_verify_finds_damage_and_publishing_again_mends_it(operate: Any, running: Any, tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(os.urandom(900_000))
    ticket = json.loads(operate("publish", str(source), "--as", "weights", "--json").out)
    good = operate("image", "verify", "weights")
    assert (good.code, "is as it was published" in good.out) == (0, True), good.err
    job = json.loads(operate("image", "verify", "weights", "--json").out)
    assert (job["kind"], job["state"], job["version"], job["error"]) == ("verify", "done", ticket["version"], None)
    assert (job["progress"]["stage"], job["progress"]["done"]) == ("reading blobs", 900_000)

    (blob,) = json.loads(operate("image", "show", "weights", "--json").out)["version"]["blobs"]
    stored = Paths(running.directory).blobs / blob["sha256"]
    stored.chmod(0o644)
    with stored.open("r+b") as file:
        file.seek(70_000)
        file.write(bytes(100))
    bad = operate("image", "verify", "weights:latest")
    assert (bad.code, bad.out) == (8, "")
    assert f"data: {stored} is damaged" in bad.err
    assert "publish the same content again" in bad.err
    told = operate("image", "verify", ticket["version"][:12], "--json")
    assert (told.code, json.loads(told.out)["error"]["kind"]) == (8, "corrupt")
    assert "is damaged" in operate("events", "--json").out
    # The seeder was told, so that the damage is not handed out until a node complains.
    with connect(running.directory) as client:
        until = time.monotonic() + 30
        while not any(given.bad_pieces for given in client.head().seeding if given.sha256 == blob["sha256"]):
            assert time.monotonic() < until
            time.sleep(0.1)

    assert operate("publish", str(source), "--as", "weights").code == 0
    assert operate("image", "verify", "weights").code == 0
    fetched = operate("fetch", ticket["url"], "--to", str(tmp_path / "there"), "--stats", str(tmp_path / "stats"))
    assert fetched.code == 0, fetched.err
    assert (tmp_path / "there" / "weights.bin").read_bytes() == source.read_bytes()
    assert json.loads((tmp_path / "stats").read_text())["hash_failures"] == 0
    assert operate("image", "verify", "nothing").code == 3


def test_a_recipe_with_an_error(operate: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "my.toml"
    recipe.write_text('distribution = "debian"\nsuite = 7\n')
    done = operate("image", "build", "base", str(recipe))
    assert (done.code, "my.toml:2" in done.err) == (2, True)
    assert operate("image", "build", "base", str(tmp_path / "none.toml")).code == 3


def test_ctrl_c_cancels_the_job_on_the_head(running: Any, tmp_path: Path) -> None:
    source = tmp_path / "big.bin"
    with source.open("wb") as file:
        file.truncate(4 << 30)
    argv = [*WORDS, "publish", str(source), "--as", "big", "--dir", str(running.directory)]
    with connect(running.directory) as client, run.spawn(argv, stdout=run.PIPE, stderr=run.PIPE) as child:
        known = {job.id for job in client.jobs().jobs}
        while not (begun := [job for job in client.jobs().jobs if job.id not in known and job.state == "running"]):
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 130
        assert b"publish of big was cancelled" in err
        job = begun[0]
        while job.ended_at is None:
            job = client.job(job.id, after=job.revision, wait=10)
        assert job.state == "cancelled"
        assert "big" not in {image.name for image in client.images().images}


def test_status_and_watch_of_nodes_that_do_not_come(operate: Any) -> None:
    assert operate("watch", "--until-ready", "--timeout", "0").code == 1
    operate("node", "add", "n[1-2]")
    assert "n[1-2]" in operate("status").out
    assert [node["state"] for node in json.loads(operate("status", "n1", "--json").out)["nodes"]] == ["new"]
    done = operate("watch", "n[1-2]", "--until-ready", "--timeout", "0.5", "--interval", "0.2")
    assert done.code == 1
    assert "2 of 2 nodes did not get ready" in done.err
    assert "n1: new" in done.err
    assert operate("watch", "n9").code == 3
    assert operate("status", "n[1-").code == 2


def test_seeding_and_events(operate: Any) -> None:
    operate("node", "add", "n1")
    assert operate("seeding", "stop", "n1").out == "n1 stop seeding\n"
    assert "may_seed" not in operate("node", "list", "n1").out
    assert "told to stop giving" in operate("events", "--subject", "node:n1").out
    events = json.loads(operate("events", "--json").out)
    assert events["last"] == events["events"][-1]["id"]


def test_following_events(operate: Any, running: Any) -> None:
    argv = [*WORDS, "events", "--follow", "--json", "--subject", "node:late", "--dir", str(running.directory)]
    with run.spawn(argv, stdout=run.PIPE) as child:
        operate("node", "add", "late")
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["subject"] == "node:late"
        child.send_signal(signal.SIGINT)
        try:
            assert child.wait(30) == 130
        except subprocess.TimeoutExpired:
            pytest.fail("Ctrl-C does not end it")


def test_completion(operate: Any, running: Any, tmp_path: Path) -> None:
    operate("node", "add", "n[1-2],login")

    def complete(text: str, directory: Path) -> list[str]:
        words = {"_ROOKERY_COMPLETE": "complete_bash", "COMP_WORDS": text, "COMP_CWORD": str(len(text.split(" ")) - 1)}
        script = Path(WORDS[0]).with_name("rookery")
        done = run.run([script], env={**words, "ROOKERY_DIR": str(directory)}, check=False)
        assert done.stderr == ""
        return done.stdout.split()

    assert complete("rookery node show n", running.directory) == ["n1", "n2"]
    assert complete("rookery node list n1,l", running.directory) == ["n1,login"]
    assert complete("rookery node show n", tmp_path) == []
    assert "set" in complete("rookery node s", tmp_path)


def test_completion_of_images_mirrors_and_sites(operate: Any, running: Any, tmp_path: Path) -> None:
    """In a bash that one types into: it splits words at colons, unlike everybody else."""
    source = tmp_path / "notes"
    for tag in ("stable", "testing"):
        source.write_text(tag)
        assert operate("publish", str(source), "--as", "berlin", "--tag", tag).code == 0
    assert operate("image", "tag", "berlin", "older", "stable").code == 0
    catalog = Catalog.open(f"sqlite:///{Paths(running.directory).database}")  # where no server is looked for
    catalog.add_mirror(Mirror("north", "http://north.invalid/images"))
    catalog.close()
    assert operate("trust", "add", "1a" * 32, "--as", "physics").code == 0
    try:
        for typed, became in (
            ("image show b", "image show berlin:older berlin:stable berlin:testing"),
            ("image show berlin:st", "image show berlin:stable"),
            ("image diff berlin:", "image diff berlin:older stable testing"),
            ("image diff berlin:older berlin:te", "image diff berlin:older berlin:testing"),
            ("image history be", "image history berlin"),
            ("mirror rm n", "mirror rm north"),
            ("trust rm p", "trust rm physics"),
        ):
            assert completed(typed, running.directory) == became
    finally:
        for words in (("mirror", "rm", "north", "-y"), ("trust", "rm", "physics"), ("image", "rm", "berlin", "-y")):
            assert operate(*words).code == 0


def completed(typed: str, directory: Path) -> str:
    """What a bash makes of a line that begins with `rookery`, when all that it offers is taken (Meta-*)."""
    pid, terminal = pty.fork()
    if pid == 0:
        path = f"{Path(WORDS[0]).parent}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "TERM": "dumb", "ROOKERY_DIR": str(directory)}
        os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], env)
    said = b""
    with os.fdopen(terminal, "r+b", buffering=0) as wire:
        wire.write(b"""eval "$(_ROOKERY_COMPLETE=source_bash rookery)"; echo rea''dy\n""")
        while b"ready\r\n" not in said:
            said += wire.read(1024)
        # Then to the beginning of the line, which is given to a command that shows its words.
        wire.write(f"rookery {typed}\x1b*\x01printf '<%s>' \nexit\n".encode())
        with contextlib.suppress(OSError):  # the last writer is gone
            while more := wire.read(1024):
                said += more
    os.waitpid(pid, 0)
    return " ".join(re.findall("<([^<>]*)>", said.decode().rpartition("\n<rookery>")[2]))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    script = Path(WORDS[0]).with_name("rookery")
    assert "_ROOKERY_COMPLETE" in run.run([script], env={"_ROOKERY_COMPLETE": f"source_{shell}"}).stdout


def test_a_head_by_url(operate: Any, running: Any) -> None:
    with connect(running.directory) as client:
        url = client.head().url
    token = running.directory / "operator.token"
    assert operate("status", "--head", url, "--token", f"@{token}", "--json").code == 0
    assert operate("status", "--head", url, "--token", token.read_text().strip(), "--json").code == 0
    assert operate("status", "--head", url, "--token", "guess").code == 5


def test_completion_in_a_real_bash(operate: Any, running: Any, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_text("completed\n")
    for tag in ("latest", "stable"):
        assert operate("publish", str(source), "--as", "comp", "--tag", tag).code == 0
    version = json.loads(operate("image", "show", "comp", "--json").out)["version"]["id"]
    script = tmp_path / "rookery.bash"
    program = Path(WORDS[0]).with_name("rookery")
    # --show-completion asks which shell it was called from, which is none here.
    script.write_text(run.run([program], env={"_ROOKERY_COMPLETE": "source_bash"}).stdout)
    # What readline does before it calls the function, and what the function says to it.
    driver = f"""
        PATH={shlex.quote(str(program.parent))}:$PATH
        source {shlex.quote(str(script))}
        compopt() {{ echo "compopt $*"; }}
        COMP_WORDBREAKS=$1 COMP_LINE=$2 COMP_POINT=${{#COMP_LINE}}
        complete -p rookery | grep -q -- '-o default' || exit 1
        _rookery_completion rookery
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    usual = " \t\n\"'@><=;|&(:"

    def complete(line: str, breaks: str = usual) -> tuple[list[str], bool]:
        """The answers, and whether files are offered when there are none."""
        words = ["bash", "--norc", "-c", driver, "bash", breaks, line]
        done = run.run(words, env={"ROOKERY_DIR": str(running.directory)})
        lines = [answer for answer in done.stdout.splitlines() if answer]
        return [answer for answer in lines if not answer.startswith("compopt")], "compopt +o default" not in lines

    assert complete("rookery image show com") == (["comp:latest", "comp:stable"], False)
    assert complete("rookery image show comp:") == (["latest", "stable"], False)
    assert complete("rookery image diff comp:stable comp:l") == (["latest"], False)
    assert complete("rookery image show comp:l", " \t\n") == (["comp:latest"], False)
    assert complete("rookery image show 'comp:l") == (["comp:latest"], False)
    assert complete("rookery deploy n1 --image=comp:s") == (["stable"], False)
    assert complete("rookery image show none") == ([], False)
    assert complete("rookery image tag comp ") == (["latest", "stable"], False)
    assert complete("rookery image tag comp x s") == (["stable"], False)
    assert complete("rookery image untag comp l") == (["latest"], False)
    assert complete("rookery image rm comp --version ") == (["latest", "stable", version[:12]], False)
    assert complete("rookery image rollback comp --tag s") == (["stable"], False)
    assert complete("rookery image rollback comp --to ") == (["latest", "stable", version[:12]], False)
    assert complete("rookery node set n1 may_seed=") == (["true", "false"], False)
    # Files are files.
    assert complete("rookery image build comp ") == ([], True)
    assert complete("rookery publish ") == ([], True)

# SPDX-License-Identifier: Apache-2.0
"""The measure of one copy: curl fetches a file from nginx over one shaped link."""

from __future__ import annotations

import time
from pathlib import Path

from lab import netns
from lab.swarm.measure import Outcome, Wire
from lab.swarm.stage import ADDRESS, MBIT, Load, scratch
from rookery import files
from rookery.errors import ErrorKind, RookeryError
from rookery.run import run, which

CONFIG = """
worker_processes 1;
error_log stderr warn;
pid nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path u; scgi_temp_path s;
    server {{ listen 80; root {root}; }}
}}
"""


def one_copy(file: Path, sha256: str, load: Load) -> Outcome:
    """One node's curl from nginx on the head. Raises RookeryError `missing` without nginx or curl."""
    for program, package in (("nginx", "nginx-light"), ("curl", "curl")):
        if which(program) is None:
            raise RookeryError(
                f"the program {program} is not installed", kind=ErrorKind.MISSING, hint=f"apt install {package}"
            )
    with netns.room() as room, scratch(file.parent, load.bytes) as work:
        head = room.host(f"{ADDRESS}/16", rate=load.rate * MBIT)
        node = room.host("10.80.0.10/16", rate=load.rate * MBIT)
        work.chmod(0o755)  # nginx's worker is nobody
        shared = work / "shared"
        shared.mkdir()
        (shared / "file").symlink_to(file)
        config = work / "nginx.conf"
        config.write_text("user root;" + CONFIG.format(root=shared))
        words = ["nginx", "-p", str(work), "-c", str(config), "-g", "daemon off;"]
        with (work / "log").open("wb") as sink, room.process(head, words, stdout=sink, stderr=sink):
            _wait_for_nginx(node)
            got = work / "got"
            wire = Wire(head)
            done = run([*node.inside, "curl", "-sf", "-o", str(got), "-w", "%{time_total}", f"http://{ADDRESS}/file"])
            wire.stop()
        error = "" if files.sha256_file(got) == sha256 else "curl's copy is wrong"
        return Outcome((float(done.stdout),), wire.sent, wire.cpu, error)


def _wait_for_nginx(node: netns.Host, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while run([*node.inside, "curl", "-s", "-o", "/dev/null", f"http://{ADDRESS}/"], check=False).code != 0:
        if time.monotonic() > until:
            raise RookeryError("nginx did not start", kind=ErrorKind.FAILED)
        time.sleep(0.05)

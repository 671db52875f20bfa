# SPDX-License-Identifier: Apache-2.0
"""Every node fetches from the head by itself: nginx with curl, and an rsync daemon."""

from __future__ import annotations

from typing import ClassVar

from lab.swarm.others_race import Other, Race, Taker, exited

_HTTP_PORT = 80
_RSYNC_PORT = 873

_NGINX = """\
user root;
worker_processes auto;
pid nginx.pid;
daemon off;
events {{ worker_connections 4096; }}
http {{
  sendfile on;
  tcp_nopush on;
  access_log off;
  default_type application/octet-stream;
  client_body_temp_path temporary;
  proxy_temp_path temporary;
  fastcgi_temp_path temporary;
  uwsgi_temp_path temporary;
  scgi_temp_path temporary;
  server {{
    listen {port};
    location /file/ {{ alias {files}/; }}
    location /about/ {{ alias {about}/; }}
  }}
}}
"""

_RSYNC = """\
port = {port}
use chroot = no
uid = root
gid = root
reverse lookup = no
pid file = {work}/rsyncd.pid
lock file = {work}/rsyncd.lock
[file]
path = {files}
read only = yes
"""


def serve_http(race: Race) -> str:
    """Start nginx on the head. The URL of the file; what lies in the run's directory `about` is at `/about/`.

    nginx -p WORK -c WORK/nginx.conf -e stderr, with sendfile and tcp_nopush on, as many workers as cores.
    """
    about = race.work / "about"
    about.mkdir(exist_ok=True)
    (race.work / "temporary").mkdir()
    configuration = race.work / "nginx.conf"
    configuration.write_text(_NGINX.format(port=_HTTP_PORT, files=race.file.parent, about=about))
    child = race.start(race.head, ["nginx", "-p", race.work, "-c", configuration, "-e", "stderr"], "nginx")
    race.listening(child, _HTTP_PORT, "nginx")
    return f"http://{race.head.address}/file/{race.file.name}"


class Curl(Other):
    """nginx on the head; on a node: curl -sS -o COPY http://HEAD/file/NAME."""

    name = "nginx + curl"
    programs: ClassVar = {"nginx": "nginx-light", "curl": "curl"}

    def serve(self, race: Race) -> None:
        """Start nginx."""
        self._url = serve_http(race)

    def take(self, race: Race, number: int) -> Taker:
        """curl, held."""
        copy, name = race.copy(number), f"curl{number}"
        child = race.held(race.nodes[number], ["curl", "-sS", "--fail", "-o", copy, self._url], name)
        return Taker(child, race.log(name), copy, exited(child))


class Rsync(Other):
    """rsync --daemon --no-detach on the head; on a node: rsync --whole-file --inplace rsync://HEAD/file/NAME COPY."""

    name = "rsync daemon"
    programs: ClassVar = {"rsync": "rsync"}

    def serve(self, race: Race) -> None:
        """Start the daemon."""
        configuration = race.work / "rsyncd.conf"
        configuration.write_text(_RSYNC.format(port=_RSYNC_PORT, work=race.work, files=race.file.parent))
        child = race.start(race.head, ["rsync", "--daemon", "--no-detach", f"--config={configuration}"], "rsyncd")
        race.listening(child, _RSYNC_PORT, "rsyncd")

    def take(self, race: Race, number: int) -> Taker:
        """The client, held."""
        copy, name = race.copy(number), f"rsync{number}"
        url = f"rsync://{race.head.address}/file/{race.file.name}"
        child = race.held(race.nodes[number], ["rsync", "--whole-file", "--inplace", url, copy], name)
        return Taker(child, race.log(name), copy, exited(child))

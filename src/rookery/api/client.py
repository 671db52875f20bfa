# SPDX-License-Identifier: Apache-2.0
"""The operator's client: one method a route, typed both ways, every failure a RookeryError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast
from urllib.parse import quote

import httpx

from rookery import codec
from rookery.api import capsules, routes, versions
from rookery.api.mirrors import AddMirror, CheckMirror, MirrorDetails, Mirrors
from rookery.api.trees import Capture, OpenTree, PublishTree, Tree, Trees
from rookery.api.types import (
    AddNodes,
    Build,
    Changes,
    Deploy,
    Events,
    Head,
    Image,
    Images,
    Job,
    Jobs,
    NewTicket,
    NodeDetails,
    Nodes,
    Publish,
    Removed,
    SetNodes,
    SetTag,
    Status,
    StopSeeding,
    Ticket,
    Verify,
    Version,
    VersionDetails,
)
from rookery.errors import ErrorKind, ErrorRecord, RookeryError

T = TypeVar("T")
MOST_ANSWER = 1 << 28
SECONDS = 30.0
LOCK = "serve.lock"  # beside the socket

_KIND_OF_STATUS = {
    400: ErrorKind.INVALID,
    401: ErrorKind.UNAUTHORIZED,
    403: ErrorKind.FORBIDDEN,
    404: ErrorKind.NOT_FOUND,
    409: ErrorKind.CONFLICT,
    413: ErrorKind.TOO_LARGE,
    422: ErrorKind.INVALID,
    429: ErrorKind.UNAVAILABLE,
    502: ErrorKind.UNAVAILABLE,
    503: ErrorKind.UNAVAILABLE,
}
_NOUNS = {
    "nodes": "a node",
    "images": "an image",
    "versions": "an image",
    "trees": "a working tree",
    "mirrors": "a mirror",
    "trusted-keys": "a trusted key",
    "jobs": "a job",
    "differences": "a job",
}


class Client:
    """A connection to one head; use as a context manager.

    Over its Unix socket (`socket`), or over TCP at `url` (`http://head:8470`). `token` is the operator's.
    Every method raises RookeryError: the head's own error record, or `unavailable` when it cannot be reached.
    """

    def __init__(
        self, token: str, *, socket: Path | None = None, url: str = "", transport: httpx.BaseTransport | None = None
    ) -> None:
        if transport is None and socket is not None:
            transport = httpx.HTTPTransport(uds=str(socket))
        # No proxy of the environment stands between an operator and the head.
        self._where = url or str(socket)
        self._socket = socket
        self._http = httpx.Client(
            base_url=url or "http://head",
            headers={"Authorization": f"Bearer {token}"},
            transport=transport,
            timeout=SECONDS,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def head(self) -> Head:
        """What the head is and what it seeds."""
        return self._call(Head, "GET", routes.HEAD)

    def nodes(self, noderange: str = "") -> Nodes:
        """The nodes of a noderange; all when empty."""
        return self._call(Nodes, "GET", routes.NODES, {"nodes": noderange})

    def node(self, name: str) -> NodeDetails:
        """One node with its hardware facts."""
        return self._call(NodeDetails, "GET", _path(routes.NODE, name=name))

    def add_nodes(self, add: AddNodes) -> Changes:
        """Add nodes, all or none."""
        return self._call(Changes, "POST", routes.NODES, body=add)

    def set_nodes(self, change: SetNodes) -> Changes:
        """Change settings of nodes, or with dry_run only say what would change."""
        return self._call(Changes, "PATCH", routes.NODES, body=change)

    def remove_nodes(self, noderange: str) -> Removed:
        """Remove nodes."""
        return self._call(Removed, "DELETE", routes.NODES, {"nodes": noderange})

    def deploy(self, deploy: Deploy) -> Changes:
        """Assign an image to nodes, or with dry_run only say what would change."""
        return self._call(Changes, "POST", routes.DEPLOY, body=deploy)

    def stop_seeding(self, noderange: str) -> Changes:
        """Tell nodes to stop giving to others."""
        return self._call(Changes, "POST", routes.STOP_SEEDING, body=StopSeeding(noderange))

    def status(self, noderange: str = "") -> Status:
        """How nodes come up."""
        return self._call(Status, "GET", routes.STATUS, {"nodes": noderange})

    def events(self, after: int = 0, *, wait: float = 0, subject: str = "", limit: int = 1000) -> Events:
        """Events with an id above `after`; `wait` seconds (60 at most) for one when there is none yet."""
        query = {"after": str(after), "wait": f"{wait:g}", "subject": subject, "limit": str(limit)}
        return self._call(Events, "GET", routes.EVENTS, query)

    def images(self) -> Images:
        """All images with their versions."""
        return self._call(Images, "GET", routes.IMAGES)

    def image(self, name: str) -> Image:
        """One image with its versions."""
        return self._call(Image, "GET", _path(routes.IMAGE, name=name))

    def remove_image(self, name: str, version: str = "") -> Removed:
        """Remove an image, or only one version of it."""
        return self._call(Removed, "DELETE", _path(routes.IMAGE, name=name), {"version": version})

    def version(self, reference: str) -> VersionDetails:
        """One version by `name[:tag]`, `name@id` or id."""
        return self._call(VersionDetails, "GET", _path(routes.VERSION, reference=reference))

    def tag(self, name: str, tag: str, version: str) -> Version:
        """Let `name:tag` be this version."""
        return self._call(Version, "POST", _path(routes.TAGS, name=name), body=SetTag(tag, version))

    def untag(self, name: str, tag: str) -> Version:
        """Remove the tag `name:tag`; the version that it meant."""
        return self._call(Version, "DELETE", _path(routes.TAG, name=name, tag=tag))

    def history(self, name: str) -> versions.History:
        """An image's versions and what its tags meant."""
        return self._call(versions.History, "GET", _path(routes.HISTORY, name=name))

    def roll_back(self, name: str, rollback: versions.Rollback) -> versions.RolledBack:
        """Let a tag go back."""
        return self._call(versions.RolledBack, "POST", _path(routes.ROLLBACKS, name=name), body=rollback)

    def collect(self, collect: versions.Collect) -> versions.Collected:
        """Remove the versions that nobody needs, or with dry_run only say which."""
        return self._call(versions.Collected, "POST", routes.COLLECTIONS, body=collect)

    def build(self, build: Build) -> Job:
        """Start building an image."""
        return self._call(Job, "POST", routes.BUILDS, body=build)

    def publish(self, publish: Publish) -> Job:
        """Start publishing a file or directory of the head."""
        return self._call(Job, "POST", routes.PUBLICATIONS, body=publish)

    def verify(self, verify: Verify) -> Job:
        """Start reading a version and checking it; the job fails with kind `corrupt` when something is wrong."""
        return self._call(Job, "POST", routes.VERIFICATIONS, body=verify)

    def trees(self) -> Trees:
        """All working trees."""
        return self._call(Trees, "GET", routes.TREES)

    def tree(self, name: str) -> Tree:
        """One working tree."""
        return self._call(Tree, "GET", _path(routes.TREE, name=name))

    def open_tree(self, wanted: OpenTree) -> Job:
        """Start opening an image as a working tree."""
        return self._call(Job, "POST", routes.TREES, body=wanted)

    def publish_tree(self, wanted: PublishTree) -> Job:
        """Start publishing a working tree."""
        return self._call(Job, "POST", routes.TREE_PUBLICATIONS, body=wanted)

    def close_tree(self, name: str) -> Removed:
        """Remove a working tree."""
        return self._call(Removed, "DELETE", _path(routes.TREE, name=name))

    def capture(self, wanted: Capture) -> Job:
        """Start copying a running machine into a working tree."""
        return self._call(Job, "POST", routes.CAPTURES, body=wanted)

    def compare(self, compare: versions.Compare) -> Job:
        """Start comparing two versions."""
        return self._call(Job, "POST", routes.DIFFERENCES, body=compare)

    def difference(self, job_id: str) -> versions.Difference:
        """What a job that compared has found."""
        return self._call(versions.Difference, "GET", _path(routes.DIFFERENCE, id=job_id))

    def export(self, export: capsules.Export) -> Job:
        """Start writing a version into a capsule on the head."""
        return self._call(Job, "POST", routes.EXPORTS, body=export)

    def look_at(self, source: str) -> capsules.CapsuleInfo:
        """What the head of a capsule says, and whether its signer is trusted."""
        return self._call(capsules.CapsuleInfo, "POST", routes.CAPSULES, body=capsules.LookAt(source))

    def take_in(self, wanted: capsules.Import) -> Job:
        """Start importing a capsule."""
        return self._call(Job, "POST", routes.IMPORTS, body=wanted)

    def trusted_keys(self) -> capsules.TrustedKeys:
        """This site's key, and those whose capsules it takes."""
        return self._call(capsules.TrustedKeys, "GET", routes.TRUSTED_KEYS)

    def trust(self, trust: capsules.Trust) -> capsules.TrustedKeys:
        """Trust another site's key."""
        return self._call(capsules.TrustedKeys, "POST", routes.TRUSTED_KEYS, body=trust)

    def distrust(self, key: str) -> Removed:
        """Trust a key, by its name, itself or its fingerprint, no longer."""
        return self._call(Removed, "DELETE", _path(routes.TRUSTED_KEY, key=key))

    def jobs(self) -> Jobs:
        """Running jobs and the last finished ones."""
        return self._call(Jobs, "GET", routes.JOBS)

    def job(self, job_id: str, *, after: int = -1, wait: float = 0) -> Job:
        """A job; `wait` seconds (60 at most) for a revision above `after`."""
        return self._call(Job, "GET", _path(routes.JOB, id=job_id), {"after": str(after), "wait": f"{wait:g}"})

    def cancel_job(self, job_id: str) -> Job:
        """Cancel a job. It ends soon, not at once."""
        return self._call(Job, "DELETE", _path(routes.JOB, id=job_id))

    def ticket(self, ticket: NewTicket) -> Ticket:
        """A new ticket for one version."""
        return self._call(Ticket, "POST", routes.TICKETS, body=ticket)

    def mirrors(self) -> Mirrors:
        """All mirrors."""
        return self._call(Mirrors, "GET", routes.MIRRORS)

    def mirror(self, name: str) -> MirrorDetails:
        """One mirror with its files."""
        return self._call(MirrorDetails, "GET", _path(routes.MIRROR, name=name))

    def add_mirror(self, add: AddMirror) -> Job:
        """Start checking a mirror that is to be registered."""
        return self._call(Job, "POST", routes.MIRRORS, body=add)

    def check_mirror(self, name: str, check: CheckMirror) -> Job:
        """Start checking a mirror; the job fails with kind `corrupt` or `unavailable` when it is not good."""
        return self._call(Job, "POST", _path(routes.MIRROR_CHECKS, name=name), body=check)

    def remove_mirror(self, name: str) -> Removed:
        """Forget a mirror."""
        return self._call(Removed, "DELETE", _path(routes.MIRROR, name=name))

    def _call(
        self, cls: type[T], method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> T:
        params = {key: value for key, value in (query or {}).items() if value}
        content = codec.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"} if content is not None else {}
        wait = float(params.get("wait", 0))
        try:
            answer = self._http.request(
                method, path, params=params, content=content, headers=headers, timeout=SECONDS + wait
            )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            raise RookeryError.from_record(record_of_problem(answer.status_code, answer.content))
        return codec.loads(cls, answer.content, most=MOST_ANSWER, what=f"the head's answer to {method} {path}")

    def _unreachable(self, error: httpx.HTTPError) -> RookeryError:
        if isinstance(error, httpx.TimeoutException):
            return RookeryError(
                f"the head at {self._where} did not answer in time",
                kind=ErrorKind.UNAVAILABLE,
                hint="look at its log: journalctl -u rookery",
            )
        if self._socket is not None and _is_held(self._socket.with_name(LOCK)):
            return RookeryError(
                f"the head at {self._where} does not answer yet",
                kind=ErrorKind.UNAVAILABLE,
                details=str(error),
                hint="the head is starting; try again in a minute (the first start packs the agent)",
            )
        start = f"rookery serve --dir {self._socket.parent}" if self._socket else "rookery serve"
        return RookeryError(
            f"the head at {self._where} cannot be reached",
            kind=ErrorKind.UNAVAILABLE,
            details=str(error),
            hint=f"is the head running? start it: {start}",
        )


def _is_held(lock: Path) -> bool:
    """Whether the process whose id stands in the file `lock` has it open, as a head has from its first moment to its
    last. Only looks: who tried the lock itself could be in the way of a head that takes it."""
    try:
        of_head = Path("/proc", str(int(lock.read_text())), "fd")
        return any(file.exists() and file.samefile(lock) for file in of_head.iterdir())
    except (OSError, ValueError):
        return False


def record_of_problem(status: int, body: bytes) -> ErrorRecord:
    """The error record in a problem+json body (RFC 9457); one made of the status when the body is something else."""
    kind = _KIND_OF_STATUS.get(status, ErrorKind.FAILED if status < 500 else ErrorKind.INTERNAL)
    try:
        problem = codec.loads(cast("type[dict[str, object]]", dict[str, object]), body, most=1 << 20)
        known = {str(key): str(value) for key, value in problem.items()}
        return ErrorRecord(
            ErrorKind(known.get("kind", kind)),
            known["title"],
            known.get("details", ""),
            known.get("hint", ""),
        )
    except (RookeryError, ValueError, KeyError):
        text = body[:200].decode(errors="replace").strip()
        return ErrorRecord(kind, f"the head answered with HTTP status {status}", text)


def _path(route: str, **parts: str) -> str:
    for part, value in parts.items():
        if not value:  # the path would be another route's, or none's
            noun = "a tag" if part == "tag" else _NOUNS[route.removeprefix(routes.PREFIX).split("/")[1]]
            raise RookeryError(f"{noun} needs a name", kind=ErrorKind.INVALID, hint="it was empty: give one")
    return route.format(**{key: quote(value, safe="") for key, value in parts.items()})

# SPDX-License-Identifier: Apache-2.0
"""Credentials in the tables: every function works inside the caller's transaction.

What credentials mean is decided in fleet/credentials.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from rookery.head.catalog.models import CredentialModel, NodeModel
from rookery.head.catalog.rows import Credential, Standing
from rookery.wire.report import NodeState

_STANDING = (NodeModel.name, NodeModel.state, NodeModel.may_seed, NodeModel.version)


def add(connection: Connection, credential: Credential, keep: int | None) -> None:
    """Store one; with `keep`, only that many of its kind and subject stay, those that expire last."""
    values = {
        "digest": credential.digest,
        "kind": credential.kind,
        "subject": credential.subject,
        "expires_at": credential.expires_at,
        "used_by": credential.used_by,
    }
    connection.execute(insert(CredentialModel), values)
    if keep is not None:
        same = (CredentialModel.kind == credential.kind, CredentialModel.subject == credential.subject)
        newest = select(CredentialModel.digest).where(*same).order_by(CredentialModel.expires_at.desc())
        surplus = list(connection.execute(newest.offset(keep)).scalars())
        if surplus:
            connection.execute(delete(CredentialModel).where(CredentialModel.digest.in_(surplus)))


def find(connection: Connection, digest: str) -> Credential | None:
    """The credential with a digest."""
    row = connection.execute(select(CredentialModel.__table__).where(CredentialModel.digest == digest)).one_or_none()
    return None if row is None else Credential(row.digest, row.kind, row.subject, row.expires_at, row.used_by)


def holders(connection: Connection, digests: Sequence[str]) -> dict[str, tuple[Credential, Standing | None]]:
    """By digest: the credential and, of a session, how its node stands. Unknown digests are left out."""
    owner = and_(CredentialModel.kind == "session", NodeModel.name == CredentialModel.subject)
    statement = select(CredentialModel.__table__, *_STANDING).outerjoin(NodeModel, owner)
    found: dict[str, tuple[Credential, Standing | None]] = {}
    for row in connection.execute(statement.where(CredentialModel.digest.in_(digests))):
        standing = None if row.name is None else Standing(row.name, NodeState(row.state), row.may_seed, row.version)
        found[row.digest] = Credential(row.digest, row.kind, row.subject, row.expires_at, row.used_by), standing
    return found


def spend(connection: Connection, digest: str, boot_id: str) -> bool:
    """Bind a boot token to the boot that shows it; False when another boot had it first, or there is none."""
    free = or_(CredentialModel.used_by.is_(None), CredentialModel.used_by == boot_id)
    statement = update(CredentialModel).where(CredentialModel.digest == digest, CredentialModel.kind == "boot", free)
    return connection.execute(statement.values(used_by=boot_id)).rowcount == 1


def supersede(connection: Connection, token: Credential, boot_id: str) -> None:
    """End what a node had before this boot: sessions of other boots, and boot tokens made before this one."""
    session = (CredentialModel.kind == "session") & CredentialModel.used_by.is_distinct_from(boot_id)
    older = (
        (CredentialModel.kind == "boot")
        & (CredentialModel.expires_at <= token.expires_at)
        & (CredentialModel.digest != token.digest)
    )
    statement = delete(CredentialModel).where(CredentialModel.subject == token.subject)
    connection.execute(statement.where(session | older))


def remove(connection: Connection, kind: str, subject: str | None) -> int:
    """Delete all of a kind, of one subject or of all; how many that were."""
    statement = delete(CredentialModel).where(CredentialModel.kind == kind)
    if subject is not None:
        statement = statement.where(CredentialModel.subject == subject)
    return connection.execute(statement).rowcount


def purge(connection: Connection, now: float) -> int:
    """Delete what has expired; how many that were."""
    return connection.execute(delete(CredentialModel).where(CredentialModel.expires_at <= now)).rowcount

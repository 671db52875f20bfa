# SPDX-License-Identifier: Apache-2.0
"""The head's HTTP as one ASGI application: machines and nodes, tracker, operator's API, OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer

from rookery import __version__
from rookery.api import capsules, types, versions
from rookery.head.http import (
    announce,
    chain,
    files,
    machines,
    operate_capsules,
    operate_differences,
    operate_head,
    operate_images,
    operate_jobs,
    operate_mirrors,
    operate_nodes,
    operate_trees,
    operate_versions,
    problems,
    schema,
)
from rookery.head.http.guard import Guard
from rookery.head.http.limits import Limits
from rookery.head.http.services import Services

_TAKEN = (
    types.AddNodes,
    types.SetNodes,
    types.Deploy,
    types.StopSeeding,
    types.SetTag,
    types.Build,
    types.Publish,
    types.Verify,
    types.NewTicket,
    versions.Rollback,
    versions.Collect,
    *operate_trees.TAKEN,
    versions.Compare,
    capsules.Export,
    capsules.LookAt,
    capsules.Import,
    capsules.Trust,
)
_GIVEN = (
    types.Head,
    types.Nodes,
    types.NodeDetails,
    types.Changes,
    types.Removed,
    types.Status,
    types.Events,
    types.Images,
    types.VersionDetails,
    types.Jobs,
    types.Ticket,
    versions.History,
    versions.RolledBack,
    versions.Collected,
    *operate_trees.GIVEN,
    versions.Difference,
    capsules.CapsuleInfo,
    capsules.TrustedKeys,
)


def create_app(services: Services) -> FastAPI:
    """The application. It neither starts nor stops any of `services`."""
    app = FastAPI(title="Rookery", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    problems.install(app)
    guard = Guard(services.credentials, services.fleet)
    racks = announce.racks_of(services)
    # The one that is added last is asked first.
    placer = chain.Placer(services, guard, racks)
    app.add_middleware(chain.Places, placer=placer)
    app.add_middleware(Limits)
    app.include_router(machines.boot_router(services))
    app.include_router(machines.node_router(services, guard))
    app.include_router(files.router(services, guard))
    answerer = announce.Answerer(services, guard, racks)
    app.include_router(announce.router(answerer))
    app.add_middleware(announce.Announcements, answerer=answerer)
    app.include_router(chain.router(placer))
    # HTTPBearer stands in the OpenAPI document; the guard does the checking.
    operator = APIRouter(dependencies=[Depends(guard.operator), Depends(HTTPBearer(auto_error=False))])
    for part in (
        operate_head,
        operate_nodes,
        operate_images,
        operate_jobs,
        operate_versions,
        operate_trees,
        operate_mirrors,
        operate_capsules,
        operate_differences,
    ):
        operator.include_router(part.router(services))
    app.include_router(operator)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_ABOUT)
            known = made.setdefault("components", {}).setdefault("schemas", {})
            known.update(
                schema.components((*_TAKEN, *_GIVEN, *operate_mirrors.TAKEN, *operate_mirrors.GIVEN, files.GIVEN))
            )
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    return app


_ABOUT = """The head of a Rookery: what machines, nodes and the operator call. Operator routes (/api/v1) need the
operator's token as bearer. Every error is problem+json (RFC 9457) with `kind`, `details` and `hint`."""

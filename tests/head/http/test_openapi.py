# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rookery.api import routes as api
from rookery.wire import routes as wire

if TYPE_CHECKING:
    from conftest import RunningHead

OPERATIONS = """
GET /announce/{credential}
GET /api/v1/events
GET /api/v1/head
GET /api/v1/images
GET /api/v1/images/{name}
GET /api/v1/images/{name}/history
POST /api/v1/images/{name}/rollbacks
POST /api/v1/collections
POST /api/v1/differences
GET /api/v1/differences/{id}
POST /api/v1/exports
POST /api/v1/capsules
POST /api/v1/imports
GET /api/v1/trusted-keys
POST /api/v1/trusted-keys
DELETE /api/v1/trusted-keys/{key}
DELETE /api/v1/images/{name}
POST /api/v1/images/{name}/tags
DELETE /api/v1/images/{name}/tags/{tag}
GET /api/v1/jobs
GET /api/v1/jobs/{id}
DELETE /api/v1/jobs/{id}
GET /api/v1/nodes
POST /api/v1/nodes
PATCH /api/v1/nodes
DELETE /api/v1/nodes
GET /api/v1/nodes/{name}
GET /api/v1/mirrors
POST /api/v1/mirrors
GET /api/v1/mirrors/{name}
DELETE /api/v1/mirrors/{name}
POST /api/v1/mirrors/{name}/checks
POST /api/v1/builds
POST /api/v1/deploy
POST /api/v1/publications
GET /api/v1/status
POST /api/v1/stop-seeding
POST /api/v1/tickets
POST /api/v1/verifications
GET /api/v1/trees
POST /api/v1/trees
GET /api/v1/trees/{name}
DELETE /api/v1/trees/{name}
POST /api/v1/tree-publications
POST /api/v1/captures
GET /api/v1/versions/{reference}
GET /blob/{sha256}
GET /boot/agent/{sha256}
GET /boot/drivers/{sha256}
GET /boot/kernel/{sha256}
GET /boot/loader/{name}
GET /boot/script.ipxe
GET /boot/start.ipxe
GET /capsule/{reference}
POST /chain/{sha256}
GET /chunks/{sha256}
GET /fetch/{reference}
GET /files/
GET /files/{image}/
GET /files/{image}/{version}
GET /files/{image}/{version}/{file}
POST /node/hello
GET /node/orders
POST /node/report
GET /torrent/{sha256}
"""


def document(head: RunningHead) -> dict[str, Any]:
    found: dict[str, Any] = head.get("/openapi.json").json()
    return found


def test_operations(lasting_head: RunningHead) -> None:
    found = {
        f"{method.upper()} {path}" for path, methods in document(lasting_head)["paths"].items() for method in methods
    }
    assert found == set(OPERATIONS.strip().splitlines())


def test_every_path_that_is_named_is_served(lasting_head: RunningHead) -> None:
    served = set(document(lasting_head)["paths"])
    for module in (api, wire):
        for name, path in vars(module).items():
            if name.isupper() and name != "PREFIX":
                assert any(known == path or known.startswith(f"{path}/") for known in served), name


def test_operator_routes_say_that_they_need_a_token_and_how_they_fail(lasting_head: RunningHead) -> None:
    for path, methods in document(lasting_head)["paths"].items():
        for operation in methods.values():
            assert bool(operation.get("security")) == path.startswith(api.PREFIX), path
            if path.startswith(api.PREFIX):
                assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_every_reference_is_there_and_limits_are_told(lasting_head: RunningHead) -> None:
    whole = document(lasting_head)
    schemas = whole["components"]["schemas"]
    text = json.dumps(whole)
    for piece in text.split('"#/components/schemas/')[1:]:
        assert piece.split('"')[0] in schemas
    assert schemas["SetNodes"]["properties"]["nodes"]["maxLength"] == 8192
    assert schemas["AddNodes"]["required"] == ["nodes"]
    assert schemas["NewTicket"]["properties"]["seconds"]["minimum"] == 60

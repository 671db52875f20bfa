# SPDX-License-Identifier: Apache-2.0
"""The operator API's paths, below the head's base URL or its Unix socket. Every one needs the operator's token."""

from __future__ import annotations

PREFIX = "/api/v1"

HEAD = f"{PREFIX}/head"  # GET -> Head
NODES = f"{PREFIX}/nodes"  # GET ?nodes= -> Nodes; POST AddNodes -> Changes; PATCH SetNodes -> Changes; DELETE ?nodes=
NODE = f"{PREFIX}/nodes/{{name}}"  # GET -> NodeDetails
DEPLOY = f"{PREFIX}/deploy"  # POST Deploy -> Changes
STOP_SEEDING = f"{PREFIX}/stop-seeding"  # POST StopSeeding -> Changes
STATUS = f"{PREFIX}/status"  # GET ?nodes= -> Status
EVENTS = f"{PREFIX}/events"  # GET ?after=&wait=&subject=&limit= -> Events; waits up to `wait` seconds for a new one
IMAGES = f"{PREFIX}/images"  # GET -> Images
IMAGE = f"{PREFIX}/images/{{name}}"  # GET -> Image; DELETE ?version= -> Removed
VERSION = f"{PREFIX}/versions/{{reference}}"  # GET `name[:tag]`, `name@id` or an id -> VersionDetails
HISTORY = f"{PREFIX}/images/{{name}}/history"  # GET -> History
ROLLBACKS = f"{PREFIX}/images/{{name}}/rollbacks"  # POST Rollback -> RolledBack
COLLECTIONS = f"{PREFIX}/collections"  # POST Collect -> Collected
TAGS = f"{PREFIX}/images/{{name}}/tags"  # POST SetTag -> Version
TAG = f"{PREFIX}/images/{{name}}/tags/{{tag}}"  # DELETE -> Version, which it meant
BUILDS = f"{PREFIX}/builds"  # POST Build -> Job
PUBLICATIONS = f"{PREFIX}/publications"  # POST Publish -> Job
VERIFICATIONS = f"{PREFIX}/verifications"  # POST Verify -> Job
DIFFERENCES = f"{PREFIX}/differences"  # POST Compare -> Job
DIFFERENCE = f"{PREFIX}/differences/{{id}}"  # GET by the id of its job, when that is done -> Difference
EXPORTS = f"{PREFIX}/exports"  # POST Export -> Job
CAPSULES = f"{PREFIX}/capsules"  # POST LookAt -> CapsuleInfo
IMPORTS = f"{PREFIX}/imports"  # POST Import -> Job
TRUSTED_KEYS = f"{PREFIX}/trusted-keys"  # GET -> TrustedKeys; POST Trust -> TrustedKeys
TRUSTED_KEY = f"{PREFIX}/trusted-keys/{{key}}"  # DELETE by name, key or fingerprint -> Removed
JOBS = f"{PREFIX}/jobs"  # GET -> Jobs
JOB = f"{PREFIX}/jobs/{{id}}"  # GET ?after=&wait= -> Job; DELETE cancels -> Job
TICKETS = f"{PREFIX}/tickets"  # POST NewTicket -> Ticket
TREES = f"{PREFIX}/trees"  # GET -> Trees; POST OpenTree -> Job
TREE = f"{PREFIX}/trees/{{name}}"  # GET -> Tree; DELETE -> Removed
TREE_PUBLICATIONS = f"{PREFIX}/tree-publications"  # POST PublishTree -> Job
CAPTURES = f"{PREFIX}/captures"  # POST Capture -> Job
MIRRORS = f"{PREFIX}/mirrors"  # GET -> Mirrors; POST AddMirror -> Job
MIRROR = f"{PREFIX}/mirrors/{{name}}"  # GET -> MirrorDetails; DELETE -> Removed
MIRROR_CHECKS = f"{PREFIX}/mirrors/{{name}}/checks"  # POST CheckMirror -> Job

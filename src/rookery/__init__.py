# SPDX-License-Identifier: Apache-2.0
"""Rookery: cluster provisioning in which machines hand the operating system to each other.

The map, from the ground up (a package imports only from those above it in this list):

errors, run, log, files, codec   the ground: standard library only
packing   a directory as one archive, the same bytes for the same tree
wire      what head and node say to each other: pure data, no I/O (manifest, orders, facts, report; FORMAT.md)
api       what the operator says to the head: types, routes, client
relay     the links of the chain: gives verified pieces to the next one while they come, and takes them
node      what runs on the node, and `rookery fetch`: packed into the agent cpio
head      what runs on the head: catalog, build, publish, swarm, mirrors, boot, fleet, http; serve.py wires them
cli       one module per noun; speaks to the head only through api
"""

__version__ = "0.1.0"

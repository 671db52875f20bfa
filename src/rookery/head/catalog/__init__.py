# SPDX-License-Identifier: Apache-2.0
"""What the head knows: nodes, images, versions, tags, events, credentials."""

# SPDX-License-Identifier: Apache-2.0
"""From files to a signed, immutable version that the swarm can hand out."""

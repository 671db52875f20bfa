# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the swarm: real heads and real nodes in network namespaces with shaped links."""

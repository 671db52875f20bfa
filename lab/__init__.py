# SPDX-License-Identifier: Apache-2.0
"""The simulated machine room: network namespaces for swarms, QEMU for real boots."""

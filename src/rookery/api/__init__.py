# SPDX-License-Identifier: Apache-2.0
"""What the operator says to the head: types, routes and the client."""

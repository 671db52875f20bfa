# SPDX-License-Identifier: Apache-2.0
"""The head's part in the swarm: the seeder and the tracker."""

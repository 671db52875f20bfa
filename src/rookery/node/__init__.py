# SPDX-License-Identifier: Apache-2.0
"""What runs on the node: as PID 1 of the agent, after boot as a seed, and as the command 'rookery fetch'."""

# SPDX-License-Identifier: Apache-2.0
"""The swarm on paper: how long an image takes to any number of nodes, by the planner's layout; checked against runs.

flow (what a wire does to pieces) and layout (who takes from whom) are below swarm (one run), runs (the tables),
measured (the runs in namespaces) and plot; `python -m lab.sim` makes docs/benchmarks/sim.json, sim.svg and the tables
in sim.md.
"""

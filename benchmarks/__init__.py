"""Benchmarks: every number this project claims, with the command that prints it.

Rules they keep: systems take turns in fresh processes within one run, the first save of each process is reported
apart, a save counts as durable only once its files are synced, and the limits of the machine (memory copy, disk)
are measured in the same run, so that results are ratios and not claims about a machine.
"""

"""Benchmarks: every number this project claims, with the command that prints it.

Rules they keep: systems take turns in fresh processes within one run, the first save of each process is reported
apart, a save counts as durable only once its files are synced, and the limits of the machine (memory copy, direct
write, direct read) take turns with them, so that results are ratios and not claims about a machine. What runs
beside them is measured too (`asyncckpt` needs no quiet machine; a number does).

To read the source: ``turns`` (processes and rounds), ``saves`` (how one save is timed), ``subjects`` (what is
saved), ``systems`` (who saves it), ``limits``, ``bars`` (what must be reached); then one file per benchmark.
"""

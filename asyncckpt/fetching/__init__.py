"""Fetching: a checkpoint's bytes on their way from a store into memory, every digest checked. No torch.

``reading``    in merged ranges, several at a time; ``unpacking`` with whatever they were stored
``placing``    straight into live memory, from local disks; ``arriving`` from object stores, each byte fetched once
``progress``   how far a long restore is
"""

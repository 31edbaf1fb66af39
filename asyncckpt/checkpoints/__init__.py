"""Checkpoints: what a root holds, read from its commit records alone. Reads only, disturbs nobody, needs no torch.

``commits``  where the records lie, and which of them count; ``damage`` which failure of a store says what
``listing``  what the newest lists, and how checkpoints are named in it
``catalog``  finding them; ``marking`` pins, tags and findings; ``diffing`` what differs between two
"""

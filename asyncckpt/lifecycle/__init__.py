"""Lifecycle: what a checkpointer does in its life.

``living``     the checkpointers of this process, by root; ``belonging`` what they know of a run
``beginning``  what happens once before the first save
``asking``     a save; ``late`` metrics that come after it
``lull``       the next steps, at which nothing can be due
``returning``  going back to a checkpoint
``stopping``   after a notice, on all ranks at the same step
``ending``     waiting for everything, and letting it go
"""

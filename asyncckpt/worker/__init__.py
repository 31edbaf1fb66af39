"""Worker: everything that happens to a snapshot after it was handed over. No torch below this line.

``watermark``  how far an arena is filled, and by whom it may be read
``job``        one save as plain data
``pipeline``   arena to packs: digest and write behind the watermark
``commitlog``  who may write a run, how a checkpoint comes into being, and how one goes
``service``    the serial actor: job in, reply out
``executor``   where that runs, as its trainer sees it: ``pool`` in a thread here, replaced when it dies
``process``    the same in a process of its own, which outlives its trainer by one commit
``tier``       a local disk before the root: ``local`` saves there, ``homing`` takes them to the root, ``bringing`` them
               back; ``mirroring`` keeps a second copy elsewhere
"""

"""Staging: from live tensors to an arena, so that training may go on and change them.

``layout``      which bytes go where: the image of the packs, computed before anything is copied
``arena``       page-aligned, reused host memory within a budget; ``prefault`` and ``pinning`` make it ready
``device``      copies in groups that hold no interpreter lock
``streams``     one side stream for each accelerator device, and how it is ordered with training
``pieces``      regions cut and put together into copies; ``origins`` what those read
``lane``        the copies of one device, ``schedule`` all of one plan; ``backlog`` how many are queued at once
``snapshot``    one state on its way; ``filling`` how far it has come, ``comparison`` whether it was torn
``stager``      the threads that copy and wait (``tasks``), the first of them ``alone``
``guards``      what keeps LAZY tensors unchanged until they are copied
"""

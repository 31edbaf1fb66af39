"""Staging: from live tensors to an arena, so that training may go on and change them.

``arena``   pre-faulted, page-aligned, reused host memory within a budget
``plan``    which bytes go where: the image of the packs, computed before anything is copied
``stager``  the copies: EAGER ones in the call, LAZY ones in a thread of their own
``guards``  what keeps LAZY tensors unchanged until they are copied
``device``  how tensors of a device reach the host
"""

"""Restores: one restore, from the choice of a checkpoint that all ranks can load to live objects that hold it.

``restorer``   on all ranks or on none; ``consensus`` how they agree, ``nearest`` which tier is read
``restoring``  what has to be there before live objects are touched; ``fitting`` which part belongs to which of them
``unloading``  bytes on their way to a device
``loading``    a checkpoint as plain nested dicts, without any objects
"""

"""Construction: how a checkpointer is put together from what its caller has said.

``options``     what was asked, checked; ``tracked`` the objects to save, named
``executing``   whether the service runs in a thread or in a process; ``weighing`` which of them is worth it
``blueprint``   all that it is made from: refuses what can be refused, starts nothing
``assembling``  its parts. Nothing there can fail
"""

"""The worker process: both sides of it, and what they say to one another. Linux only.

``wire``        what is said; ``channel`` the socket, ``calls`` what is asked by name, ``ignored`` what meant nothing

The trainer's side:

``bridge``      the executor as the trainer's threads see it; ``settings`` what users say about it
``succession``  one process after the other; ``link`` to one, ``brief`` what it is told first, ``vigil`` if it lives
``exchange``    what is not answered yet: ``jobs``, ``pending``, ``questions``, arenas ``shown``; ``replies`` what comes
``trial``       one that is started only to see that it can be; ``reader`` what the trainer reads by itself meanwhile

Its own side:

``host``        the service on the other end of the socket; ``entrusted`` what it was given, ``roles`` by rank
``priority``    giving way to training, on other ``cores``; ``watchdog`` its end, though its event loop hangs
``untaken``     a run that it has not taken yet; ``adopting`` a start that waits for an earlier one
``relay``       what it says to other ranks through its trainer, and ``remote`` how it hears them
"""

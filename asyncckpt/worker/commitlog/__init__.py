"""The commit log: who may write a run, how a checkpoint comes into being, and how one goes.

``founding``   the run file; ``fencing`` taking a run where nothing can be created exclusively
``writer``     one session of ownership; ``ownership`` from its open record to its closing one, ``home`` whose fence
``commit``     the one place where a record is created, and where it is decided whether that happened
``listed``     what the head lists, kept up to date: ``uses`` of packs, ``contest`` (the best), ``order``, ``follower``
``keeping``    what each record drops: ``standing`` and ``selection`` by policy, ``wishes`` of people
``prune``      deleting that, one commit late; ``sweep`` what no live record names; ``offline`` removal by others
``aftermath``  what follows a commit: ``hints``, events, late deletion; ``past`` what the next service has to know
"""

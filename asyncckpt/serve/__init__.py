"""Serve: a page over a run, or a folder or bucket of runs, for a browser on this machine. Reads only, without torch.

``reader`` is the thread that asks stores, ``fresh`` what it found out and when, ``shelf`` the runs by their names.
``pages`` and ``answers`` say what is asked for, as HTML and as JSON, ``curves`` and ``saves`` draw; ``guard`` stands
before all of it, and ``server`` listens. Whatever comes from a run is text: nothing of it is ever markup, a path, or
code.
"""

"""Inspection: what is in a run and in one checkpoint of it, for people and as JSON. Reads only, without torch.

``summary`` is a listed checkpoint in a few words, ``contents`` what one holds, ``values`` what of that is no tensor,
``found`` all of it together; ``following`` keeps up with a retention that removes meanwhile.
"""

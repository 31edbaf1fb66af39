"""Bucket: what holds for every object store, whichever client asks it.

``store`` keeps the storage contract; ``client`` says what it wants of a client; ``requests`` makes one request
reliable; ``faults`` says what a failure means to a person. ``ranges`` reads: ``straight`` what URLs name that were
``signed``, and else as the client's library does. The clients are ``asyncckpt.storage.s3`` and
``asyncckpt.storage.obstore``.
"""

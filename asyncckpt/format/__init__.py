"""The format: what the bytes of a run mean. Pure functions over bytes and JSON; no I/O, no torch.

``names``     where each object of a run lies
``sealed``    canonical JSON that carries its own digest
``digest``    the content digest of extents, records and manifests
``record``    the small object that commits; the chain of them is the commit log
``manifest``  what one checkpoint holds
``report``    one rank's part of a manifest
``marks``     what people say of a checkpoint: pins, tags, requests
``findings``  notes that a checkpoint was found damaged
``shard``     packs: safetensors files laid out for direct I/O
"""

FORMAT = 1
"""Version of everything a run holds. A reader refuses a higher one and reads every lower one."""

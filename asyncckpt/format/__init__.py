"""The format: what the bytes of a run mean. Pure functions over bytes and JSON; no I/O, no torch.

``names``     where each object of a run lies
``sealed``    canonical JSON that carries its own digest
``digest``    the content digest of extents, records and manifests
``record``    the small object that commits; the chain of them is the commit log
``contents``  tensors as boxes of extents, and the packs that those lie in; ``document`` writes them as JSON
``elements``  how a tensor of each dtype stands in a pack
``parts``     what people name of a state
``manifest``  what one checkpoint holds
``report``    one rank's part of a manifest
``marks``     what people say of a checkpoint: pins, tags, requests
``findings``  notes that a checkpoint was found damaged
``shard``     packs: safetensors files laid out for direct I/O
``codec``     how packs are stored: as they are, compressed, encrypted; ``cipher``, ``frames`` and ``hidden`` do it
``coded_file`` a whole file stored so, as its name ends
"""

FORMAT = 1
"""Version of everything a run holds, but of what is hidden. A reader reads every version that it knows, and refuses a
higher one."""

HIDDEN = 2
"""Version of manifests and reports that are encrypted. Readers that know no other than 1 would take one that names no
pack for one of nothing; its number makes them refuse it."""

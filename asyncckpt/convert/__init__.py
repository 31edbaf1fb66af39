"""Conversion: checkpoints into files of other systems, and those into checkpoints.

``exporting``    a checkpoint's tensors as files; ``exporting_state``, which needs torch, all of it
``importing``    what lies at a path as the image of a state
``named``        the tensors that leave a checkpoint, by the names that they get
``weights``      files of safetensors, written as the bytes come, and without torch
``huggingface``  a folder as Hugging Face has it
``torch_file``   what ``torch.save`` wrote, or shall be read by ``torch.load``
``dcp``          folders of ``torch.distributed.checkpoint``
``plain``        values as ``torch.load(weights_only=True)`` takes them
``place``        where what is converted goes: there as a whole, or not at all
``sources``      what lies at a path that is to be imported
``arranged``     the parts of what another system saved
``image``        a state as the packs that it becomes; ``of_weights`` and ``of_state`` make them
``committing``   an image into a checkpoint, by the writer that all saves go through

What runs code when it is read is never read: of pickles only those that hold nothing but data.
"""

"""State: the named things a run checkpoints, taken apart into tensors and values, and put back.

``stateful``  what can be saved, and how each kind of it is read and restored
``capture``   a whole state at one step: cached structure, values read anew
``apply``     a loaded state put back into live objects, random state last
``landing``   live tensors that a stored one may be read straight into
``refusing``  what does not fit, and why
``wrappers``  DataParallel and its like, which leave no trace in names
``values``    everything that is no tensor, as tagged JSON
``rng``       random state          ``dtypes``  names of dtypes          ``training_state``  what resume returns
"""

"""Configuration: what a training was told, read, made plain and without its secrets, once for everybody who shows it.

::

    reading      a file (YAML, JSON, TOML), or what was read from one, as a `Configuration`
    yaml_text    YAML as everybody means it
    overrides    ``training.lr=1e-3``, over it
    plain        values of any kind as JSON
    masking      what is a secret
"""

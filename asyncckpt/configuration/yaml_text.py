"""YAML text: how it is read, as everybody means it, and written so that it reads back the same.

``1e-8`` and ``1.5e8`` are numbers, for which YAML 1.1 wants a point and a sign, and ``24:00:00`` is a text, which YAML
1.1 takes for a number of seconds; so is ``2026-11-30``, for which JSON has no other word. A key that is there twice is
an error: which of the two was meant nobody knows.
"""

from __future__ import annotations

import functools
import re
from typing import Any

_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$")
_TIME = re.compile(r"^[0-9]+(?::[0-9]+)+$")


@functools.cache
def loader() -> Any:
    """A loader for ``yaml.load``, as safe as PyYAML's own; PyYAML has to be installed."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            # Here, and not when it is constructed: by then what ``<<`` names has been put before what replaces it.
            node = super().compose_mapping_node(anchor)
            seen: set[str] = set()
            for key, _ in node.value:
                word = str(key.value)
                if word in seen and word != "<<":
                    raise yaml.constructor.ConstructorError(None, None, f"{word!r} is there twice", key.start_mark)
                seen.add(word)
            return node

    _teach(Loader)
    for rules in Loader.yaml_implicit_resolvers.values():
        rules[:] = [(tag, expression) for tag, expression in rules if tag != "tag:yaml.org,2002:timestamp"]
    return Loader


@functools.cache
def dumper() -> Any:
    """A dumper for ``yaml.dump`` that puts quotes around every text that `loader` would take for something else."""
    import yaml

    made = type("Dumper", (yaml.SafeDumper,), {})
    _teach(made)
    return made


def _teach(kind: Any) -> None:
    kind.yaml_implicit_resolvers = {first: list(rules) for first, rules in kind.yaml_implicit_resolvers.items()}
    for first in "0123456789":
        rules = kind.yaml_implicit_resolvers.setdefault(first, [])
        rules.insert(0, ("tag:yaml.org,2002:str", _TIME))
    kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))

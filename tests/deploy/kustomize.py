"""What kustomize makes of the manifests here: resources, and patches that are merged into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

KEYS = {"env": "name", "containers": "name", "volumes": "name", "volumeMounts": "mountPath"}
"""By which the elements of a list are told apart; every other list is replaced as a whole."""

Resource = dict[str, Any]


def built(folder: Path) -> list[Resource]:
    """The resources of `folder`."""
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert said.keys() <= {"apiVersion", "kind", "resources", "patches"}, "this knows no more of kustomize"
    found = list[Resource]()
    for name in said["resources"]:
        path = folder / name
        found += built(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for patch in said.get("patches", ()):
        change = yaml.safe_load((folder / patch["path"]).read_text())
        (at,) = (at for at, each in enumerate(found) if _named(each) == _named(change))
        found[at] = _merged(found[at], change)
    return found


def _named(resource: Resource) -> tuple[str, str]:
    return resource["kind"], resource["metadata"]["name"]


def _merged(old: Resource, new: Resource) -> Resource:
    made = dict(old)
    for name, value in new.items():
        if isinstance(value, dict):
            made[name] = _merged(old.get(name, {}), value)
        elif name in KEYS:
            made[name] = _listed(old.get(name, []), value, KEYS[name])
        else:
            made[name] = value
    return made


def _listed(old: list[Resource], new: list[Resource], key: str) -> list[Resource]:
    """What is new comes first, as kustomize has it."""
    known = {each[key]: each for each in old}
    for each in new:
        if each.get("$patch") == "delete":
            del known[each[key]]
        elif each[key] in known:
            known[each[key]] = _merged(known[each[key]], each)
    return [each for each in new if each[key] not in {one[key] for one in old}] + list(known.values())

"""Walking: what lies below the root, links not followed."""

from __future__ import annotations

from collections.abc import Iterator

from asyncckpt.errors import StorageError
from asyncckpt.storage.base import ObjectInfo, UploadInfo, check_key
from asyncckpt.storage.files import Entry, Files
from asyncckpt.storage.folders import Folders
from asyncckpt.storage.publish import meant_for
from asyncckpt.storage.reasons import translate


def objects(files: Files, folders: Folders, prefix: str, start_after: str | None) -> list[ObjectInfo]:
    """The objects under `prefix`, sorted; blocks, raises OSError."""
    found = [
        ObjectInfo(folder + entry.name, entry.length)
        for folder, entry in _entries(files, folders, prefix, start_after or "")
        if entry.kind == "file" and _is_key(entry.name)
    ]
    wanted = (info for info in found if info.key.startswith(prefix) and (start_after is None or info.key > start_after))
    return sorted(wanted, key=lambda info: info.key)


def uploads(files: Files, folders: Folders, prefix: str) -> list[UploadInfo]:
    """The temporaries meant for keys under `prefix`, and folders left empty, sorted; blocks, raises OSError."""
    found = []
    for folder, entry in _entries(files, folders, prefix):
        inner = f"{folder}{entry.name}/"
        if (name := meant_for(entry.name)) is not None:
            found.append(UploadInfo(folder + name, folder + entry.name))
        elif entry.kind == "folder" and _is_key(entry.name) and not _scan(files, folders, inner):
            # A crash between making a folder and its first object, or after deleting its last one, leaves it.
            found.append(UploadInfo(inner, inner))
    return sorted((info for info in found if info.key.startswith(prefix)), key=lambda info: info.upload)


def check_upload(upload: str) -> str:
    """Return the name of a temporary or a folder (``/`` at its end) if it is below the root, else `StorageError`."""
    folder, _, name = upload.rpartition("/")
    # "/" would be the root, which nothing here may remove.
    if not (meant_for(name) if name else folder) or (folder and not _is_key(folder)):
        raise StorageError(f"not an upload of this store: {upload!r}")
    return upload


def _entries(files: Files, folders: Folders, prefix: str, start_after: str = "") -> Iterator[tuple[str, Entry]]:
    """Everything, each with its folder's key, ``/`` included, or nothing for the root; not all before `start_after`."""
    its_folder, slash, name = start_after.rpartition("/")
    top = prefix.rpartition("/")[0]
    waiting = [check_key(top) + "/"] if top else [""]
    while waiting:
        folder = waiting.pop()
        after = name if folder == its_folder + slash else ""
        for entry in _scan(files, folders, folder, after):
            yield folder, entry
            if entry.kind == "folder" and _is_key(entry.name) and f"{folder}{entry.name}/".startswith(prefix):
                waiting.append(f"{folder}{entry.name}/")


def _scan(files: Files, folders: Folders, folder: str, after: str = "") -> list[Entry]:
    path = folders.path(folder.removesuffix("/"))
    try:
        return files.scan(path, after)
    except (FileNotFoundError, NotADirectoryError):
        # Removed since its parent was read, or never there; but a root that is a file has to be told.
        folders.check_root()
        return []
    except OSError as error:
        raise translate(error, path) from error


def _is_key(name: str) -> bool:
    try:
        check_key(name)
    except StorageError:
        return False
    return True

"""Run: one experiment in its root, with all that says what it is. `Run.open` is where a training begins."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from asyncckpt.checkpoints.listing import Which
from asyncckpt.configuration.overrides import Overrides
from asyncckpt.configuration.plain import Plain
from asyncckpt.configuration.reading import Configuration, Source, configuration
from asyncckpt.distributed.coordinator import place
from asyncckpt.events import Listener
from asyncckpt.format.codec import PLAIN, WANTED, Codec, wanted
from asyncckpt.lifecycle import living
from asyncckpt.lifecycle.belonging import Root, place_of
from asyncckpt.revision import UNKNOWN, code_version
from asyncckpt.run import among, copies, identity, opening, readme
from asyncckpt.run import results as outcome
from asyncckpt.run.files import Files
from asyncckpt.run.hardware import hardware
from asyncckpt.run.hyperparameters import hyperparameters
from asyncckpt.run.identity import encoded
from asyncckpt.run.links import Links, check_names
from asyncckpt.run.log import Log, log_of
from asyncckpt.run.model_summary import description, models_of, summary
from asyncckpt.run.opening import Asked, Mode, Opened
from asyncckpt.run.reference import reference
from asyncckpt.run.wandb_info import save_wandb_info
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Storage
from asyncckpt.trackers import Tracker, Trackers, WandbTracker

logger = logging.getLogger("asyncckpt")

LOG_BYTES = 64 << 20


class Run:
    """One experiment: `id`, `name`, `url`, `config` (as JSON values, secrets included), and what this start found.

    `masked_config` is the same without secrets, for whatever leaves this process: trackers, reports.

    `mode` is what came of the start: "new", "resume" or "overwrite". `start_from` is ``(root, which)`` of another run's
    checkpoint, where the configuration names one and this run has none of its own: ``asyncckpt.load(*run.start_from)``.
    Give it to `AsyncCheckpointer` in place of a root. With several ranks, rank 0 writes.
    """

    def __init__(self, root: Root, url: str, config: Configuration, opened: Opened, files: Files | None) -> None:
        self.root = root
        self.url = url
        self.id, self.name, self.mode = opened.identity.id, opened.identity.name, opened.mode
        self.config: Mapping[str, Any] = config.whole
        self.masked_config: Mapping[str, Any] = config.plain
        self.start_from = opened.start_from
        self.storage_options: Mapping[str, Any] | None = None
        self._config_codec = PLAIN
        self._links: Listener = Links(files, ())
        self._trackers: list[Trackers] = []
        self._said_of_wandb: set[str] = set()
        self._has_checkpointer = self._is_trained = False
        self._opened = opened
        self._files = files
        self._log: Log | None = None
        self._is_closed = False

    @classmethod
    def open(
        cls,
        root: Root,
        *,
        config: Source | None = None,
        name: str | None = None,
        mode: Mode = "new",
        storage_options: Mapping[str, Any] | None = None,
        compat_names: Collection[str] = (),
        logs: bool = True,
        log_bytes: int = LOG_BYTES,
        config_codec: str | None = None,
        overrides: Overrides = (),
    ) -> Run:
        """Begin a run in `root`, or go on with the one there; before anything is made, what is there is looked at.

        `config` is a file (YAML, JSON or TOML), or what was read from one; `overrides` are put over it, dotted, as a
        command line has them: ``["training.lr=1e-3"]``. A `name` comes before that of an override, that before one in
        `config`, and else a run is called as its root is. `mode` is "new" (there must be no run yet),
        "resume" (there must be one), "auto" (whichever is the case) or "overwrite"; ``checkpoint.resume`` in the
        configuration makes "new" a "resume". ``{id}`` in a root stands for the new run's id. `logs` copies what the
        console shows to ``logs/``, in files of `log_bytes`. `compat_names` are other names for checkpoints, as links:
        ``"checkpoint-epoch{epoch}-step{step}"``, ``"best_checkpoint"``. `config_codec` is what the copies of the
        configuration are stored with: "zstd", "aes256gcm", or "zstd+aes256gcm"; what is encrypted has secrets in it.

        Raises `CheckpointDirectoryExistsError` for a new run where there is one, `CheckpointNotFoundError` for what is
        to be gone on with and is not there, `ConfigurationError` for overrides that cannot be put, `StorageError` for a
        root that cannot be read or written, and for a codec `KeyUnavailable` without a key, and `AsyncCkptError`,
        naming the extra, without its library. With several ranks every one has to call it, after
        ``init_process_group()``; all get the same run, or all raise.
        """
        here, now = place(), datetime.now().astimezone()
        names, settings, codec = check_names(compat_names), configuration(config, overrides), _codec(config_codec)
        called = name or _named(configuration(None, overrides)) or _named(settings) or _named_after(root)
        made: list[Files] = []

        def act() -> dict[str, Any]:
            filled, run_id = _filled(root, called, mode, now)
            files = Files(filled, storage_options)
            made.append(files)
            meant = reference(settings.at("checkpoint.resume"), files.storage.url)
            asked = Asked(called, opening.wanted(mode, meant), now, run_id, meant, storage_options)
            found = files.do(lambda storage: opening.opened(storage, asked))
            return {**found.json(), "url": files.storage.url, "root": _kept(filled, files.storage)}

        try:
            said = among.opened_by_all(here, {"root": place_of(root), "mode": mode}, act)
            run = cls(said["root"] or root, said["url"], settings, opening.opened_of(said), made[0] if made else None)
            run.storage_options = storage_options
            run._config_codec = codec
            run._begin(settings, now, names, log_bytes if logs else None)
        except BaseException:
            for files in made:
                files.close()
            raise
        return run

    def _begin(self, config: Configuration, now: datetime, names: Collection[str], log_bytes: int | None) -> None:
        if self._files is None:
            return
        self._links = Links(self._files, names)
        if log_bytes is not None:
            self._log = log_of(self._files, log_bytes, resumed=self.is_resumed, now=now)
        living.add_run(self)
        try:
            self._introduce(self._files, config, now)
        except BaseException:
            self.close()
            raise

    def _introduce(self, files: Files, config: Configuration, now: datetime) -> None:
        """Write down what is known at once: it survives a crash in the first step."""
        start = self._opened.identity.starts[-1]
        if self._log is not None:
            self._log.note(
                f"run {self.id} in {self.url}: {', '.join(f'{name} {said}' for name, said in start.items())}"
            )
        for complaint in (*config.complaints, *copies.exposed(config, self._config_codec)):
            logger.warning("%s", complaint)
        commit, _, dirty = str(start["code_version"]).partition("-")
        about = {
            "run_id": self.id,
            "timestamp": now.isoformat(timespec="seconds"),
            "git_hash": commit,
            "git_dirty": bool(dirty),
            "hardware": hardware(),
        }
        files.do(lambda storage: copies.copied(storage, config, about, self._config_codec))
        files.do(readme.left)
        self.describe()

    @property
    def is_resumed(self) -> bool:
        """Whether this start goes on with a run that was there."""
        return self.mode == "resume"

    # -- what is said of it --------------------------------------------------------------------------------

    def describe(
        self,
        *,
        model: object = None,
        optimizer: object = None,
        scheduler: object = None,
        dataset: Mapping[str, Any] | None = None,
    ) -> None:
        """Write ``model_summary.txt`` and ``hyperparameters.json``, and say in ``config.json`` what is trained on what.

        `AsyncCheckpointer` does it with what it was given. What fails is a warning.
        """
        if self._files is None:
            return
        try:
            more: dict[str, Any] = {} if dataset is None else {"dataset": Plain().of(dataset)}
            if models := models_of(model):
                self._files.put("model_summary.txt", summary(models).encode("utf-8", "backslashreplace"))
                said = {name: description(each) for name, each in models.items()}
                more["model"] = next(iter(said.values())) if len(said) == 1 else said
            # What a later word of the model or of the data does not tell stays as it was said.
            is_trained_by = optimizer is not None or scheduler is not None
            if (is_trained_by or not self._is_trained) and (
                found := hyperparameters(self.config, optimizer, scheduler)
            ):
                self._files.put("hyperparameters.json", encoded(found))
            self._is_trained |= is_trained_by
            if more:
                self._files.do(lambda storage: copies.amended(storage, more, self._config_codec))
        except Exception as error:  # a model may print itself in any way: no reason to stop a training
            logger.warning("what is trained could not be written to %s: %r", self.url, error)

    def save_results(
        self,
        final_metrics: Mapping[str, Any],
        *,
        best_checkpoint: str | None = None,
        generation_samples: Iterable[str] | None = None,
    ) -> None:
        """Write ``results.json``: what came out of it, and what else is given. Raises `StorageError`."""
        if self._files is not None:
            self._files.put(outcome.KEY, outcome.results(self.id, final_metrics, best_checkpoint, generation_samples))

    def save_wandb_info(self, source: object = None) -> bool:
        """Write down which W&B run goes with this one; True if there is one, False else, and on every rank but 0.

        `source` is a run of W&B, an Accelerator, one of its trackers, or by default the W&B run under way, which is
        looked for when a checkpointer is made and when the run is closed, too.
        """
        return self._files is not None and save_wandb_info(self._files, self.id, source, self._said_of_wandb)

    def trackers(self, *trackers: Tracker) -> Trackers:
        """Tell all of `trackers` of this run: its whole configuration, secrets masked, and what becomes of its saves.

        A checkpointer that is made of the run tells them by itself, so call this before; raises `ValueError` after
        that. A `WandbTracker` without an id of its own has this run's, refers to its checkpoints, and is in
        ``wandb_info.json`` from its beginning on. They are closed with the run, after a minute at the latest.
        """
        if self._has_checkpointer:
            raise ValueError(
                "a checkpointer of this run was made already, and would not be told: call trackers() before"
            )
        for tracker in trackers:
            if isinstance(tracker, WandbTracker):
                tracker.belong(self.id, self.root, self.storage_options, self.save_wandb_info)
        told = Trackers(*trackers, config=self.masked_config)
        self._trackers.append(told)
        return told

    @property
    def log_path(self) -> Path | None:
        """The file that the console is copied to, on this machine; None where there is none."""
        return self._log.path if self._log is not None else None

    # -- what a checkpointer asks --------------------------------------------------------------------------

    @property
    def replaces(self) -> bool:
        """See `asyncckpt.lifecycle.belonging.Run`."""
        return self.mode == "overwrite"

    @property
    def code(self) -> str | None:
        """The code version of this start: 8 digits of the commit, ``-dirty`` where files differ; None if unknown."""
        version = str(self._opened.identity.starts[-1]["code_version"])
        return None if version == UNKNOWN else version

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """See `asyncckpt.lifecycle.belonging.Run`."""
        return self._links, *self._trackers

    def begin_with(self, parts: Mapping[str, object]) -> None:
        """What a checkpointer saves of this run, by the names of its `parts`: see `lifecycle.belonging.Run`."""
        self._has_checkpointer = True
        self.describe(model=parts.get("model"), optimizer=parts.get("optimizer"), scheduler=parts.get("scheduler"))
        self.save_wandb_info()

    def chosen(self) -> Which:
        """See `asyncckpt.lifecycle.belonging.Run`."""
        return self._opened.which

    def resumed(self) -> None:
        """See `lifecycle.belonging.Run`. Raises `StorageError`: if it went unsaid, the next start would go back too."""
        opened = self._opened
        if opened.back_to is None:
            return
        now = replace(opened.identity, went_back=opened.back_to)
        if self._files is not None:
            self._files.put(identity.KEY, now.encode())
        self._opened = replace(opened, identity=now, which="latest", back_to=None)

    # -- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write down what is left to say, and let the console alone; a second call does nothing.

        Close the checkpointer first.
        """
        if self._is_closed:
            return
        self._is_closed = True
        living.forget_run(self)
        if self._files is None or os.getpid() != int(self._opened.identity.starts[-1]["pid"]):
            return
        for told in self._trackers:
            told.close()
        self.save_wandb_info()
        if self._log is not None:
            self._log.close()
        self._files.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._log is not None:
            self._log.left_by(error)
        self.close()


def _codec(word: str | None) -> Codec:
    if word is not None and word not in WANTED:
        raise ValueError(f"config_codec={word!r}: use one of {', '.join(WANTED)}, or None")
    return wanted(word)


def _named(config: Configuration) -> str | None:
    """What a configuration calls its run."""
    for key in ("name", "run_name", "experiment_name", "experiment.name", "run.name"):
        if isinstance(found := config.at(key), str) and found:
            return found
    return None


def _named_after(root: Root) -> str:
    return place_of(root).replace("{id}", "").replace(os.sep, "/").rstrip("/").rpartition("/")[2]


def _kept(root: Root, storage: Storage) -> str | None:
    """The root for later, which a change of the working directory must not lead elsewhere; None for a storage."""
    if not isinstance(root, str | os.PathLike):
        return None
    return storage.url if isinstance(storage, LocalStorage) else os.fspath(root)


def _filled(root: Root, name: str, mode: Mode, now: datetime) -> tuple[Root, str | None]:
    """The root with the run's id in it, and that id, where the root asks for it."""
    if not isinstance(root, str | os.PathLike):
        return root, None
    url = os.fspath(root)
    if "{id}" not in url:
        return url, None
    if mode not in ("new", "auto"):
        raise ValueError(f"{url} has another name with each start, so mode={mode!r} finds nothing there: use its path")
    made, _ = identity.new_id(name, code_version(), now)
    return url.replace("{id}", made), made

"""Every error this package raises, under one root.

::

    AsyncCkptError
    ├── SaveError                            a save did not become a checkpoint
    │   ├── SaveFailed                         ... for a reason of its own (``__cause__``, ``failures``)
    │   ├── SaveSkipped                        ... because both generations were busy and the policy said skip
    │   ├── SaveSuperseded                     ... because a newer snapshot took its place
    │   ├── TornSnapshot                       ... because saved tensors changed while they were copied
    │   ├── CheckpointTimeoutError (TimeoutError, TrainerError)  ... as soon as somebody waited for it; it may yet
    │   ├── PreemptionTimeoutError (TimeoutError, TrainerError)  ... before the process was going to be killed
    │   └── RankMissing                        ... because a rank did not report in time
    ├── UnsupportedState (TypeError)         a value that cannot be held, named by its path
    ├── RestoreError                         a checkpoint could not be restored
    │   ├── CheckpointNotFoundError (FileNotFoundError)
    │   ├── CheckpointCorruptError             its bytes are not what its record says
    │   ├── NotEncrypted                       it is plain, where only encrypted ones are read
    │   ├── IncompatibleState                  it is sound, but does not fit what it shall be restored into
    │   └── UnsupportedFormat                  it was written by a newer version
    ├── RunError                             the run as a whole
    │   ├── CheckpointDirectoryExistsError     the root holds checkpoints and nobody resumed from them
    │   ├── HeadDamaged                        the newest commit record fails its digest
    │   ├── Fenced                             a newer incarnation has taken the run
    │   ├── RunContended                       several writers kept taking the run from each other
    │   ├── RunRefused                         this store cannot keep what the run was promised
    │   └── RanksDiffer                        ranks of one training were given different arguments
    ├── KeyUnavailable                       what was encrypted with a key that is not here; it is no damage
    ├── TrainerError                         a training loop cannot go on with what it was given
    ├── WorkerCrashed                        the background worker died; its jobs failed
    ├── WorkerLate (TimeoutError)            it lives, and has not answered in time
    ├── CheckpointerClosed                   the checkpointer was closed before this call
    ├── ConfigurationError (ValueError)      what a training shall be cannot be made out
    │   └── ValidationError                    it can, and is wrong: every problem, by its path
    ├── SLURMError                           what was asked of Slurm was not done
    │   └── JobSubmissionError                 a job was not submitted
    ├── GitOperationError                    what was asked of git was not done
    └── StorageError (OSError)               a backend's error, translated
        ├── ObjectNotFound
        ├── ObjectExists
        ├── TransientError                     worth another try
        ├── OutcomeUnknown                     neither applied nor not applied: read to find out
        └── StorageDenied                      permission, read-only, no space: a person has to act

`Preempted` stands apart: it is no error but a `SystemExit`, by which a training leaves that was told to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class AsyncCkptError(Exception):
    """Root of every error of this package."""


# -- saving --------------------------------------------------------------------------------------


class SaveError(AsyncCkptError):
    """A save did not become a checkpoint."""


class SaveFailed(SaveError):
    """One save failed, or several did: `failures` maps each step to its reason."""

    def __init__(self, message: str, failures: Mapping[int, BaseException] | None = None) -> None:
        super().__init__(message)
        self.failures: Mapping[int, BaseException] = dict(failures or {})


class SaveSkipped(SaveError):
    """The save never took a snapshot: every arena generation was in use and the policy said skip."""


class SaveSuperseded(SaveError):
    """A newer snapshot replaced this one before it was written; the message names it."""


class TornSnapshot(SaveError):
    """Saved tensors changed while they were being copied; `paths` names them."""

    def __init__(self, message: str, paths: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.paths = tuple(paths)


class TrainerError(AsyncCkptError):
    """A training loop cannot go on with what it was given, or was asked at the wrong time."""


class CheckpointTimeoutError(SaveError, TrainerError, TimeoutError):
    """A save was not as far as somebody wanted who waited for it; it goes on, and may yet be durable."""


class PreemptionTimeoutError(SaveError, TrainerError, TimeoutError):
    """An emergency save was not durable by its deadline; checkpoints from before it are as they were."""


class RankMissing(SaveError):
    """Ranks whose report did not arrive before the deadline; `ranks` names them."""

    def __init__(self, message: str, ranks: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.ranks = tuple(ranks)


class UnsupportedState(AsyncCkptError, TypeError):
    """A value in the state cannot be held in a checkpoint; the message names its path and a way out."""


class Preempted(SystemExit):
    """The training was told that its process will be killed, did what there was time for, and leaves.

    `code` is the exit status, `step` the last step made, `source` who gave notice, and `saved` the step of the newest
    complete checkpoint known to be durable; None where there is none. What an emergency save failed of is the
    ``__cause__``.
    """

    def __init__(self, code: int, step: int, source: str, saved: int | None) -> None:
        super().__init__(code)
        self.step = step
        self.source = source
        self.saved = saved

    def __str__(self) -> str:
        durable = "nothing is saved" if self.saved is None else f"step {self.saved} is saved"
        return f"preempted ({self.source}) after step {self.step}; {durable}; exit status {self.code}"


# -- restoring -----------------------------------------------------------------------------------


class RestoreError(AsyncCkptError):
    """A checkpoint could not be restored."""


class CheckpointNotFoundError(RestoreError, FileNotFoundError):
    """No checkpoint of that name is in the catalog."""


class CheckpointCorruptError(RestoreError):
    """A checkpoint's bytes are not what its digests say; `kind` says whether they are ``missing`` or ``unreadable``."""

    def __init__(self, message: str = "", kind: str = "content") -> None:
        super().__init__(message)
        self.kind = kind


class NotEncrypted(RestoreError):
    """A checkpoint that is not encrypted, where only such are read: nobody knows who wrote it."""


class IncompatibleState(RestoreError):
    """The checkpoint is sound but does not fit the objects it shall be restored into."""


class UnsupportedFormat(RestoreError):
    """The checkpoint was written in a format version this package cannot read."""


# -- the run -------------------------------------------------------------------------------------


class RunError(AsyncCkptError):
    """Something about the run as a whole stands in the way."""


class CheckpointDirectoryExistsError(RunError, FileExistsError):
    """The root holds checkpoints, and this process has not resumed from them."""


class HeadDamaged(RunError):
    """The newest commit record fails its digest: checkpoints are read by id, and only a repair may open the run."""


class Fenced(RunError):
    """A newer incarnation has taken the run; this writer stopped for ever."""

    adopted: bool = False
    """Whether the checkpoint being committed is listed by the new owner, and so durable all the same."""


class RunContended(RunError):
    """Other writers kept opening the run at the same time."""


class RunRefused(RunError):
    """The store cannot give the guarantee that the run was created with, or holds something else."""


class RanksDiffer(RunError):
    """The ranks of one training were given different arguments; the message names them."""


class KeyUnavailable(AsyncCkptError):
    """The key that something was encrypted with, or is to be, is not here; the message names it and where to put it."""


class WorkerCrashed(AsyncCkptError):
    """The background worker ended unexpectedly; a new one takes the next job."""


class WorkerLate(AsyncCkptError, TimeoutError):
    """The worker process lives, and has not answered in time; what it was asked to do it may do yet."""


class CheckpointerClosed(AsyncCkptError):
    """The checkpointer is closed."""


# -- launching -----------------------------------------------------------------------------------


class ConfigurationError(AsyncCkptError, ValueError):
    """A configuration, a grid or a template cannot be read or put together; the message says which and why."""


class ValidationError(ConfigurationError):
    """A configuration says what cannot be: `problems` maps the dotted path of each wrong value to what is wrong."""

    def __init__(self, message: str, problems: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.problems: Mapping[str, str] = dict(problems or {})


class SLURMError(AsyncCkptError):
    """Slurm did not do what it was asked for, or is not here."""


class JobSubmissionError(SLURMError):
    """A job was not submitted; the message holds what sbatch said."""


class GitOperationError(AsyncCkptError):
    """Git did not do what it was asked for; the message holds what it said."""


# -- storage -------------------------------------------------------------------------------------


class StorageError(AsyncCkptError, OSError):
    """A storage backend's error, translated; `__cause__` holds the original."""


class ObjectNotFound(StorageError):
    """There is no object with that key."""


class ObjectExists(StorageError):
    """An exclusive put found an object with that key; nothing was written."""


class TransientError(StorageError):
    """The request failed and may succeed when tried again."""


class OutcomeUnknown(StorageError):
    """The put may or may not have been applied; only reading the object tells."""


class StorageDenied(StorageError):
    """The store refuses: permission, a read-only file system, no space, or a root that is a file."""

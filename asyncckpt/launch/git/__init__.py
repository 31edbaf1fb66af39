"""Git: branches to work on for a while, and commits of what is named, through the git of the system."""

from asyncckpt.errors import GitOperationError
from asyncckpt.launch.git.manager import GitManager

__all__ = ["GitManager", "GitOperationError"]

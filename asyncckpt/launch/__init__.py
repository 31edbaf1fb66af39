"""Launch: what a training shall be, in many variants, and where they run. Nothing here trains, or imports torch.

::

    config        what an experiment is: schema, files, validation, composition
    grids         many experiments that differ in a few values
    execution     where experiments run, and what has come of each
    local, slurm  as processes here, as jobs there
    git           branches and commits
    framework     `ModelTrainingFramework`: all of it, for one project
    logs, project, outcome    for programs that launch
"""

from asyncckpt.launch.config import ConfigurationManager, ExperimentConfig
from asyncckpt.launch.execution import ExecutionMode
from asyncckpt.launch.framework import ModelTrainingFramework
from asyncckpt.launch.git import GitManager
from asyncckpt.launch.grids import NamingStrategy, ParameterGrid, ParameterGridSearch
from asyncckpt.launch.grids.result import GridSearchResult
from asyncckpt.launch.logs import get_logger, setup_logging
from asyncckpt.launch.outcome import Error, Result, Success
from asyncckpt.launch.project import ensure_directory_exists, get_project_root, validate_project_structure
from asyncckpt.launch.slurm import BatchSubmissionResult, JobStatus, SLURMLauncher

__all__ = [
    "BatchSubmissionResult",
    "ConfigurationManager",
    "Error",
    "ExecutionMode",
    "ExperimentConfig",
    "GitManager",
    "GridSearchResult",
    "JobStatus",
    "ModelTrainingFramework",
    "NamingStrategy",
    "ParameterGrid",
    "ParameterGridSearch",
    "Result",
    "SLURMLauncher",
    "Success",
    "ensure_directory_exists",
    "get_logger",
    "get_project_root",
    "setup_logging",
    "validate_project_structure",
]

"""Configuration: what an experiment is, as files that people write.

::

    schema, rules            the sections, their types and ranges; what they mean for the runtime
    aliases                  what other frameworks call the same
    validation               from a mapping to the schema, with every problem at once
    files                    YAML and JSON
    references, environment  ``${...}``, and one configuration over another
    manager                  `ConfigurationManager`: the files of one project
"""

from asyncckpt.errors import ConfigurationError, ValidationError
from asyncckpt.launch.config.manager import ConfigurationManager
from asyncckpt.launch.config.schema import (
    CheckpointConfig,
    DataConfig,
    ExperimentConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    PerformanceConfig,
    PreemptionConfig,
    SchedulerConfig,
    SLURMConfig,
    TrainingConfig,
)
from asyncckpt.launch.config.validation import experiment

__all__ = [
    "CheckpointConfig",
    "ConfigurationError",
    "ConfigurationManager",
    "DataConfig",
    "ExperimentConfig",
    "LoggingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PerformanceConfig",
    "PreemptionConfig",
    "SLURMConfig",
    "SchedulerConfig",
    "TrainingConfig",
    "ValidationError",
    "experiment",
]

"""MIGRATING.md is true: it has every public name of the five systems, and what it names here can be imported."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parents[2] / "MIGRATING.md").read_text()

PUBLIC = {
    "Keisei": """
        find_latest_checkpoint checkpoints_dir save_config_to_json config filepath JSONEncodeError
        ensure_directories_exist *directories set_seed seed PYTHONHASHSEED initialize_wandb run_name
        run_artifact_dir project_name WANDB_API_KEY WANDB_MODE WANDB_DIR
    """,
    "TS-DIA": """
        unified_parser config_path Trainer CheckpointDirectoryExistsError _validate_checkpoint_directory
        _copy_config_file init_trackers save_wandb_info setup_file_logger validate checkpoint.resume
        checkpoint-epoch*-step* best_checkpoint config.yml wandb_info.json hyperparameters.json
        model_summary.txt run_id run_name run_url project entity timestamp logs/training_*.log
        logs/training_resume_*.log interval interval_in_epochs save_total_limit save_best_only monitor_metric
        snapshot_optimizer snapshot_scheduler resume_restore_optimizer resume_restore_scheduler
        resume_restore_trainer_state BEST_CHECKPOINT extra_state
    """,
    "Coral": """
        CheckpointConfig save_every_n_steps save_every_n_epochs save_on_best_metric minimize_metric
        keep_last_n_checkpoints keep_best_n_checkpoints keep_checkpoint_every_n_epochs save_optimizer_state
        save_scheduler_state save_random_state use_incremental_saves auto_commit commit_message_template
        tag_best_checkpoints CheckpointManager Repository repository config checkpoint_config model_name
        experiment_name should_save_checkpoint save_checkpoint load_checkpoint commit_hash load_best weights
        state list_checkpoints include_metrics only_best get_checkpoint_info register_checkpoint_callback
        unregister_checkpoint_callback clear_callbacks list_callbacks .coral/checkpoints/{experiment_name}.json
        TrainingState epoch learning_rate loss metrics timestamp batch_size gradient_accumulation_steps
        max_epochs max_steps dataset_name notes global_step optimizer_state scheduler_state random_state
        update_metrics format_summary save load to_dict from_dict CoralTrainer trainer.step trainer.epoch_end
        trainer.load_checkpoint diff_checkpoints should_stop_early no_improvement_count
    """,
    "Spectral": """
        generate_experiment_id create_experiment_directory root checkpoints logs visualizations
        CheckpointManager experiment_dir save_interval keep_last_n should_checkpoint save_checkpoint
        load_latest_checkpoint load_checkpoint list_checkpoints cleanup_old_checkpoints checkpoint_latest.pt
        MetricsLogger should_log log_metrics flush metrics load_metrics get_latest_step get_metrics_summary
        VisualizationManager should_visualize generate_training_plots generate_model_plots
        generate_comparison_plots experiments ConfigTracker save_config load_config save_results PaperGenerator
        ResultsAggregator experiments/{experiment_id} checkpoint_step_*.pt step model_state_dict
        optimizer_state_dict config timestamp git_hash size_mb modified loss_history log_dir log_interval
        metrics.jsonl training.log viz_dir viz_interval config.json experiment_id model num_parameters hardware
        gpu_available gpu_model cuda_version cpu_count dataset_info final_metrics best_checkpoint
        generation_samples results.json
    """,
    "Framework": """
        model_training_framework model_training_framework.config model_training_framework.trainer
        model_training_framework.slurm model_training_framework.utils ModelTrainingFramework project_root
        config_dir slurm_template_path run_grid_search parameter_grids base_config base_config_path
        execution_mode output_dir max_concurrent_jobs get_config_manager get_slurm_launcher GridSearchResult
        ExecutionMode.SLURM ExecutionMode.LOCAL ExecutionMode.DRY_RUN ExperimentConfig experiment_name model
        training data optimizer scheduler slurm logging checkpoint preemption performance description tags
        created_by created_at version seed deterministic benchmark custom_params ModelConfig model.name
        model.hidden_size model.num_layers model.num_heads model.dropout TrainingConfig training.epochs
        training.batch_size training.learning_rate training.gradient_accumulation_steps training.max_grad_norm
        DataConfig data.dataset_name data.train_split data.val_split data.test_split data.preprocessing
        OptimizerConfig optimizer.name optimizer.weight_decay optimizer.betas optimizer.eps SchedulerConfig
        scheduler.name scheduler.warmup_steps scheduler.min_lr SLURMConfig slurm.job_name slurm.time_limit
        slurm.nodes slurm.ntasks_per_node slurm.cpus_per_task slurm.mem slurm.gres slurm.partition
        slurm.additional_args LoggingConfig logging.log_level logging.use_wandb logging.wandb_project
        logging.wandb_entity logging.log_every_n_steps CheckpointConfig checkpoint.save_every_n_epochs
        checkpoint.save_top_k checkpoint.monitor checkpoint.mode checkpoint.checkpoint_dir PreemptionConfig
        preemption.timeout_minutes preemption.grace_period_seconds preemption.max_preemptions PerformanceConfig
        performance.num_workers performance.pin_memory performance.prefetch_factor
        performance.persistent_workers ParameterGrid ParameterGrid.name ParameterGrid.description add_parameter
        add_nested_parameter get_parameter_count generate_permutations key values key_path ParameterGridSearch
        add_grid create_grid set_naming_strategy generate_experiments grid strategy NamingStrategy.HASH_BASED
        NamingStrategy.DESCRIPTIVE NamingStrategy.SEQUENTIAL ConfigurationManager load_config config_path
        validate use_cache save_config output_path format compose_configs overrides parameter_overrides
        GenericTrainer GenericTrainerConfig fit training_step validation_step batch batch_idx train_loader
        val_loader save_checkpoint emergency load_checkpoint checkpoint_path add_callback callback
        TrainingCallback on_training_start on_training_end on_epoch_start on_epoch_end on_batch_start
        on_batch_end trainer logs TrainerPhase INIT TRAIN_START_EPOCH TRAIN_BATCH_FORWARD TRAIN_BATCH_BACKWARD
        TRAIN_BATCH_OPTIM_STEP VAL_START_EPOCH VAL_BATCH_FORWARD EPOCH_END TRAINING_COMPLETE ResumeState
        ResumeState.phase ResumeState.epoch ResumeState.global_step ResumeState.version ResumeState.train
        ResumeState.val ResumeState.rng ResumeState.timestamp TrainMicroState ValMicroState RNGState
        SLURMLauncher git_manager submit_experiment experiment_config submit_experiment_batch experiments
        BatchSubmissionResult successful failed get_job_status cancel_job job_id JobStatus GitManager repo_path
        branch_context branch_name create_if_not_exists create_branch base_branch commit_changes message files
        add_all setup_logging get_logger level log_file get_project_root validate_project_structure
        ensure_directory_exists Result Success Error result.value result.error TrainerError
        PreemptionTimeoutError CheckpointTimeoutError ConfigurationError ValidationError SLURMError
        JobSubmissionError GitOperationError examples/basic_training.py examples/custom_trainer.py
        examples/preemption_handling.py
        examples/grid_search.py examples/slurm_batch.py
    """,
}
"""Every public name in the documents of each: functions, classes, their methods and arguments, keys, and files."""


def sections() -> dict[str, list[tuple[str, str]]]:
    """The rows of each table, by the first word of its heading."""
    parts = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    return {re.split(r"[: ]", part)[0]: re.findall(r"^\| (`.*) \| (.*) \|$", part, re.MULTILINE) for part in parts}


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def ours() -> Iterator[str]:
    for rows in sections().values():
        for _, right in rows:
            yield from (span for span in spans(right) if span.startswith("asyncckpt."))


def found(dotted: str) -> Any:
    """The object of that name; raises where there is none."""
    names = dotted.split(".")
    for split in range(len(names), 0, -1):
        try:
            there: Any = importlib.import_module(".".join(names[:split]))
        except ModuleNotFoundError:
            continue
        for name in names[split:]:
            fields = {each.name for each in dataclasses.fields(there)} if dataclasses.is_dataclass(there) else set()
            there = inspect.getattr_static(there, name) if name in fields else getattr(there, name)
        return there
    raise ModuleNotFoundError(dotted)


def check(span: str) -> None:
    name, _, argument = span.partition("(")
    there = found(name)
    if argument:
        assert argument.removesuffix("=)") in inspect.signature(there).parameters, span


@pytest.mark.parametrize("system", PUBLIC)
def test_every_public_name_has_a_row_once(system: str) -> None:
    left = [name for cell, _ in sections()[system] for name in spans(cell)]
    assert sorted(left) == sorted(PUBLIC[system].split())
    assert [cell for cell, right in sections()[system] if not any(map(found_here, spans(right)))] == []


def found_here(span: str) -> bool:
    return span.startswith("asyncckpt.")


@pytest.mark.parametrize("span", sorted({*ours()}))
def test_what_it_is_called_here_can_be_imported(span: str) -> None:
    check(span)


def test_a_name_that_is_not_there_is_seen() -> None:
    for span in ("asyncckpt.Nothing", "asyncckpt.nothing.Thing", "asyncckpt.TrainingState.nothing"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            check(span)
    with pytest.raises(AssertionError):
        check("asyncckpt.Run.open(nothing=)")


def test_the_readme_leads_to_it() -> None:
    assert "(MIGRATING.md)" in (Path(__file__).parents[2] / "README.md").read_text()

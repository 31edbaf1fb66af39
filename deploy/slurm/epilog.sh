#!/bin/bash
# For Slurm's Epilog, on each node: takes away the metrics of trainings of this job that were killed, which would
# otherwise go on looking like trainings that hang. Those that ended say so, and stay for find -mtime to delete.
set -euo pipefail
textfiles=${TEXTFILES:-/var/lib/prometheus/node-exporter}
shopt -s nullglob
for file in "$textfiles/asyncckpt-${SLURM_JOB_ID:?}-"*.prom; do
    if grep -q '^asyncckpt_end_timestamp_seconds.* 0\.0$' "$file"; then
        rm -f "$file"
    fi
done
# What a kill left half written; the node exporter reads no such names.
rm -f "$textfiles/asyncckpt-$SLURM_JOB_ID-"*.prom.*

#!/usr/bin/env bash
# The batch job of slurm.sh: runs mpt in every task of the allocation, and asks to run again when it says so.
#   slurm_job.sh MPT COMMAND...
set -uo pipefail

if [[ -z ${SLURM_NTASKS-} ]]; then
    echo "slurm_job.sh: error: this is the job that launch/slurm.sh submits, and runs in Slurm only: call slurm.sh" >&2
    exit 2
fi

several=()
if ((SLURM_NTASKS > 1)); then several=(--multiprocess); fi
echo "slurm job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1)) at $(date)"

# One that ends with 75 must not have the others killed while they end: mpt itself stops them when one dies,
# and --wait is for what cannot stop any more.
srun --kill-on-bad-exit=0 --wait=120 --label "$@" "${several[@]}"
code=$?

# No trap: scancel ends this script before it comes here, and Slurm's own preemption requeues by itself.
if ((code == 75)); then
    echo "mpt saved and stopped; the job is requeued"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

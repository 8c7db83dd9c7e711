#!/usr/bin/env bash
# Runs an mpt command as a Slurm job that is requeued, and goes on, when it is preempted or its time is up.
#
#   launch/slurm.sh --work_dir=DIR [options] -- COMMAND...
#
#   --work_dir=DIR        of this run alone, where all nodes see it: environment, logs, staged files; mpt runs in it
#   --stage=DIR           a folder whose content (gin files, tasks, backbone) is copied into it
#   --mpt=PATH            an installed mpt to use; without it this checkout is installed into work_dir/env
#   --python=PATH         what makes that environment (python3.11)
#   --install=WORDS       what pip installs beside this checkout, for instance jax[cuda12]
#   --name=NAME           of the job (mpt)
#   --nodes=N             (1)
#   --gpus_per_node=N     one task is started for each, as JAX wants it on Slurm
#   --tasks_per_node=N    without GPUs (1)
#   --time=TIME           limit, as sbatch has it (4:00:00); mpt saves --grace seconds before and the job is requeued
#   --grace=SECONDS       (300)
#   --sbatch=WORDS        more for sbatch: --sbatch="--partition=spot --account=a"
#   --dry_run             print the commands
#
# Logs: work_dir/logs/NAME-JOB.log, each line with its task's number.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A option=(
    [work_dir]='' [stage]='' [mpt]='' [python]=python3.11 [install]='' [name]=mpt [nodes]=1 [gpus_per_node]=''
    [tasks_per_node]='' [time]='' [grace]=300 [sbatch]='' [dry_run]=''
)
required=(work_dir)
switches=(dry_run)
parse_options "$@"

# Where the folder is here, the disk is shared and mpt must be too; else it may be on the nodes alone.
check_mpt() {
    [[ -z ${option[install]} ]] || fail "--install is for the environment that is made without --mpt: leave one out"
    [[ $mpt == */* ]] && mpt=$(realpath -ms "$mpt") # it is called in work_dir
    type -P "$mpt" >/dev/null && return
    [[ ${option[dry_run]} || $mpt != /* || ! -d ${mpt%/*} ]] ||
        fail "--mpt=$mpt cannot be executed; expected an environment's, as in /shared/env/bin/mpt"
    warn "--mpt=$mpt is not on this machine; the nodes must have it"
}

check_python() {
    local check='import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'
    check_tools python3
    [[ ${option[dry_run]} ]] || "${option[python]}" -c "$check" &>/dev/null ||
        fail "--python=${option[python]}: expected a Python from 3.11 on that makes environments (python -m venv)"
}

check_name name
check_folder stage
check_counts nodes grace
tasks=1
for count in gpus_per_node tasks_per_node; do
    if [[ ${option[$count]} ]]; then check_counts "$count" && tasks=${option[$count]}; fi
done
[[ ${option[gpus_per_node]} && ${option[tasks_per_node]} ]] &&
    fail "give --gpus_per_node or --tasks_per_node: there is one task for each GPU"
[[ -z ${option[time]} || ${option[time]^^} =~ ^(([0-9]+-)?[0-9]+(:[0-9]+){0,2}|UNLIMITED|INFINITE)$ ]] ||
    fail "--time=${option[time]}: expected minutes, MINUTES:SECONDS, H:M:S, DAYS-H, DAYS-H:M, DAYS-H:M:S or UNLIMITED"
check_words $((option[nodes] * tasks)) '--nodes=1 and one task'
check_tools sbatch
mpt=${option[mpt]}
if [[ $mpt ]]; then check_mpt; else check_python; fi

work_dir=$(realpath -m "${option[work_dir]}")
run mkdir -p "$work_dir/logs"
[[ ${option[stage]} ]] && run cp -R "${option[stage]}/." "$work_dir/"
if [[ -z $mpt ]]; then
    mpt=$work_dir/env/bin/mpt
    build_wheel "$work_dir"
    run "${option[python]}" -m venv "$work_dir/env"
    read -ra install <<<"${option[install]}"
    run "$work_dir/env/bin/pip" install --quiet --force-reinstall --no-deps "$work_dir/$wheel"
    run "$work_dir/env/bin/pip" install --quiet "$work_dir/$wheel$(address_extras)" "${install[@]}"
fi

flags=(
    --parsable --job-name="${option[name]}" --nodes="${option[nodes]}" --ntasks-per-node="$tasks"
    --chdir="$work_dir" --output="$work_dir/logs/%x-%j.log" --open-mode=append --requeue
)
[[ ${option[gpus_per_node]} ]] && flags+=(--gpus-per-node="${option[gpus_per_node]}")
[[ ${option[time]} ]] && flags+=(--time="${option[time]}" --signal="TERM@${option[grace]}")
read -ra more <<<"${option[sbatch]}"
run sbatch "${flags[@]}" "${more[@]}" "$repository/launch/slurm_job.sh" "$mpt" "${words[@]}"

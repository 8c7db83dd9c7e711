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
#   --time=TIME           limit, as sbatch has it; mpt saves --grace seconds before and the job is requeued
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
check_name name
check_folder stage
check_counts nodes grace
tasks=1
for count in gpus_per_node tasks_per_node; do
    if [[ ${option[$count]} ]]; then check_counts "$count" && tasks=${option[$count]}; fi
done
[[ ${option[gpus_per_node]} && ${option[tasks_per_node]} ]] &&
    fail "give --gpus_per_node or --tasks_per_node: there is one task for each GPU"
check_words $((option[nodes] * tasks))

work_dir=$(realpath -m "${option[work_dir]}")
run mkdir -p "$work_dir/logs"
[[ ${option[stage]} ]] && run cp -R "${option[stage]}/." "$work_dir/"
mpt=${option[mpt]}
if [[ -z $mpt ]]; then
    mpt=$work_dir/env/bin/mpt
    build_wheel "$work_dir"
    run "${option[python]}" -m venv "$work_dir/env"
    read -ra install <<<"${option[install]}"
    run "$work_dir/env/bin/pip" install --quiet --force-reinstall --no-deps "$work_dir/$wheel"
    run "$work_dir/env/bin/pip" install --quiet "$work_dir/$wheel$(address_extras)" "${install[@]}"
elif [[ -z ${option[dry_run]} ]]; then
    [[ -x $mpt ]] || fail "--mpt=$mpt cannot be executed"
fi

flags=(
    --parsable --job-name="${option[name]}" --nodes="${option[nodes]}" --ntasks-per-node="$tasks"
    --chdir="$work_dir" --output="$work_dir/logs/%x-%j.log" --open-mode=append --requeue
)
[[ ${option[gpus_per_node]} ]] && flags+=(--gpus-per-node="${option[gpus_per_node]}")
[[ ${option[time]} ]] && flags+=(--time="${option[time]}" --signal="TERM@${option[grace]}")
read -ra more <<<"${option[sbatch]}"
run sbatch "${flags[@]}" "${more[@]}" "$repository/launch/slurm_job.sh" "$mpt" "${words[@]}"

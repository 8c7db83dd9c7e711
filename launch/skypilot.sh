#!/usr/bin/env bash
# Runs an mpt command as a SkyPilot managed job, which finds machines on any cloud and others when they are lost.
#
#   launch/skypilot.sh --name=NAME --accelerators=WHICH --bucket=URL [options] -- COMMAND...
#
#   --name=NAME            of the job
#   --accelerators=WHICH   as in H100:8, or tpu-v5litepod-16 (a slice of several hosts)
#   --bucket=URL           gs://, s3:// or another store of SkyPilot's, mounted as /mnt/mpt: mpt runs in it
#   --nodes=N              (1); a TPU slice is one
#   --infra=WHERE          as in gcp/us-west4 or kubernetes; SkyPilot's choice else
#   --spot                 machines that may be taken away
#   --stage=DIR            a folder (gin files, tasks, backbone) whose content is copied to where mpt runs
#   --install=WORDS        what pip installs beside this checkout (jax[tpu] on TPUs, jax[cuda12] else)
#   --dry_run              print the commands and the task
#
# Logs: sky jobs logs --follow --name NAME, until then here.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A option=(
    [name]='' [accelerators]='' [bucket]='' [nodes]=1 [infra]='' [spot]='' [stage]='' [install]='' [dry_run]=''
)
required=(name accelerators bucket)
switches=(spot dry_run)
parse_options "$@"
check_name name
check_counts nodes
check_folder stage
[[ ${option[accelerators]} =~ ^[-A-Za-z0-9]+(:[1-9][0-9]*)?$ ]] ||
    fail "--accelerators=${option[accelerators]}: expected one like H100:8 or tpu-v5litepod-16"
[[ ${option[bucket]} =~ ^[a-z0-9]+://. ]] || fail "--bucket=${option[bucket]}: expected one like gs://NAME"
tpu=''
[[ ${option[accelerators]} == tpu-* ]] && tpu=yes
[[ $tpu ]] && ((option[nodes] > 1)) && fail "--nodes=${option[nodes]}: a TPU slice is one node"
hosts=${option[nodes]}
size=${option[accelerators]%%:*}
[[ $tpu ]] && ((${size##*-} > 8)) && hosts=2 # or more: what matters is that there are several
check_words "$hosts" '--nodes=1; of a TPU, 8 at most'
check_tools sky python3

if [[ $tpu ]]; then install='jax[tpu]'; else install='jax[cuda12]'; fi
read -ra install <<<"${option[install]:-$install}"
several=''
if ((hosts > 1)) && [[ $tpu ]]; then
    several=' --multiprocess'
elif ((hosts > 1)); then
    several=" --coordinator_address=\"\$(head -n 1 <<<\"\$SKYPILOT_NODE_IPS\"):9911\""
    several+=" --process_count=\"\$SKYPILOT_NUM_NODES\" --process_index=\"\$SKYPILOT_NODE_RANK\""
fi
stage=''
if [[ ${option[stage]} ]]; then
    stage="
  ~/mpt_staged: $(json "$(realpath "${option[stage]}")")"
fi
copy=''
# shellcheck disable=SC2016
[[ $stage ]] && copy='
  if [ "$SKYPILOT_NODE_RANK" = 0 ]; then cp -R ~/mpt_staged/. /mnt/mpt/; fi'
infra=''
[[ ${option[infra]} ]] && infra="
  infra: $(json "${option[infra]}")"
spot=''
[[ ${option[spot]} ]] && spot='
  use_spot: true'

# 75 is mpt's "saved; the same command goes on"; a lost machine is replaced whatever the others' commands ended with.
task() {
    cat <<END
name: ${option[name]}
num_nodes: ${option[nodes]}
resources:
  accelerators: ${option[accelerators]}$infra$spot
  job_recovery:
    max_restarts_on_errors: 0
    recover_on_exit_codes: [75]
file_mounts:
  /mnt/mpt:
    source: $(json "${option[bucket]}")
    mode: MOUNT
  ~/mpt_dist: $(json "$local_files")$stage
setup: |
  python3 -m pip install --quiet --user uv
  ~/.local/bin/uv venv --quiet --clear --python 3.11 ~/mpt_env
  ~/.local/bin/uv pip install --quiet --python ~/mpt_env/bin/python ~/mpt_dist/$(quoted "$wheel$(address_extras)") $(quoted "${install[@]}")
run: |$copy
  cd /mnt/mpt
  ~/mpt_env/bin/mpt $(quoted "${words[@]}")$several
END
}

local_files=$(mktemp -d)
trap 'rm -rf "$local_files"' EXIT
build_wheel "$local_files"
if [[ ${option[dry_run]} ]]; then
    run sky jobs launch --yes --name "${option[name]}" task.yaml
    task
else
    task >"$local_files/task.yaml"
    sky jobs launch --yes --name "${option[name]}" "$local_files/task.yaml"
fi

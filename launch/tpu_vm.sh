#!/usr/bin/env bash
# Runs an mpt command on every host of a Cloud TPU: a VM, a pod slice, or several slices as one machine.
#
#   launch/tpu_vm.sh --name=NAME --zone=ZONE --type=TYPE --version=VERSION [options] -- COMMAND...
#
#   --name=NAME         of the queued resource that is made, and deleted at the end
#   --zone=ZONE         as in us-west4-a
#   --type=TYPE         accelerator type, as in v5litepod-16
#   --version=VERSION   runtime version, as in v2-alpha-tpuv5-lite
#   --project=PROJECT   gcloud's own default else
#   --slices=N          (1)
#   --spot              cheap machines that may be taken away; they are asked for again
#   --nfs=SERVER:/PATH  a shared folder (Filestore), mounted as /mnt/mpt; mpt runs in it. Several hosts need it,
#                       or a MODEL_DIR in a bucket: --model_dir=gs://BUCKET/FOLDER
#   --stage=DIR         a folder (gin files, tasks, backbone) whose content is copied to where mpt runs
#   --max_restarts=N    (20)
#   --poll=SECONDS      (30)
#   --keep              leave the machines on at the end
#   --dry_run           print the commands
#
# mpt runs detached from the connection. Logs come to ./NAME-logs, one file a host. Stopped with Ctrl-C, this script
# leaves the machines on and mpt running; given again, it finds both and goes on.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A option=(
    [name]='' [zone]='' [type]='' [version]='' [project]='' [slices]=1 [spot]='' [nfs]='' [stage]='' [keep]=''
    [max_restarts]=20 [poll]=30 [dry_run]=''
)
required=(name zone type version)
switches=(spot keep dry_run)
parse_options "$@"
check_name name
check_counts slices max_restarts poll
check_folder stage
[[ ${option[zone]} =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || fail "--zone=${option[zone]}: expected one like us-west4-a"
[[ ${option[type]} =~ ^v[0-9][a-z]*-[0-9]+$ ]] || fail "--type=${option[type]}: expected one like v5litepod-16"
[[ -z ${option[nfs]} || ${option[nfs]} =~ ^[-.a-z0-9]+:/.+$ ]] ||
    fail "--nfs=${option[nfs]}: expected SERVER:/PATH"
several=()
if ((option[slices] > 1 || ${option[type]##*-} > 8)); then # up to 8, whether chips or cores, are one host
    several=(--multiprocess)
    check_words 2 '--slices=1 and a --type of 8 at most'
    [[ ${option[nfs]} ]] || model_dir_is_address ||
        fail "several hosts need --nfs=SERVER:/PATH or --model_dir=gs://..., for a MODEL_DIR that all of them see"
else
    check_words 1
fi
check_tools gcloud python3

name=${option[name]}
place=(--zone="${option[zone]}")
[[ ${option[project]} ]] && place+=(--project="${option[project]}")
resources=(gcloud compute tpus queued-resources)
folder=\$HOME/mpt_work
[[ ${option[nfs]} ]] && folder=/mnt/mpt
local_files=$(mktemp -d)
trap 'rm -rf "$local_files"' EXIT

on_hosts() { run "${resources[@]}" ssh "$name" "${place[@]}" --node=all --worker=all --batch-size=all --command="$1"; }
staged=(--node=all --worker=all --batch-size=all) # where files are staged
[[ ${option[nfs]} ]] && staged=(--node=0 --worker=0)
state() { "${resources[@]}" describe "$name" "${place[@]}" --format='value(state.state)'; }

create() {
    local flags=(--accelerator-type="${option[type]}" --runtime-version="${option[version]}")
    if ((option[slices] > 1)); then
        flags+=(--node-count="${option[slices]}" --node-prefix="$name")
    else
        flags+=(--node-id="$name")
    fi
    [[ ${option[spot]} ]] && flags+=(--spot)
    run "${resources[@]}" create "$name" "${place[@]}" "${flags[@]}"
}

delete() { run "${resources[@]}" delete "$name" "${place[@]}" --force --quiet; }

# Waits for the machines; asks for them again when they were taken away.
obtain() {
    local now
    until [[ ${now:=$(state 2>/dev/null || echo ABSENT)} == ACTIVE ]]; do
        echo "$(date '+%F %T') $name: $now"
        case $now in
            ABSENT) create ;;
            SUSPENDED | FAILED) delete ;;
            *) sleep "${option[poll]}" ;;
        esac
        now=''
    done
}

# mpt in a Python of its own on each host, and the staged files where it runs.
prepare() {
    local mount=''
    build_wheel "$local_files"
    run "${resources[@]}" scp "$local_files/$wheel" "$name:" "${place[@]}" --node=all --worker=all --batch-size=all
    [[ ${option[nfs]} ]] && mount="sudo apt-get install -y -q nfs-common && sudo mkdir -p $folder &&
        { mountpoint -q $folder || sudo mount -t nfs $(quoted "${option[nfs]}") $folder; } &&
        sudo chmod 777 $folder &&"
    on_hosts "set -e; $mount mkdir -p $folder; python3 -m pip install --quiet --user uv
        ~/.local/bin/uv venv --quiet --clear --python 3.11 ~/mpt_env
        ~/.local/bin/uv pip install --quiet --python ~/mpt_env/bin/python $(quoted "./$wheel$(address_extras)") 'jax[tpu]'"
    [[ ${option[stage]} ]] || return 0
    run "${resources[@]}" scp --recurse "${option[stage]}" "$name:mpt_staged" "${place[@]}" "${staged[@]}"
    run "${resources[@]}" ssh "$name" "${place[@]}" "${staged[@]}" --command="cp -R mpt_staged/. $folder/"
}

# Detached, so that a lost connection (which gcloud would answer by running the command again) does not matter.
# What is noted in /dev/shm is gone after a reboot.
start() {
    local mpt
    mpt="\$HOME/mpt_env/bin/mpt $(quoted "${words[@]}" "${several[@]}")"
    on_hosts "cd $folder && mkdir -p $name-logs && rm -f /dev/shm/mpt.exit && {
        setsid nohup bash -c $(quoted "$mpt; echo \$? >/dev/shm/mpt.exit") >>$name-logs/\$(hostname).log 2>&1 </dev/null &
        echo \$! >/dev/shm/mpt.pid; }"
}

# One line a host: its exit code, "running", or "lost" where mpt is gone without one.
poll() {
    # shellcheck disable=SC2016
    on_hosts 'if test -e /dev/shm/mpt.exit; then code=$(cat /dev/shm/mpt.exit)
        elif kill -0 "$(cat /dev/shm/mpt.pid 2>/dev/null)" 2>/dev/null; then code=running; else code=lost; fi
        echo "mpt-on-host $code"'
}

# The hosts' answers, one a line; nothing where gcloud reached none.
answers() { { poll 2>/dev/null || true; } | sed -n 's/^mpt-on-host //p'; }

# Waits until mpt has ended on all hosts. Prints an exit code, or "lost" where machines are.
watch() {
    local hosts=0 silent=0 found count
    while sleep "${option[poll]}"; do
        found=$(answers)
        count=$(grep -c . <<<"$found" || true)
        if ((count < hosts || count == 0)); then
            # Four times in a row: a host that does not answer, or machines that were taken away.
            if ((++silent == 4)) || [[ $(state 2>/dev/null) == SUSPEND* ]]; then echo lost && return; fi
            continue
        fi
        hosts=$count silent=0
        if grep -q running <<<"$found"; then continue; fi
        if grep -q lost <<<"$found"; then echo lost && return; fi
        # 75 only where no host has another failure.
        if grep -qvx -e 0 -e 75 <<<"$found"; then
            grep -vx -e 0 -e 75 <<<"$found" | sort -n | tail -1
        else
            sort -n <<<"$found" | tail -1
        fi
        return
    done
}

gather() {
    run "${resources[@]}" scp --recurse "$name:${folder/#\$HOME\//}/$name-logs" . "${place[@]}" --node=0 --worker=0
}

if [[ ${option[dry_run]} ]]; then
    create && prepare && start && poll && gather
    [[ ${option[keep]} ]] || delete
    exit
fi

restarts=0
obtain
while :; do
    if ! answers | grep -q running; then prepare && start; fi
    outcome=$(watch)
    gather || true
    echo "$(date '+%F %T') $name: mpt ended: $outcome"
    if [[ $outcome != 75 && $outcome != lost ]]; then break; fi
    if ((++restarts > option[max_restarts])); then break; fi
    if [[ $outcome == lost ]]; then delete || true; fi
    obtain
done
[[ ${option[keep]} ]] || delete
[[ $outcome == lost ]] && exit 1
exit "$outcome"

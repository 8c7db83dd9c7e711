#!/usr/bin/env bash
# Runs an mpt command on Kubernetes as a JobSet: one pod for each host, all started again when one is lost.
#
#   launch/kubernetes.sh --name=NAME --image=IMAGE --claim=NAME:/PATH [options] -- COMMAND...
#
#   --name=NAME            of the JobSet
#   --image=IMAGE          with mpt and its JAX in it; --build makes one
#   --claim=NAME:/PATH     a PersistentVolumeClaim that all pods mount, and mpt runs in: data, backbone, MODEL_DIR. May
#                          be left out where MODEL_DIR is an address (gs://, s3://) and nothing is staged
#   --build                build it from this checkout (launch/Dockerfile) and push it
#   --install=WORDS        what pip installs beside mpt when it builds: jax[tpu] or jax[cuda12]
#   --hosts=N              pods of a slice (1)
#   --slices=N             (1); more than one need --tpu
#   --tpu=TYPE:TOPOLOGY    GKE's names, as in tpu-v5-lite-podslice:4x4; --chips of them in each pod
#   --chips=N              of a pod (4)
#   --gpus=N               of a pod, instead of --tpu
#   --spot                 GKE's spot nodes
#   --stage=DIR            a folder (gin files, tasks, data) whose content is copied to the claim first
#   --max_restarts=N       (20)
#   --namespace=NAME       (default)
#   --dry_run              print the commands and the manifest
#
# Waits for the end; the pods' logs come to ./NAME-logs. Needs JobSet 0.6 or later.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A option=(
    [name]='' [image]='' [build]='' [install]='' [hosts]=1 [slices]=1 [tpu]='' [chips]=4 [gpus]='' [spot]=''
    [claim]='' [stage]='' [max_restarts]=20 [namespace]=default [dry_run]=''
)
required=(name image)
switches=(build spot dry_run)
parse_options "$@"
check_name name
check_name namespace
check_counts hosts slices chips max_restarts
check_folder stage
[[ ${option[gpus]} ]] && check_counts gpus
[[ ${option[gpus]} && ${option[tpu]} ]] && fail "give --tpu or --gpus"
[[ -z ${option[tpu]} || ${option[tpu]} =~ ^[-a-z0-9]+:[0-9]+x[0-9]+(x[0-9]+)?$ ]] ||
    fail "--tpu=${option[tpu]}: expected TYPE:TOPOLOGY, as in tpu-v5-lite-podslice:4x4"
[[ ${option[install]} && ! ${option[build]} ]] &&
    fail "--install is for --build, which makes the image: give both, or an image that has ${option[install]} in it"
[[ -z ${option[claim]} || ${option[claim]} =~ ^[a-z0-9]([-.a-z0-9]*[a-z0-9])?:/[^:]+$ ]] ||
    fail "--claim=${option[claim]}: expected NAME:/PATH"
((option[slices] == 1)) || [[ ${option[tpu]} ]] || fail "--slices=${option[slices]} needs --tpu"
processes=$((option[hosts] * option[slices]))
check_words "$processes" '--hosts=1 --slices=1'
if [[ -z ${option[claim]} ]]; then
    model_dir_is_address ||
        fail "--claim=VALUE is missing: MODEL_DIR must be on a volume (--claim=NAME:/PATH) or an address (gs://, s3://)"
    [[ -z ${option[stage]} ]] || fail "--claim=VALUE is missing: --stage copies to a volume (--claim=NAME:/PATH)"
fi
tools=(kubectl)
[[ ${option[build]} ]] && tools+=(docker python3)
check_tools "${tools[@]}"
name=${option[name]} claim=${option[claim]%%:*} folder=${option[claim]#*:}

# On TPUs JAX finds the others by what GKE puts into the pods; elsewhere the first pod has a fixed name, and each
# knows its number.
several=()
environment=''
if ((processes > 1)) && [[ ${option[tpu]} ]]; then
    several=(--multiprocess)
elif ((processes > 1)); then
    several=("--coordinator_address=$name-hosts-0-0.$name:9911" "--process_count=$processes")
    several+=("--process_index=\$(INDEX)")
    environment='
              env:
              - name: INDEX
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations['"'batch.kubernetes.io/job-completion-index'"']'
fi
# Kubernetes replaces $(NAME) in words; $$(NAME) stands for itself.
command=''
for word in mpt "${words[@]//\$(/\$\$(}" "${several[@]}"; do command+="${command:+, }$(json "$word")"; done

selectors=''
[[ ${option[tpu]} ]] && selectors+="
              cloud.google.com/gke-tpu-accelerator: ${option[tpu]%%:*}
              cloud.google.com/gke-tpu-topology: ${option[tpu]#*:}"
[[ ${option[spot]} ]] && selectors+='
              cloud.google.com/gke-spot: "true"'
[[ $selectors ]] && selectors="
            nodeSelector:$selectors"
limits=''
[[ ${option[tpu]} ]] && limits="google.com/tpu: ${option[chips]}"
[[ ${option[gpus]} ]] && limits="nvidia.com/gpu: ${option[gpus]}"
[[ $limits ]] && limits="
              resources:
                limits:
                  $limits"
mounts='' volumes=''
[[ $claim ]] && mounts="
              workingDir: $folder
              volumeMounts:
              - name: work
                mountPath: $folder"
[[ $claim ]] && volumes="
            volumes:
            - name: work
              persistentVolumeClaim:
                claimName: $claim"
exclusive=''
((option[slices] > 1)) && exclusive='
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool'

# A pod that ends with 1 or 2 would do so again: the whole set has failed. Any other end (75, a lost node, an
# abort because another was lost) starts all pods again, and mpt goes on from its last checkpoint.
manifest() {
    cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  namespace: ${option[namespace]}$exclusive
spec:
  failurePolicy:
    maxRestarts: ${option[max_restarts]}
    restartStrategy: BlockingRecreate
    rules:
    - name: wrongInput
      action: FailJobSet
      onJobFailureReasons:
      - PodFailurePolicy
  replicatedJobs:
  - name: hosts
    replicas: ${option[slices]}
    template:
      spec:
        backoffLimit: 0
        completionMode: Indexed
        completions: ${option[hosts]}
        parallelism: ${option[hosts]}
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              containerName: mpt
              operator: In
              values: [1, 2]
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 120$selectors
            containers:
            - name: mpt
              image: ${option[image]}
              command: [$command]$environment$limits$mounts$volumes
END
}

# A pod that only holds the claim while kubectl copies into it.
stage() {
    local pod=$name-stage volume mount container
    volume="{\"name\": \"work\", \"persistentVolumeClaim\": {\"claimName\": $(json "$claim")}}"
    mount="{\"name\": \"work\", \"mountPath\": $(json "$folder")}"
    container="{\"name\": \"$pod\", \"image\": $(json "${option[image]}"), \"command\": [\"sleep\", \"3600\"],"
    container+=" \"volumeMounts\": [$mount]}"
    "${kubectl[@]}" run "$pod" --image="${option[image]}" --restart=Never \
        --overrides="{\"apiVersion\": \"v1\", \"spec\": {\"volumes\": [$volume], \"containers\": [$container]}}"
    "${kubectl[@]}" wait --for=condition=Ready --timeout=10m "pod/$pod"
    "${kubectl[@]}" cp "${option[stage]}/." "$pod:$folder"
    "${kubectl[@]}" delete pod "$pod" --wait=false
}

# Until the set has ended, whatever its pods print. After a restart they are new ones, with other names.
follow() {
    local state='' pods='' followed='' log=$name-logs/mpt.log
    local of=(--selector="jobset.sigs.k8s.io/jobset-name=$name")
    mkdir -p "$name-logs"
    until [[ $state ]]; do
        pods=$("${kubectl[@]}" get pods "${of[@]}" --output=name || true)
        if [[ $pods && $pods != "$followed" ]] &&
            "${kubectl[@]}" logs --follow --prefix --tail=-1 "${of[@]}" --max-log-requests="$processes" >>"$log"; then
            followed=$pods
        fi
        sleep 10
        state=$("${kubectl[@]}" get jobset "$name" --output='jsonpath={.status.terminalState}' || true)
    done
    echo "$name: $state; the log is $log"
    [[ $state == Completed ]]
}

kubectl=(run kubectl --namespace="${option[namespace]}")
if [[ ${option[build]} ]]; then
    local_files=$(mktemp -d)
    trap 'rm -rf "$local_files"' EXIT
    build_wheel "$local_files"
    run docker build --file="$repository/launch/Dockerfile" --build-arg=INSTALL="${option[install]}" \
        --tag="${option[image]}" "$local_files"
    run docker push "${option[image]}"
fi
[[ ${option[stage]} ]] && stage
if [[ ${option[dry_run]} ]]; then
    run kubectl create --filename=-
    manifest
else
    manifest | kubectl create --filename=-
    kubectl=(kubectl --namespace="${option[namespace]}")
    follow
fi

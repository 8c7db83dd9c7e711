# shellcheck shell=bash disable=SC2034,SC2154  # variables come from, or are for, the sourcing script
# What the launchers share; each sources it and declares its options before it calls parse_options.
#
#   declare -A option=([name]= [hosts]=1)   names and defaults of --name=VALUE
#   required=(name)                         those that must be given
#   switches=(spot)                         those that need no value: "" or "yes"
#
# parse_options then fills `option`, and `words` with the mpt command after `--`.

# The commands of mpt (a test compares them with mpt_jax/cli.py): those that several processes may run, and the rest.
on_several=(quickstart run teach distill adapt evaluate)
on_one=(
    pretrain infer convert import export add-task merge combine params paper compare plan sweep tasks show
)

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
words=()

fail() {
    printf '%s: error: %s\n' "$(basename "$0")" "$1" >&2
    exit "${2:-2}"
}

warn() { printf '%s: warning: %s\n' "$(basename "$0")" "$1" >&2; }

listed() {
    local text
    printf -v text '%s, ' "$@"
    printf '%s' "${text%, }"
}

# The comment at the top of the script, without its first line.
show_usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"; }

contains() {
    local wanted=$1 one
    shift
    for one; do [[ $one == "$wanted" ]] && return; done
    return 1
}

parse_options() {
    local word name
    while (($#)); do
        word=$1
        shift
        case $word in
            -h | --help) show_usage && exit ;;
            --) words=("$@") && break ;;
            --*=*)
                name=${word%%=*}
                name=${name#--}
                contains "$name" "${!option[@]}" || fail "unknown option --$name; --help lists them"
                if contains "$name" "${switches[@]}"; then fail "--$name takes no value"; fi
                [[ $word == *$'\n'* ]] && fail "--$name has more than one line"
                option["$name"]=${word#*=}
                ;;
            --*)
                name=${word#--}
                contains "$name" "${!option[@]}" || fail "unknown option $word; --help lists them"
                contains "$name" "${switches[@]}" || fail "give $word a value: $word=VALUE"
                option["$name"]=yes
                ;;
            *) fail "$word is no option; the mpt command stands after --, as in: -- teach --model_dir=DIR" ;;
        esac
    done
    for name in "${required[@]}"; do [[ ${option[$name]} ]] || fail "--$name=VALUE is missing"; done
}

# Whole numbers from 1 on.
check_counts() {
    local name
    for name; do
        [[ ${option[$name]} =~ ^[1-9][0-9]{0,6}$ ]] ||
            fail "--$name=${option[$name]}: expected a whole number from 1 on"
    done
}

# Names that every one of these systems takes.
check_name() {
    [[ ${option[$1]} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
        fail "--$1=${option[$1]}: expected small letters, digits and -, from a letter on, 40 at most"
}

check_folder() {
    [[ -z ${option[$1]} || -d ${option[$1]} ]] || fail "--$1=${option[$1]} is no folder"
}

# The tools that the script will call. A dry run calls none of them.
check_tools() {
    local tool source
    [[ ${option[dry_run]} ]] && return
    for tool; do
        case $tool in
            docker) source='Docker Engine (its page "Install Docker Engine"; docker.io in Debian and Ubuntu)' ;;
            gcloud) source='the Google Cloud CLI (its page "Install the gcloud CLI")' ;;
            kubectl) source='Kubernetes (its page "Install Tools")' ;;
            python3) source='Python (python3 in Debian and Ubuntu)' ;;
            sbatch) source='Slurm (slurm-client in Debian and Ubuntu), which a login node of the cluster has' ;;
            sky) source='SkyPilot (pip install skypilot, with the clouds that its page "Installation" names)' ;;
        esac
        type -P "$tool" >/dev/null || fail "$tool is not on this machine: it is a part of $source"
    done
    if contains python3 "$@" && ! python3 -m pip --version &>/dev/null; then
        fail "python3 has no pip, which builds mpt's wheel (python3-pip in Debian and Ubuntu)"
    fi
}

# The mpt command: $1 is the number of processes that will run it, $2 says which options make it one.
check_words() {
    local word
    ((${#words[@]})) || fail "the mpt command is missing; it stands after --, as in: -- teach --model_dir=DIR"
    [[ ${words[0]} == mpt ]] && fail "the command stands after -- without mpt"
    contains "${words[0]}" "${on_several[@]}" "${on_one[@]}" ||
        fail "${words[0]} is no command of mpt; after -- comes one of $(listed "${on_several[@]}" "${on_one[@]}")"
    if (($1 > 1)) && contains "${words[0]}" "${on_one[@]}"; then
        word="give it one host ($2)"
        [[ ${words[0]} == sweep ]] && word+=", and start it again under another --name for each further host"
        fail "mpt ${words[0]} is for one process: $word; several hosts take $(listed "${on_several[@]}")"
    fi
    for word in "${words[@]}"; do
        [[ $word == *$'\n'* ]] && fail "a word of the mpt command has more than one line: $word"
        case $word in
            --multiprocess | --coordinator_address* | --process_*) fail "$word is given by this script" ;;
        esac
    done
    for word in "${words[@]}"; do
        [[ $word == --model_dir=?* || $word == --gin.MODEL_DIR=?* ]] && return
    done
    fail "the mpt command has no --model_dir=DIR: a run that is stopped needs it to go on"
}

# Extras of mpt_jax that the addresses in the command need, as pip reads them behind a wheel's name.
address_extras() {
    local wanted=()
    [[ ${words[*]} == *gs://* ]] && wanted+=(gcs)
    [[ ${words[*]} == *s3://* ]] && wanted+=(s3)
    ((${#wanted[@]})) || return 0
    local IFS=,
    printf '[%s]' "${wanted[*]}"
}

# Whether MODEL_DIR is in a bucket, which all hosts see.
model_dir_is_address() {
    local word
    for word in "${words[@]}"; do
        [[ $word =~ ^--(model_dir=|gin\.MODEL_DIR=\'|gin\.MODEL_DIR=\")(gs|s3):// ]] && return 0
    done
    return 1
}

# Runs a command, or prints it as it would be typed.
run() {
    if [[ ${option[dry_run]} ]]; then
        printf '%s\n' "$(quoted "$@")"
    else
        "$@"
    fi
}

# Words as a shell reads them back.
quoted() {
    local text
    printf -v text '%q ' "$@"
    printf '%s' "${text% }"
}

# A string in JSON, which is YAML too.
json() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "${text//$'\t'/\\t}"
}

# This checkout as one file in folder $1, so that later edits do not reach a run; sets `wheel`, its name.
build_wheel() {
    local version
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$repository/pyproject.toml")
    wheel=mpt_jax-$version-py3-none-any.whl
    run python3 -m pip wheel --quiet --no-deps --wheel-dir "$1" "$repository"
}

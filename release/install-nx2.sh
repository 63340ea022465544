#!/usr/bin/env bash
# Cut the twin to one file that fits a card, and write a launcher for it. From an address, only what goes into that file
# is fetched. A step that was done before is not done again, so that an interrupted run goes on when it is repeated.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh FILE
set -euo pipefail
unset CDPATH # it lets cd print, and go elsewhere

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
dual=$here/'{{ twin.name }}'
built=$here/build/out/bin
out=
vram=
ctx=
backend=
keeps=
deletes=
yes=

usage() {
    cat <<'EOF'
usage: install-nx2.sh [--vram-gib N] [--ctx N] [--backend sycl|vulkan|cuda|hip|cpu] [--dual PATH|URL] [--out PATH] [--keep-dual | --delete-dual] [--yes]

  --vram-gib N   memory of the card in GiB, such as 16, or of several in the engine's order, such as 16,12 (what the
                 engine lists; the drivers are asked where it is not built)
  --ctx N        tokens of context to leave room for (8192)
  --backend B    where the engine is built for several: the one that the launcher takes (the faster one, if run-nx2.sh
                 has measured that)
  --dual PATH    the twin (the one beside this script); or where to fetch from: https://..., hf://OWNER/REPOSITORY/FILE
  --out PATH     the file to write (the twin's name with the size or -fitted, beside the twin; beside this script if it
                 is fetched)
  --keep-dual    keep the twin (default)
  --delete-dual  delete the twin when the fitted file has been compared with it, and with manifest.json beside it, and
                 the engine has loaded the file
  --yes          ask nothing; also set up a Python environment beside this script if a package is missing

Writes the fitted file and a launcher run-<fitted file>.sh beside it. Interrupted, it goes on when it is called again.
EOF
}

fail() {
    printf 'install-nx2.sh: %s\n' "$*" >&2
    exit 1
}

# The program $1 with its folder, as far as it can be found; the launcher has this function, too.
find_tool() {
    if [[ $1 == */* ]]; then
        printf '%s' "$1"
    elif [[ -n ${NX2_BIN:-} ]]; then
        printf '%s' "$NX2_BIN/$1"
    elif [[ -x $built/$1 ]]; then
        printf '%s' "$built/$1"
    else
        command -v "$1" || printf '%s' "$1"
    fi
}

# The runtime that a SYCL build needs; its script does not bear strict mode. The launcher has this function, too.
set_up_oneapi() {
    if ! command -v sycl-ls >/dev/null && [[ -r ${ONEAPI_ROOT:-/opt/intel/oneapi}/setvars.sh ]]; then
        set +eu
        # shellcheck source=/dev/null
        source "${ONEAPI_ROOT:-/opt/intel/oneapi}/setvars.sh" --force >/dev/null 2>&1
        set -eu
    fi
}

# The launcher of $out, with the engine's options $@.
launcher_text() {
    cat <<'EOF'
#!/usr/bin/env bash
# Start the engine on the fitted file as it was fitted for; arguments go to the engine and win over that. NX2_* work
# as in run-nx2.sh.
# shellcheck disable=SC1091
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
EOF
    printf 'model=%q\n' "$out"
    printf 'options=('
    (($# == 0)) || printf "'%s' " "$@"
    printf ')\n'
    printf 'built=%q\n' "$built"
    declare -f find_tool set_up_oneapi
    cat <<'EOF'
tool=$(find_tool "${NX2_TOOL:-llama-server}")
if ! command -v "$tool" >/dev/null; then
    printf 'no program %s; run build/build.sh first, or set NX2_BIN\n' "$tool" >&2
    exit 1
fi
set_up_oneapi
exec "$tool" -m "$model" -ngl "${NX2_NGL:-999}" "${options[@]}" "$@"
EOF
}

packages=(gguf numpy)

# A Python that can run prune-dual.py.
find_python() {
    local candidate imports
    imports=$(printf ', %s' "${packages[@]}")
    for candidate in "$here/.venv/bin/python" python3 python; do
        if "$candidate" -c "import sys$imports; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1; then
            printf '%s' "$candidate"
            return
        fi
    done
    command -v python3 >/dev/null || fail "python3 is missing; install Python 3.11 or newer (Debian, Ubuntu: apt install python3 python3-venv)"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$(python3 --version 2>&1) is too old; Python 3.11 or newer is needed"
    [[ -n $yes ]] ||
        fail "some of the Python packages ${packages[*]} are missing; run: python3 -m pip install ${packages[*]} (or pass --yes for an environment in $here/.venv)"
    python3 -m venv "$here/.venv" >&2 || fail "cannot make $here/.venv (Debian, Ubuntu: apt install python3-venv)"
    "$here/.venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" >&2 ||
        fail "pip could not install ${packages[*]} in $here/.venv"
    printf '%s' "$here/.venv/bin/python"
}

while (($#)); do
    case $1 in
        --vram-gib | --ctx | --backend | --dual | --out)
            [[ -n ${2-} ]] || fail "$1 needs a value"
            case $1 in
                --backend) backend=$2 ;;
                --vram-gib) vram=$2 ;;
                --ctx) ctx=$2 ;;
                --dual) dual=$2 ;;
                --out) out=$2 ;;
            esac
            shift 2
            ;;
        --keep-dual)
            keeps=yes
            shift
            ;;
        --delete-dual)
            deletes=yes
            shift
            ;;
        --yes)
            yes=yes
            shift
            ;;
        -h | --help)
            usage
            exit
            ;;
        *) fail "unknown option '$1'; see --help" ;;
    esac
done

[[ $vram =~ ^([0-9]+(\.[0-9]+)?(,[0-9]+(\.[0-9]+)?)*)?$ ]] || fail "--vram-gib is '$vram'; it must be a number such as 16, or several: 16,12"
[[ $ctx =~ ^([1-9][0-9]*)?$ ]] || fail "--ctx is '$ctx'; it must be a number of tokens such as 8192"
[[ $backend != cpu || -n $vram ]] || fail "--backend cpu goes with --vram-gib: there is no card whose memory could be asked for"
[[ -z $keeps || -z $deletes ]] || fail "--keep-dual and --delete-dual exclude each other"
if [[ $dual =~ ^(https?|hf):// ]]; then
    [[ -z $deletes ]] || fail "--delete-dual is for a twin on this disk; $dual is an address"
    fetched=yes
    kept="run again to go on with what was fetched"
    packages+=(requests)
    name=${dual%%[?#]*}
    if [[ $dual == hf://* ]]; then
        packages+=(huggingface_hub)
        # the revision follows the file, or the repository
        [[ $name =~ ^hf://[^/]+/[^/@]+@ ]] || name=${name%%@*}
    fi
    name=$here/${name##*/}
else
    fetched=
    kept="the twin is as it was"
    [[ -f $dual ]] || fail "no twin at $dual; give its path or address with --dual"
    name=$dual
fi
if [[ -n $deletes ]]; then
    # removing a link would free nothing
    [[ ! -L $dual ]] || fail "--delete-dual: $dual is a link; pass the file itself: --dual $(readlink -f "$dual")"
    loader=$(find_tool llama-completion)
    command -v "$loader" >/dev/null ||
        fail "--delete-dual loads the fitted file first and there is no $loader; run build/build.sh, or set NX2_BIN"
fi
# the launcher knows which cards those are
devices=
if [[ -n $backend || -e $here/.backend ]]; then
    said=$(bash "$here/run-nx2.sh" ${backend:+--backend "$backend"} --describe) || fail "nothing was written"
    while read -r key card _; do
        [[ $key != card: ]] || devices+=${devices:+,}$card
    done <<<"$said"
    [[ $backend != cpu ]] || devices=none
fi
suffix=fitted
[[ -z $vram ]] || suffix=${vram//,/+}gib
[[ -n $out ]] || out=${name%.gguf}-$suffix.gguf
folder=$(cd -- "$(dirname -- "$out")" && pwd -P) || fail "the folder of $out does not exist"
out=$folder/$(basename -- "$out")
launcher=$folder/run-$(basename "$out" .gguf).sh

python=$(find_python)
prune=("$python" "$here/prune-dual.py" --dual "$dual" --out "$out" --resume --vram-gib "${vram:-auto}")
[[ -z $ctx ]] || prune+=(--ctx "$ctx")
if [[ -n $vram ]]; then
    printf 'What fits %s GiB:\n' "$vram"
else
    set_up_oneapi
    engine=$(find_tool llama-server)
    ! command -v "$engine" >/dev/null || prune+=(--engine "$engine" ${devices:+-dev "$devices"})
    printf 'What fits the cards that were found:\n'
fi
proposal=$("${prune[@]}" --dry-run) || fail "nothing was written"
printf '%s\n' "$proposal"
# what the file is fitted for: context, caches, and which card gets which layers
read -r -a options <<<"$(sed -n 's/^start the engine with: //p' <<<"$proposal")"
[[ -z $devices || " ${options[*]} " == *' -dev '* ]] || options+=(-dev "$devices")
text=$(launcher_text "${options[@]}")
[[ ! -e $launcher || $(<"$launcher") == "$text" ]] ||
    fail "$launcher is there already and starts something else; remove it, or choose another name with --out"

if [[ -z $yes ]]; then
    [[ -t 0 ]] || fail "nothing was written; pass --yes to go on without a question"
    question="Write $out"
    [[ -z $deletes ]] || question+=", and delete $dual when the engine has loaded it"
    read -r -p "$question? [y/N] " answer
    [[ $answer =~ ^[Yy] ]] || fail "nothing was written"
fi

[[ -z $deletes ]] || prune+=(--verify)
"${prune[@]}" >/dev/null || fail "the fitted file was not written; $kept"
if [[ ! -e $launcher ]]; then
    printf '%s\n' "$text" >"$launcher.partial"
    chmod +x "$launcher.partial"
    mv "$launcher.partial" "$launcher"
fi
printf '\nMade:\n  %s\n  %s\n' "$out" "$launcher"

if [[ -n $deletes ]]; then
    printf 'Loading it\n'
    if ! said=$(NX2_TOOL=llama-completion "$launcher" -p Hello -n 1 -no-cnv </dev/null 2>&1); then
        printf '%s\n' "$said" | tail -n 5 >&2
        fail "the engine does not load $out; the twin is kept: $dual"
    fi
    rm -- "$dual"
    printf 'Deleted: %s\n' "$dual"
elif [[ -z $fetched ]]; then
    printf 'The twin stays: %s\n' "$dual"
fi

#!/usr/bin/env bash
# Start the engine on the twin in one of its phases, or as much of the large one as fits.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh FILE
set -euo pipefail
unset CDPATH # it lets cd print, and go elsewhere

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
twin='{{ twin.name }}'
# set by tests; the kernel's list of graphics cards
sysfs=${NX2_SYSFS:-/sys/class/drm}

usage() {
    cat <<'EOF'
usage: run-nx2.sh [--sm off|on|auto | --budget-mib N | --vram-gib V[,V...]|auto [--ctx N]] [--print] [-- engine arguments]

  --sm off    the small phase (variant 0) on one device
  --sm on     the large phase (variant 1), its layers split over all devices by their free memory
  --sm auto   on with two or more devices, off with one, the small phase on the CPU with none (default)
  --budget-mib N   small tensors, the most important ones large, within N MiB of weights
  --vram-gib V     the same for a card of V GiB, or several in the engine's order: 16,12; auto takes what is free
                   of the cards that the engine lists. Counts caches and buffers too; needs Python with the package gguf
  --ctx N          tokens of context that --vram-gib plans for, and the engine takes (8192)
  --print     show the command instead of running it

What follows -- goes to the engine and wins over what is set here, for example: run-nx2.sh -- --port 8081 -c 32768

Cards are what the engine's --list-devices has of one backend, without integrated graphics. To take others, name them:
run-nx2.sh -- -dev Vulkan1

Environment:
  NX2_TOOL    program to run (llama-server)
  NX2_MODEL   model file (the twin beside this script)
  NX2_BIN     folder of the engine's programs (build/out/bin beside this script, else the PATH)
  NX2_NGL     layers to put on devices (all)
EOF
}

fail() {
    printf 'run-nx2.sh: %s\n' "$*" >&2
    exit 1
}

note() {
    printf 'run-nx2.sh: %s\n' "$*" >&2
}

# The program $1 with its folder, as far as it can be found.
find_tool() {
    if [[ $1 == */* ]]; then
        printf '%s' "$1"
    elif [[ -n ${NX2_BIN:-} ]]; then
        printf '%s' "$NX2_BIN/$1"
    elif [[ -x $here/build/out/bin/$1 ]]; then
        printf '%s' "$here/build/out/bin/$1"
    else
        command -v "$1" || printf '%s' "$1"
    fi
}

# Graphics that never pay, and those that count where there is no other card; prune-dual has the same two.
weak='UHD|Iris|HD Graphics'
integrated='Arc\([Tt][Mm]\) Graphics|1[34]0[TV]|B3[0-9]0 GPU|Intel\(R\) Graphics|Custom GPU'
integrated+='|Radeon(\([Tt][Mm]\))?( Vega [0-9]+)?( [0-9]+[MS])?( Graphics|$| \(RADV)'

count() {
    printf '%s' "$#"
}

# Of the devices that the engine lists, sets those that count as cards to $cards, their MiB free to $shares, and whether
# it lists others to $others; $asked names those to take. Fails if the engine does not say.
engine_cards() {
    # names may be in any encoding
    local LC_ALL=C listing line name own=() spare=()
    local -A free=()
    listing=$("$1" --list-devices </dev/null 2>/dev/null) || return 1
    [[ $listing == *'Available devices:'* ]] || return 1
    while read -r line; do
        [[ $line =~ ^([A-Za-z]+[0-9]+):\ (.*)\ \([0-9]+\ MiB,\ ([0-9]+)\ MiB\ free\)$ ]] || continue
        name=${BASH_REMATCH[1]}
        line=${BASH_REMATCH[2]}
        free[$name]=${BASH_REMATCH[3]}
        if [[ $line =~ $weak ]]; then
            continue
        elif [[ $line =~ $integrated ]]; then
            spare+=("$name")
        else
            own+=("$name")
        fi
    done <<<"${listing//$'\r'/}"
    [[ -n ${own[*]-} ]] || own=("${spare[@]}")
    cards=()
    for name in "${own[@]}"; do
        # of one backend
        [[ ${name%%[0-9]*} != "${own[0]%%[0-9]*}" ]] || cards+=("$name")
    done
    [[ -z $asked ]] || IFS=, read -r -a cards <<<"${asked#none}"
    others=
    (($(count "${cards[@]}") == $(count "${!free[@]}"))) || others=yes
    shares=
    for name in "${cards[@]}"; do
        # a slash, since a comma starts another test in llama-bench
        shares+=${shares:+/}${free[$name]:-0}
    done
}

# Discrete graphics cards of this machine, for engines that do not say.
machine_devices() {
    local count=0 card vendor
    if command -v sycl-ls >/dev/null; then
        count=$(sycl-ls 2>/dev/null | grep -E '^\[level_zero:gpu\]' | grep -cvE "$weak") || true
    fi
    if ((count == 0)) && command -v nvidia-smi >/dev/null; then
        count=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ') || true
    fi
    if ((count == 0)); then
        for card in "$sysfs"/card*; do
            # card0 is a device, card0-DP-1 one of its outputs
            [[ $card =~ /card[0-9]+$ && -r $card/device/vendor ]] || continue
            vendor=$(<"$card/device/vendor")
            [[ $vendor =~ ^0x(8086|1002|10de)$ ]] || continue
            # Intel's integrated graphics always have this address
            [[ $(readlink -f "$card/device") == */0000:00:02.0 ]] || count=$((count + 1))
        done
    fi
    printf '%s' "$count"
}

# The engine's options for what fits cards of $1 GiB with $2 tokens of context (empty: the tool's default).
fitting_options() {
    local python=$here/.venv/bin/python
    [[ -x $python ]] || python=python3
    command -v "$python" >/dev/null || fail "--vram-gib needs python3; install Python 3.11 or newer, or use --budget-mib"
    # it says itself what else it misses
    local engine=()
    if [[ $1 == auto && -n $lists ]]; then
        # it is started now, beside what holds memory now
        engine=(--engine "$tool" --free)
        [[ -z $asked ]] || engine+=(-dev "$asked")
    fi
    "$python" "$here/prune-dual.py" --dual "$model" --vram-gib "$1" "${engine[@]}" ${2:+--ctx "$2"} --engine-flags
}

phase=
budget=
vram=
ctx=
print=
while (($#)); do
    case $1 in
        --sm)
            [[ -n ${2-} ]] || fail "--sm needs a value: off, on or auto"
            phase=$2
            shift 2
            ;;
        --sm=*)
            phase=${1#--sm=}
            [[ -n $phase ]] || fail "--sm needs a value: off, on or auto"
            shift
            ;;
        --budget-mib | --vram-gib | --ctx)
            [[ -n ${2-} ]] || fail "$1 needs a value"
            case $1 in
                --budget-mib) budget=$2 ;;
                --vram-gib) vram=$2 ;;
                --ctx) ctx=$2 ;;
            esac
            shift 2
            ;;
        --print)
            print=yes
            shift
            ;;
        -h | --help)
            usage
            exit
            ;;
        --)
            shift
            break
            ;;
        *) fail "unknown option '$1'; arguments for the engine go after --" ;;
    esac
done
[[ -z $phase || $phase =~ ^(off|on|auto)$ ]] || fail "--sm is '$phase'; it can be off, on or auto"
[[ $budget =~ ^([1-9][0-9]{0,8})?$ ]] || fail "--budget-mib is '$budget'; it must be a number of MiB such as 15000"
[[ $ctx =~ ^([1-9][0-9]*)?$ ]] || fail "--ctx is '$ctx'; it must be a number of tokens such as 8192"
[[ -z $ctx || -n $vram ]] || fail "--ctx goes with --vram-gib; otherwise give the engine its -c after --"
case ${phase:+x}${budget:+x}${vram:+x} in
    xx*) fail "--sm, --budget-mib and --vram-gib exclude each other" ;;
    '') phase=auto ;;
esac

# the oneAPI runtime, which a SYCL build needs; its script does not bear strict mode
if ! command -v sycl-ls >/dev/null && [[ -r ${ONEAPI_ROOT:-/opt/intel/oneapi}/setvars.sh ]]; then
    set +eu
    # shellcheck source=/dev/null
    source "${ONEAPI_ROOT:-/opt/intel/oneapi}/setvars.sh" --force >/dev/null 2>&1
    set -eu
fi

# without it Level Zero tells all memory as free
export ZES_ENABLE_SYSMAN="${ZES_ENABLE_SYSMAN:-1}"

tool=$(find_tool "${NX2_TOOL:-llama-server}")
model=${NX2_MODEL:-$here/$twin}
# what the user asks for: -dev after --, or its variable
asked=${LLAMA_ARG_DEVICE:-}
for ((n = 1; n < $#; n++)); do
    [[ ! ${!n} =~ ^(-dev|--device)$ ]] || { next=$((n + 1)) && asked=${!next//\//,}; }
done
cards=()
shares=
others=
lists=
if engine_cards "$tool"; then
    lists=yes
    devices=$(count "${cards[@]}")
    # a card that does not tell its memory: without sizes the split is left to the engine
    [[ ! $shares =~ (^|/)0(/|$) ]] || shares=
else
    devices=$(machine_devices)
fi

IFS=, read -r -a sizes <<<"$vram"
if [[ -n ${cards[*]-} && $vram == *,* ]] && (($(count "${sizes[@]}") > devices)); then
    fail "--vram-gib has sizes for $(count "${sizes[@]}") cards, but the engine lists $devices: ${cards[*]}"
fi
if [[ $phase == auto ]]; then
    if ((devices >= 2)); then phase=on; else phase=off; fi
fi
if [[ -n $vram ]]; then
    [[ -f $model ]] || fail "no model at $model; put the twin there or set NX2_MODEL"
    options=$(fitting_options "$vram" "$ctx") || exit 1
    read -r -a weights <<<"$options"
    what="what fits $vram GiB"
elif [[ -n $budget ]]; then
    weights=(--override-kv "general.tensor_variant.budget_mb=int:$budget")
    what="what fits $budget MiB of weights"
else
    variant=0
    [[ $phase == off ]] || variant=1
    weights=(--override-kv "general.tensor_variant.default=int:$variant")
    what="variant $variant"
fi

if ((devices == 0)); then
    placement=(-ngl "${NX2_NGL:-0}")
    note "no graphics card found: $what on the CPU"
    [[ -z $others || -n $asked ]] || note "integrated graphics are taken where -- -dev names them"
elif [[ " ${weights[*]} " == *' -sm '* ]]; then
    # what fits several cards comes with its split
    placement=(-ngl "${NX2_NGL:-999}")
    note "$what, layers split over the cards"
elif [[ $phase == on ]] || { [[ -n $budget ]] && ((devices > 1)); }; then
    placement=(-sm layer -ngl "${NX2_NGL:-999}")
    [[ $shares != */* ]] || placement+=(-ts "$shares")
    note "$what, layers split over $devices device(s)"
    [[ $phase != on ]] || ((devices > 1)) || note "only one device: the large phase may not fit its memory"
else
    placement=(-sm none -ngl "${NX2_NGL:-999}")
    note "$what on one of $devices device(s)"
fi
# the engine would take the others too
if [[ -n $others && -z $asked && " ${weights[*]} " != *' -dev '* ]] && ((devices)); then
    printf -v names ',%s' "${cards[@]}"
    [[ ${tool##*/} != llama-bench ]] || names=${names//,//}
    placement+=(-dev "${names:1}")
fi

command=("$tool" -m "$model" "${weights[@]}" "${placement[@]}" "$@")
if [[ -n $print ]]; then
    printf -v line ' %q' "${command[@]}"
    printf '%s\n' "${line# }"
    exit
fi
[[ -f $model ]] || fail "no model at $model; put the twin there or set NX2_MODEL"
command -v "$tool" >/dev/null || fail "no program $tool; run build/build.sh first, or set NX2_BIN to the engine's folder"
exec "${command[@]}"

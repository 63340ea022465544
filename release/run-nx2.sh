#!/usr/bin/env bash
# Start the engine on the twin in one of its phases, or as much of the large one as fits.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh FILE
set -euo pipefail
unset CDPATH # it lets cd print, and go elsewhere

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
twin='{{ twin.name }}'
# what was tested, or offered to be: engine, cards and driver by line
tested=$here/.self-test
# the faster backend, by the same
fastest=$here/.backend
# 124 positions of the small model: right kernels differ by up to 0.013 and 6.5 % by how they round, the other phase of
# the same file by 0.071 and 18.5 %; garbled text is far beyond
most_kld=0.040000
least_same=88.000
# set by tests; the kernel's list of graphics cards
sysfs=${NX2_SYSFS:-/sys/class/drm}

usage() {
    cat <<'EOF'
usage: run-nx2.sh [--sm off|on|auto | --budget-mib N | --vram-gib V[,V...]|auto [--ctx N]]
                  [--backend sycl|vulkan|cuda|hip|cpu] [--print | --self-test | --describe] [-- engine arguments]

  --sm off    the small phase (variant 0) on one device
  --sm on     the large phase (variant 1), its layers split over all devices by their free memory
  --sm auto   on with two or more devices, off with one, the small phase on the CPU with none (default)
  --budget-mib N   small tensors, the most important ones large, within N MiB of weights
  --vram-gib V     the same for a card of V GiB, or several in the engine's order: 16,12; auto takes what is free
                   of the cards that the engine lists. Counts caches and buffers too; needs Python with the package gguf
  --ctx N          tokens of context that --vram-gib plans for, and the engine takes (8192)
  --backend B where the engine is built for several: the one to take. Without it the first that lists a card; for
              Intel's, which SYCL and Vulkan both list, the faster one, which is measured once (cpu: no card)
  --print     show the command instead of running it
  --self-test compare the card with the CPU: it generates 32 tokens, and both compute the model's predictions over the
              text, in batches and token by token. One line; 0 if they agree, 2 if not, 1 if that could not be found
              out. It needs memory for the weights beside the card, or time to read them twice
  --describe  show engine, cards, driver, and whether they passed the self-test

What follows -- goes to the engine and wins over what is set here, for example: run-nx2.sh -- --port 8081 -c 32768

Cards are what the engine's --list-devices has of one backend (--backend), without integrated graphics. To take others, name them:
run-nx2.sh -- -dev Vulkan1

Environment:
  NX2_TOOL    program to run (llama-server)
  NX2_MODEL   model file (the twin beside this script)
  NX2_BIN     folder of the engine's programs (build/out/bin beside this script, else the PATH)
  NX2_BACKEND what --backend names
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

# What the engine calls the devices of a backend.
declare -A prefixes=([sycl]=SYCL [vulkan]=Vulkan [cuda]=CUDA [hip]=ROCm)

# Of the devices that the engine lists, sets those that count as cards to $cards, their MiB free to $shares, whether it
# lists others to $others, and the first card of each backend to $firsts; $asked names those to take. Fails if the engine
# does not say.
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
        kinds[$name]=$line
        if [[ $line =~ $weak ]]; then
            continue
        elif [[ $line =~ $integrated ]]; then
            spare+=("$name")
        else
            own+=("$name")
        fi
    done <<<"${listing//$'\r'/}"
    [[ -n ${own[*]-} ]] || own=("${spare[@]}")
    firsts=()
    for name in "${own[@]}"; do
        [[ " ${firsts[*]%%[0-9]*} " == *" ${name%%[0-9]*} "* ]] || firsts+=("$name")
    done
    line=${firsts[0]-}
    line=${prefixes[${backend:-any}]-${line%%[0-9]*}}
    cards=()
    for name in "${own[@]}"; do
        # of one backend
        [[ ${name%%[0-9]*} != "$line" ]] || cards+=("$name")
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

# Nanoseconds that a prompt and an answer take on the device $1.
taken_ns() {
    local bench said ns=0
    bench=$(find_tool llama-bench)
    said=$(timeout 600 "$bench" -m "$model" --override-kv general.tensor_variant.default=int:0 -dev "$1" -sm none -ngl 999 \
        -p 256 -n 64 -r 1 -o jsonl </dev/null 2>/dev/null) || return 1
    while [[ $said =~ \"avg_ns\":\ *([0-9]+)(.*) ]]; do
        ns=$((ns + BASH_REMATCH[1]))
        said=${BASH_REMATCH[2]}
    done
    ((ns > 0)) && printf '%s' "$ns"
}

# Set $backend to the faster one of those that list the card, as it was once measured for this engine and driver.
choose_backend() {
    local name ns best='' device described found
    described=$(described)
    if [[ -r $fastest ]]; then
        while read -r name found; do
            [[ $found != "$described" ]] || backend=$name
        done <"$fastest"
    fi
    # what only shows something measures nothing
    [[ -z $backend && -z $print$action && -f $model ]] || return 0
    note "SYCL and Vulkan both list this card: the faster one is looked for now, once; --backend names one"
    for name in sycl vulkan; do
        for device in "${firsts[@]}"; do
            [[ $device == "${prefixes[$name]}"* ]] || continue
            ns=$(taken_ns "$device") || continue
            if [[ -z $best ]] || ((ns < best)); then best=$ns backend=$name; fi
        done
    done
    [[ -n $best ]] || return 0
    note "it is ${prefixes[$backend]}"
    { printf '%s %s\n' "$backend" "$described" >>"$fastest"; } 2>/dev/null || true
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

# What the engine says it was built from: the commit of llama.cpp, and the patch.
engine_version() {
    local said
    said=$("$tool" --version </dev/null 2>&1) || true
    [[ $said =~ commit\ ([0-9a-f]+(-[0-9a-f]+)?) ]] || BASH_REMATCH=('' unknown)
    printf '%s' "${BASH_REMATCH[1]}"
}

# The version of the cards' driver, else of the kernel that has it; no more than numbers.
driver_version() {
    local said='' line
    case ${cards[0]-} in
        SYCL*) said=$(sycl-ls 2>/dev/null | grep -E '^\[level_zero:gpu\]') || true ;;
        CUDA*) said=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) || true ;;
    esac
    while read -r line; do
        if [[ $line =~ ^([0-9]+(\.[0-9]+)+)$ || $line =~ \[([0-9]+(\.[0-9]+)+)[^]]*\]$ ]]; then
            printf '%s' "${BASH_REMATCH[1]}"
            return
        fi
    done <<<"$said"
    said=
    [[ ! -r /proc/sys/kernel/osrelease ]] || said=$(</proc/sys/kernel/osrelease)
    [[ $said =~ ^[0-9]+(\.[0-9]+)* ]] || BASH_REMATCH=(unknown)
    printf 'kernel %s' "${BASH_REMATCH[0]}"
}

describe() {
    local name
    printf 'engine: %s\n' "$(engine_version)"
    for name in "${cards[@]}"; do
        printf 'card: %s %s\n' "$name" "${kinds[$name]-unknown}"
    done
    ((devices == 0)) || printf 'driver: %s\n' "$(driver_version)"
}

# What a test holds for, in a line.
described() {
    local said
    said=$(describe)
    printf '%s' "${said//$'\n'/; }"
}

# Keep that what is described has come to $1.
remember() {
    local old=
    [[ ! -r $tested ]] ||
        old=$(grep -vxF -e "passed $described" -e "failed $described" -e "offered $described" "$tested") || true
    # a folder that cannot be written is no reason to stop
    { printf '%s\n' ${old:+"$old"} "$1 $described" >"$tested.partial" && mv "$tested.partial" "$tested"; } 2>/dev/null ||
        true
}

# What is kept of $described: that its test passed, failed or was offered.
outcome() {
    local found='' word
    [[ ! -r $tested ]] || found=$(<"$tested")
    found=${found//$'\n'/|}
    for word in passed failed offered; do
        [[ "|$found|" != *"|$word $described|"* ]] || printf '%s' "$word"
    done
}

# Say once for each engine, card and driver that it can be tested; each time if it failed.
offer_self_test() {
    local described
    described=$(described)
    case $(outcome) in
        passed | offered) ;;
        failed) note "the self-test failed with this engine, card and driver: its text may be wrong" ;;
        *)
            note "this engine, card and driver were not tested here: run-nx2.sh --self-test compares them with the CPU"
            remember offered
            ;;
    esac
}

sample() {
    cat <<'EOF'
The river rises in the hills north of the town and flows south for forty miles before it meets the sea. In spring, when
the snow melts, it carries more water in a week than in the whole of the summer, and the fields on both sides of it are
flooded. The people who live there have built their houses on higher ground since the Middle Ages. A bridge of stone was
finished in 1764; it replaced an older one of wood, which had been destroyed by ice twice within ten years. Today the
bridge is used by about two thousand cars a day, and a second one is planned three miles further down.

def mean(values):
    """Return the arithmetic mean of a list of numbers."""
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)

Question: A train leaves at 9:40 and arrives at 11:05. How long does the journey take?
Answer: From 9:40 to 11:05 it is one hour and
EOF
}

# Run the program $1 with all else; what it prints on the standard output goes to $work/out.
try() {
    local program
    program=$(find_tool "$1")
    command -v "$program" >/dev/null || fail "no program $program; run build/build.sh first, or set NX2_BIN to the engine's folder"
    if ! "$program" "${@:2}" </dev/null >"$work/out" 2>"$work/log"; then
        cat "$work/out" "$work/log" | tail -n 5 >&2
        fail "--self-test ended early: $1 failed, its last lines are above"
    fi
}

# Compare with the reference, $1 tokens at a time, and set $kld and $same; a result that is no number is none.
compare() {
    local LC_ALL=C said
    try llama-perplexity "${as_started[@]}" "${chunks[@]}" -b "$1" -ub "$1" --kl-divergence-base "$work/logits" --kl-divergence
    said=$(cat "$work/out" "$work/log")
    [[ $said =~ Mean\ +KLD:\ +-?([0-9]+\.[0-9]{6}) ]] || BASH_REMATCH=('' 9.999999)
    kld=${BASH_REMATCH[1]}
    [[ $said =~ Same\ top\ p:\ +([0-9]+\.[0-9]{3}) ]] || BASH_REMATCH=('' 0.000)
    same=${BASH_REMATCH[1]}
    ((10#${kld/./} <= 10#${most_kld/./} && 10#${same/./} >= 10#${least_same/./})) || verdict=failed
}

# Both compute the predictions over a text, and over what the card makes of it: the CPU from the experts as they are in
# the file, the card as it would be started. Each chunk of 64 tokens is judged in its second half.
self_test() {
    local as_started=(-m "$model" "${weights[@]}" "${placement[@]}" "$@") chunks=(-c 64 --chunks 4)
    local kld same verdict=passed batched described where=the\ CPU
    # reaches the exit, where the trap is run
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    described=$(described)
    ((devices == 0)) || where="${cards[*]-the card}"
    sample >"$work/sample"
    try llama-completion "${as_started[@]}" -c 512 -no-cnv -n 32 --temp 0 -f "$work/sample"
    mv "$work/out" "$work/text"
    try llama-perplexity -m "$model" "${weights[@]}" "$@" --device none -ngl 0 --no-repack -f "$work/text" \
        "${chunks[@]}" -b 256 -ub 256 --kl-divergence-base "$work/logits"
    compare 256
    batched="$kld and $same %"
    compare 1
    remember "$verdict"
    printf 'self-test %s: %s on %s beside the CPU, mean KLD and same top token: %s in batches, %s token by token; asked: at most %s, at least %s %%\n' \
        "$verdict" "$what" "$where" "$batched" "$kld and $same %" "${most_kld%0000}" "${least_same%.*}"
    [[ $verdict == passed ]] || exit 2
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
        local named
        printf -v named ',%s' "${cards[@]}"
        [[ -z $asked$backend ]] || engine+=(-dev "${asked:-${named:1}}")
    fi
    "$python" "$here/prune-dual.py" --dual "$model" --vram-gib "$1" "${engine[@]}" ${2:+--ctx "$2"} --engine-flags
}

phase=
backend=${NX2_BACKEND:-}
budget=
vram=
ctx=
print=
action=
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
        --backend | --budget-mib | --vram-gib | --ctx)
            [[ -n ${2-} ]] || fail "$1 needs a value"
            case $1 in
                --backend) backend=$2 ;;
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
        --self-test | --describe)
            action=${1#--}
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
[[ $backend =~ ^(sycl|vulkan|cuda|hip|cpu)?$ ]] || fail "--backend is '$backend'; it can be sycl, vulkan, cuda, hip or cpu"
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
[[ -z $asked || -z $backend ]] || fail "--backend and -dev exclude each other"
if [[ $backend == cpu ]]; then
    asked=none
    set -- -dev none "$@"
fi
cards=()
firsts=()
declare -A kinds=()
shares=
others=
lists=
if engine_cards "$tool"; then
    lists=yes
    if [[ -n $backend && -z $asked && -z ${cards[*]-} ]]; then
        fail "the engine lists no card for --backend $backend; it lists: ${!kinds[*]}; build/build.sh --$backend builds for one"
    elif [[ -z $backend$asked && " ${firsts[*]-} " == *' SYCL'*' Vulkan'* ]]; then
        choose_backend
        [[ -z $backend ]] || engine_cards "$tool"
    fi
    devices=$(count "${cards[@]}")
    # a card that does not tell its memory: without sizes the split is left to the engine
    [[ ! $shares =~ (^|/)0(/|$) ]] || shares=
else
    devices=0
    [[ $backend == cpu ]] || devices=$(machine_devices)
fi

if [[ $action == describe ]]; then
    describe
    described=$(described)
    found=$(outcome)
    [[ $found =~ ^(passed|failed)$ ]] || found='not run'
    printf 'self-test: %s\n' "$found"
    exit
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
    if [[ $backend == cpu ]]; then note "$what on the CPU"; else note "no graphics card found: $what on the CPU"; fi
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
# it reads the file's head, and loads nothing
[[ ${tool##*/} != llama-variant-info ]] || command=("$tool" "${weights[@]}" "$@" "$model")
if [[ -n $print ]]; then
    printf -v line ' %q' "${command[@]}"
    printf '%s\n' "${line# }"
    exit
fi
[[ -f $model ]] || fail "no model at $model; put the twin there or set NX2_MODEL"
command -v "$tool" >/dev/null || fail "no program $tool; run build/build.sh first, or set NX2_BIN to the engine's folder"
if [[ $action == self-test ]]; then
    self_test "$@"
    exit
fi
# which is about text; llama-bench makes none
[[ -z $lists || ${tool##*/} == llama-bench ]] || ((devices == 0)) || offer_self_test
exec "${command[@]}"

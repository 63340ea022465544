#!/usr/bin/env bash
# Measure the twin's speed on this machine, and write it as a row that others can compare with.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh FILE
set -euo pipefail
unset CDPATH # it lets cd print, and go elsewhere

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

usage() {
    cat <<'END'
usage: bench-nx2.sh [--sm off|on] [--depths N[,N...]] [--rounds N] [--prompt N] [--gen N]
                    [--threads N] [--dev D[,D...]] [--out PATH]

  --sm off|on    the small or the large phase only (both)
  --depths N,..  tokens in the context before each test, in ascending order (0,4096,32768)
  --rounds N     samples of each test: an odd number from 3 on, for their median (3)
  --prompt N     tokens of the prompt that is read (512)
  --gen N        tokens that are generated (128)
  --threads N    threads on the CPU (the engine's choice)
  --dev D,..     devices to use, as llama-server --list-devices names them (those that run-nx2.sh takes)
  --out PATH     the file to write (row.json in the current folder)

Takes minutes on a card, and hours on a CPU: --depths 0 is short. Where the backend has two ways to compute experts, both
are measured in turns: live, as the engine does it, and dormant, with experts left as they are in the file. What does not
fit is told in its place. The row holds figures, versions, and the names of model and devices; no names of users, hosts
or folders. NX2_* work as in run-nx2.sh.
END
}

fail() {
    printf 'bench-nx2.sh: %s\n' "$*" >&2
    exit 1
}

phases=off,on
depths=0,4096,32768
rounds=3
prompt=512
gen=128
threads=
devices=
out=row.json
while (($#)); do
    case $1 in
        --sm | --depths | --rounds | --prompt | --gen | --threads | --dev | --out)
            [[ -n ${2-} ]] || fail "$1 needs a value"
            case $1 in
                --sm) phases=$2 ;;
                --depths) depths=$2 ;;
                --rounds) rounds=$2 ;;
                --prompt) prompt=$2 ;;
                --gen) gen=$2 ;;
                --threads) threads=$2 ;;
                --dev) devices=$2 ;;
                --out) out=$2 ;;
            esac
            shift 2
            ;;
        -h | --help)
            usage
            exit
            ;;
        *) fail "unknown option '$1'; see --help" ;;
    esac
done
[[ $phases =~ ^(off|on|off,on)$ ]] || fail "--sm is '$phases'; it can be off or on"
[[ $depths =~ ^(0|[1-9][0-9]{0,6})(,[1-9][0-9]{0,6})*$ ]] || fail "--depths is '$depths'; it must be numbers such as 0,4096"
last=-1
IFS=, read -r -a list <<<"$depths"
for depth in "${list[@]}"; do
    ((depth > last)) || fail "--depths is '$depths'; it must be numbers in ascending order"
    last=$depth
done
[[ $rounds =~ ^[1-9]?[13579]$ && $rounds != 1 ]] || fail "--rounds is '$rounds'; it must be an odd number from 3 to 99"
for option in prompt gen threads; do
    [[ ${!option} =~ ^([1-9][0-9]{0,6})?$ ]] || fail "--$option is '${!option}'; it must be a number from 1 on"
done
[[ $devices =~ ^([A-Za-z]+[0-9]*(,[A-Za-z]+[0-9]*)*)?$ ]] || fail "--dev is '$devices'; it must be names such as SYCL0,SYCL1"
[[ -d $(dirname -- "$out") ]] || fail "the folder of $out does not exist"
[[ ! -e $out ]] || fail "$out is there already; remove it or choose another name with --out"

python=$here/.venv/bin/python
[[ -x $python ]] || python=python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed, and no package; install it (Debian, Ubuntu: apt install python3)"

engine=()
[[ -z $threads ]] || engine+=(-t "$threads")
# a comma starts another test in llama-bench
[[ -z $devices ]] || engine+=(-dev "${devices//,//}")
exec "$python" "$here/bench-nx2.py" --phases "$phases" --depths "$depths" --rounds "$rounds" --prompt "$prompt" \
    --gen "$gen" --out "$out" -- "${engine[@]}"

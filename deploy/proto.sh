#!/bin/sh
# Regenerates the Python code and type stubs beside every .proto of this repository.
#
# The compiler lives in an environment of its own: grpcio-tools 1.74 wants protobuf 6 installed, while the code that it
# generates runs on protobuf 6 and 7. No *_pb2_grpc.py: calls go through trio_grpc by their full path.
set -eu

cd "$(dirname "$0")/.."
python=.venv-proto/bin/python
if [ ! -x "$python" ] || ! "$python" -c 'import grpc_tools' 2>/dev/null; then
  "${PYTHON:-python3}" -m venv .venv-proto
  "$python" -m pip install --quiet grpcio-tools==1.74.0
fi

# From the root, so that generated imports are absolute and each descriptor has a file name of its own.
git ls-files --cached --others --exclude-standard '*.proto' | while read -r proto; do
  "$python" -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. "$proto"
  # protoc leaves its Mapping without type arguments, which mypy --strict refuses.
  sed -i 's/_Mapping\]/_Mapping[str, object]]/g' "${proto%.proto}_pb2.pyi"
  echo "generated from $proto"
done

# detectron2:v0, on which ../Dockerfile puts the project: Python, PyTorch, detectron2 and all else that
# pyproject.toml asks for, in the versions of uv.lock. `make detectron2` builds it, once; or, in the
# project's folder:
#
#     docker build -f docker/detectron2.Dockerfile -t detectron2:v0 --build-arg USER_ID=$(id -u) .
#
# No GPU is needed. Without GPUs in mind, `make detectron2 CPU=1`, or add
#
#     --build-arg DEVEL_IMAGE=ubuntu:24.04 --build-arg FORCE_CUDA=0 --build-arg TORCH_INDEX=cpu
#
# CUDA's version must be that of PyTorch, at least up to the dot. Another one, for an older driver, if
# PyTorch has a build of the version in uv.lock for it:
#
#     --build-arg CUDA_VERSION=13.0.1 --build-arg TORCH_INDEX=cu130
ARG CUDA_VERSION=13.2.1
# 0: without CUDA operators of detectron2's own. Its standard models run on GPUs all the same;
# deformable convolutions and rotated boxes do not.
ARG FORCE_CUDA=1
ARG DEVEL_IMAGE=nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04
# Both must have the same python3. CUDA's libraries come with PyTorch, the driver with the machine.
ARG RUNTIME_IMAGE=ubuntu:24.04

# First, so that a wrong argument ends the build at once.
FROM ${RUNTIME_IMAGE} AS runtime
ARG USER_ID=1000
RUN case "$USER_ID" in \
        ""|0|*[!0-9]*) echo "USER_ID is '$USER_ID'. Give the number of a user, not root's: id -u"; exit 1 ;; \
    esac

FROM ${DEVEL_IMAGE} AS build
ARG DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008 # Ubuntu keeps only the newest versions of its packages.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates g++ git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir "uv>=0.9,<1"
ENV PATH=/opt/uv/bin:$PATH \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/venv
# Another build of PyTorch than PyPI's: cpu, cu126, ... or the address of an index that has one.
ARG TORCH_INDEX=""
ARG FORCE_CUDA
# Compute capabilities of the GPUs: 8.0 A100, 8.6 RTX 30, 9.0 H100, 12.0 RTX 50; +PTX: newer ones.
ARG TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;9.0;10.0;12.0+PTX"
WORKDIR /build
COPY pyproject.toml uv.lock ./
# With another PyTorch, what that alone needs is another too, such as CUDA's libraries. The setting
# "built-for" is read by nobody: it tells uv's cache which builds of detectron2 differ.
ARG DEVEL_IMAGE
RUN --mount=type=cache,target=/root/.cache/uv \
    export="uv export --quiet --locked --no-dev --no-emit-project --no-hashes --no-annotate --no-header" \
    && $export > /opt/requirements.txt \
    && set -- --requirements /opt/requirements.txt \
    && if [ -n "$TORCH_INDEX" ]; then \
        $export --prune torch --prune torchvision > others.txt \
        && grep -E "^torch(vision)?==" /opt/requirements.txt > torch.txt \
        && set -- --requirements torch.txt --requirements others.txt \
        && case "$TORCH_INDEX" in \
            *://*) set -- "$@" --index "$TORCH_INDEX" --index-strategy unsafe-best-match ;; \
            *) set -- "$@" --torch-backend "$TORCH_INDEX" ;; \
        esac; \
    fi \
    && uv venv --python /usr/bin/python3 "$VIRTUAL_ENV" \
    && uv pip install "$@" \
        --config-settings-package "detectron2:built-for=$DEVEL_IMAGE $FORCE_CUDA $TORCH_CUDA_ARCH_LIST"

FROM runtime
ARG DEBIAN_FRONTEND=noninteractive
# git: a run's folder records the commit and the diff. tini: as process 1, Python would not get
# signals before it handles them, and leave ended processes behind.
# hadolint ignore=DL3008 # As above.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system safe.directory "*"
COPY --from=build /opt/uv/bin/uv /usr/local/bin/uv
COPY --from=build /opt/requirements.txt /opt/requirements.txt
COPY --from=build /opt/venv /opt/venv

# Any user may run it. Ubuntu has a user 1000 of its own; -l: else a large id makes a file of gigabytes.
ARG USER_ID=1000
RUN useradd -l --non-unique --uid "$USER_ID" --no-create-home --home-dir /tmp detectron2 \
    && mkdir -m 1777 /app
WORKDIR /app
# The project is in /app, or mounted there, and not installed.
ENV PATH=/opt/venv/bin:$PATH \
    VIRTUAL_ENV=/opt/venv \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=detectron2 \
    USER_ID=${USER_ID} \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG FORCE_CUDA
RUN --mount=type=bind,source=docker/check_detectron2.py,target=/check_detectron2.py \
    mkdir /check \
    && HOME=/check TMPDIR=/check python -W ignore /check_detectron2.py \
    && rm -r /check
# hadolint ignore=DL3066 # It is a number.
USER ${USER_ID}
ENTRYPOINT ["tini", "--"]

# The locked GPU environment as an image, for every node of a cluster (docs/cluster.md):
#   docker build -t camreasoner . && docker run --gpus all --ipc=host --network=host -v /shared:/shared camreasoner
# Code is copied too, so that image and lock cannot differ; a submitted job brings its own code, and is compared.
ARG BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04
FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv python3-dev make git g++ ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/camreasoner
COPY requirements requirements
RUN python3 requirements/install.py gpu
ENV PATH=/opt/camreasoner/.venv/bin:${PATH} \
    RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1
COPY pyproject.toml Makefile LICENSE README.md ./
COPY data_tools data_tools
COPY evaluation evaluation
COPY launch launch
COPY recipes recipes
COPY rewards rewards
RUN groupadd --gid 1001 cam && useradd --uid 1001 --gid cam --create-home cam
USER cam
CMD ["bash"]

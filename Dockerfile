# docker build -t curl .
# docker run -v "$PWD/runs:/runs" --user "$(id -u):$(id -g)" curl train task=walker_walk seed=1
#
# Build arguments:
#   BASE         a Debian image with Python 3.11 or 3.12 and its venv
#   EXTRA_INDEX  one more package index, for the CPU or CUDA builds of PyTorch
#   TORCH        the requirement that picks the build, such as torch==2.13.0+cpu; the plain name
#                takes what the index has, which for x86-64 Linux is usually a CUDA build
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRA_INDEX=
ARG TORCH=torch
ENV PATH=/opt/curl/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# The dependencies alone, so that this layer is kept while only the code changes.
RUN python3 -m venv /opt/curl \
    && python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = p["optional-dependencies"]; \
print(*p["dependencies"], *extras["box2d"], *extras["onnx"], sep="\n")' > requirements.txt \
    && pip install --no-compile ${EXTRA_INDEX:+--extra-index-url "$EXTRA_INDEX"} \
       -c constraints.txt "$TORCH" -r requirements.txt \
    && pip uninstall -y pip setuptools
# What running never reads goes. Bytecode is kept for what is imported, a quarter of the whole.
RUN cd /opt/curl/lib/python3*/site-packages \
    && find . -name __pycache__ -prune -exec rm -rf {} + \
    && find . -type d -name tests ! -path './torch/*' -prune -exec rm -rf {} + \
    && rm -rf torch/include torch/test \
    && find torch/bin ! -type d ! -name torch_shm_manager -delete \
    && MUJOCO_GL=disable python -c 'import av, gymnasium.wrappers, hydra, matplotlib.pyplot, \
onnxruntime, onnxscript, rich.progress, scipy.stats, shimmy, torch._dynamo, wandb; \
from dm_control import suite'

FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       libegl1 libgl1 libosmesa6 tini \
    && rm -rf /var/lib/apt/lists/*
# Any user id may run it: the home and /runs are open to all, and runs/... in the home is /runs/...
RUN useradd --create-home --uid 1000 curl \
    && chmod 1777 /home/curl \
    && mkdir -m 1777 /runs \
    && ln -s /runs /home/curl/runs
# The container toolkit hands over the GPU's compute and, for `graphics`, its EGL driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
ENV PATH=/opt/curl/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/home/curl USER=curl SDL_VIDEODRIVER=dummy MINARI_DATASETS_PATH=/runs/datasets
COPY --from=build /opt/curl /opt/curl
COPY docker-entrypoint LICENSE /app/
COPY configs /app/configs
COPY curl /app/curl
USER curl
WORKDIR /home/curl
# tini passes SIGTERM on at any moment, so that `docker stop` ends with a checkpoint.
ENTRYPOINT ["tini", "--", "/app/docker-entrypoint"]
CMD ["--help"]

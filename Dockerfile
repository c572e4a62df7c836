# CURL in a container: docker build -t curl .  then  docker run curl train task=walker_walk seed=1
# BASE: a Debian image with Python 3.11. EXTRA_INDEX: one more package index, such as that of the
# CUDA builds of PyTorch. TORCH: the requirement that decides between the builds.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRA_INDEX=
ARG TORCH=torch
WORKDIR /src
RUN python3 -m venv /opt/curl
ENV PATH=/opt/curl/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt pyproject.toml README.md ./
COPY curl/__init__.py curl/__init__.py
# dependencies first: this layer is kept while only the code changes
RUN pip install ${EXTRA_INDEX:+--extra-index-url "$EXTRA_INDEX"} -c constraints.txt "$TORCH" . \
    && pip uninstall -y curl pip setuptools \
    && find /opt/curl -name __pycache__ -prune -exec rm -rf {} + \
    && find /opt/curl -type d -name tests -path '*site-packages*' ! -path '*/torch/*' -prune -exec rm -rf {} +

FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       libegl1 libgl1 libosmesa6 tini \
    && rm -rf /var/lib/apt/lists/*
# the container toolkit hands over the GPU's compute and its EGL driver
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
ENV PATH=/opt/curl/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
COPY --from=build /opt/curl /opt/curl
COPY train.py eval.py docker-entrypoint LICENSE README.md /app/
COPY configs /app/configs
COPY curl /app/curl
# any user id may run it: docker run --user "$(id -u):$(id -g)" keeps the caller's ownership
RUN useradd --create-home --uid 1000 curl && mkdir /runs && chmod 777 /runs
USER curl
# runs land in /runs/<task>/...: mount -v "$PWD/runs:/runs"
WORKDIR /
VOLUME /runs
# tini forwards SIGTERM, so that `docker stop` ends with a checkpoint
ENTRYPOINT ["tini", "--", "/app/docker-entrypoint"]
CMD ["--help"]

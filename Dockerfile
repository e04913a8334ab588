# One image for serving, one for training, on CPUs or NVIDIA GPUs (docs/deploy.md has their sizes and how to renew the pins):
#   docker build --tag pgn-serve:cpu .
#   docker build --tag pgn-serve:cuda --build-arg FLAVOUR=cuda .
#   docker build --tag pgn-train:cuda --build-arg FLAVOUR=cuda --build-arg EXTRAS=serve,train .
# What the RUN lines do is in docker/install.sh, which the tests run, too.

ARG FLAVOUR=cpu
ARG BASE_CPU=python:3.12.14-slim-bookworm@sha256:0f5b26b9518d002b6173fd61daad821fa340635ebfec5bba471013f9ca114579
# torch's wheels bring CUDA themselves; this base refuses to start where the driver is too old for it.
ARG BASE_CUDA=nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701

FROM ${BASE_CPU} AS base-cpu
FROM ${BASE_CUDA} AS base-cuda

# hadolint ignore=DL3006
FROM base-${FLAVOUR} AS base
COPY docker/install.sh /usr/local/bin/install-pgn
RUN install-pgn system

FROM base AS build
ARG FLAVOUR
ARG EXTRAS=serve,signing
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pgn pgn
COPY handlers handlers
COPY training training
RUN install-pgn wheel /src /wheel \
 && install-pgn venv /wheel /src/constraints.txt /opt/venv "${EXTRAS}" "${FLAVOUR}"

# Neither compiler nor pip nor sources: base, virtual environment, model store.
FROM base AS final
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PGN Serve" \
      org.opencontainers.image.description="Prompt generation networks for frozen vision transformers, on TorchServe" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY config.properties ./
COPY model_store model_store
# HOME: what libraries like to cache goes where something can be written, also under a read-only root.
# NVIDIA_VISIBLE_DEVICES: the CUDA base says `all`, which would show every GPU of a node to pods that asked for none; who is
# given GPUs gets its own value. `utility` is nvidia-smi, by which TorchServe counts them.
ENV PATH=/opt/venv/bin:${PATH} \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=void \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
EXPOSE 8000
# For Docker; Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python3", "-Ic", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# tini as process 1 passes signals on and collects what is orphaned; Python as process 1 would be deaf until it has handlers.
ENTRYPOINT ["tini", "--"]
CMD ["pgn", "serve"]

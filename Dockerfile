# syntax=docker/dockerfile:1
# vaefarm in containers; docs/containers.md explains the targets and arguments.
#   gateway      the farm over HTTP, the reaper, the client's commands; no torch
#   worker       decodes; torch from TORCH_INDEX_URL
#   all-in-one   Redis, a worker and a gateway in one container (`vaefarm up`)
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS source
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY shared shared
COPY producer producer
COPY worker worker

# An environment without pip in it: the images that have it install nothing any more.
FROM ${PYTHON_IMAGE} AS environment
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/vaefarm
COPY constraints.txt /source/constraints.txt

FROM environment AS gateway-environment
COPY --from=source /source /source
RUN python3 -m pip --python /opt/vaefarm/bin/python install -c /source/constraints.txt dumb-init '/source[gateway,otel,s3]'

# torch comes first and alone: its index has other versions of the packages that all others pin.
FROM environment AS torch-environment
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN python3 -m pip --python /opt/vaefarm/bin/python install -c /source/constraints.txt \
        ${TORCH_INDEX_URL:+--no-deps --index-url "$TORCH_INDEX_URL"} torch

FROM torch-environment AS worker-environment
COPY --from=source /source /source
RUN python3 -m pip --python /opt/vaefarm/bin/python install -c /source/constraints.txt dumb-init '/source[worker,otel,s3,video]'

# With a redis-server. Laid over the worker's environment, which has the same pins, it makes one of both.
FROM gateway-environment AS local-environment
RUN python3 -m pip --python /opt/vaefarm/bin/python install -c /source/constraints.txt '/source[local]'

# Weights in the image, for hosts without a network: --build-arg VAES=sdxl,flux. A token for gated ones is a secret of the
# build (--secret id=hf_token,src=FILE) and no part of the image.
FROM worker-environment AS weights
ARG VAES=
ARG HF_ENDPOINT=https://huggingface.co
RUN --mount=type=secret,id=hf_token,required=false \
    mkdir -p /weights && if [ -n "$VAES" ]; then \
        if [ -s /run/secrets/hf_token ]; then HF_TOKEN="$(cat /run/secrets/hf_token)"; export HF_TOKEN; fi; \
        HF_ENDPOINT="$HF_ENDPOINT" HF_HOME=/weights /opt/vaefarm/bin/vaefarm vaes --pull $(echo "$VAES" | tr ',' ' '); \
    fi

FROM ${PYTHON_IMAGE} AS base
# No installer is left; where Python is a package of the distribution, its pip is one too.
RUN if dpkg -s python3-pip >/dev/null 2>&1; \
        then dpkg --purge python3-venv python3.11-venv python3-pip python3-wheel python3-setuptools >/dev/null; \
        else python3 -m pip uninstall --yes --quiet pip setuptools wheel; fi; \
    useradd --uid 10001 --user-group --create-home --home-dir /home/vaefarm --shell /usr/sbin/nologin vaefarm \
    && install -d -o vaefarm -g vaefarm /data /keys /cache /cache/huggingface /cache/compiled
ENV PATH=/opt/vaefarm/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    VAEFARM_LOG_FORMAT=json
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="vaefarm" \
      org.opencontainers.image.description="Diffusion VAE decodes off your generation GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /home/vaefarm
USER 10001:10001
STOPSIGNAL SIGTERM
# An init reaps what is left of child processes, and passes signals to vaefarm alone, which ends its children itself.
ENTRYPOINT ["/opt/vaefarm/bin/dumb-init", "--single-child", "--", "vaefarm"]

FROM base AS gateway
LABEL org.opencontainers.image.title="vaefarm gateway"
COPY --from=gateway-environment /opt/vaefarm /opt/vaefarm
ENV VAEFARM_LISTEN_HOST=0.0.0.0 VAEFARM_LISTEN_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s CMD ["vaefarm", "health", "gateway"]
CMD ["gateway"]

FROM base AS worker-base
# A mounted cache of Hugging Face's hides what was put here at the build.
ENV HF_HOME=/cache/huggingface VAEFARM_COMPILE_CACHE=/cache/compiled HF_HUB_DISABLE_TELEMETRY=1
COPY --from=weights --chown=10001:10001 /weights /cache/huggingface

FROM worker-base AS worker
LABEL org.opencontainers.image.title="vaefarm worker"
COPY --from=worker-environment /opt/vaefarm /opt/vaefarm
HEALTHCHECK --interval=30s --timeout=10s --start-period=300s CMD ["vaefarm", "health", "worker"]
CMD ["worker"]

FROM worker AS all-in-one
LABEL org.opencontainers.image.title="vaefarm, all in one"
COPY --from=local-environment /opt/vaefarm /opt/vaefarm
ENV VAEFARM_LISTEN_HOST=0.0.0.0 VAEFARM_LISTEN_PORT=8000
EXPOSE 8000
VOLUME /data
HEALTHCHECK --interval=15s --timeout=10s --start-period=300s CMD ["vaefarm", "health", "gateway", "--ready"]
CMD ["up", "--data", "/data"]

# One image for the router, the sidecar and local workers: they differ in the command. `make image` builds it.
ARG PYTHON_IMAGE=python:3.11-slim
# sha256:…, so that a tag that moves changes nothing. Without it the tag decides.
ARG PYTHON_DIGEST

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}} AS build
WORKDIR /build
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md LICENSE gunicorn.conf.py config.yaml ./
COPY router router
COPY sidecar sidecar
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ".[traces]"

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}
# Of the first lines an instruction sees only what it names again.
ARG PYTHON_IMAGE
ARG PYTHON_DIGEST
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="SandboxFusion Router" \
      org.opencontainers.image.description="One HTTP address in front of many SandboxFusion workers." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.base.digest="${PYTHON_DIGEST}"
# At the same path: a venv's scripts name their interpreter in full.
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY gunicorn.conf.py config.yaml ./
# A number, because Kubernetes' runAsNonRoot cannot look up a name.
USER 10001:10001
EXPOSE 8000
CMD ["gunicorn", "-c", "gunicorn.conf.py"]

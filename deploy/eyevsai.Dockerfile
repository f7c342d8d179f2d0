# eyevsai with PyTorch for the CPU; see docs/installation.md. Built from the project's root:
#     docker build --file deploy/eyevsai.Dockerfile --tag eyevsai .
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY eyevsai eyevsai
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# Without git: an installed eyevsai does not call it, and `mlflow run` works without it, but does not record the commit.
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=""
LABEL org.opencontainers.image.title="eyevsai" \
      org.opencontainers.image.description="An MLflow project that trains, evaluates, exports and serves image classifiers" \
      org.opencontainers.image.licenses="Apache-2.0 AND MIT"
COPY constraints/highest.txt /opt/eyevsai/constraints.txt
# Without dependencies: they come from PyPI in the next step, and PyTorch from its own index only.
RUN pip install --no-cache-dir --no-deps --constraint /opt/eyevsai/constraints.txt --index-url "$TORCH_INDEX" torch torchvision
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    set -- /wheels/*.whl \
    && pip install --no-cache-dir --constraint /opt/eyevsai/constraints.txt "$1${EXTRAS:+[$EXTRAS]}"
COPY deploy/healthcheck.py /opt/eyevsai/healthcheck.py
# Writable for every user, because --user can name any: the container needs no entry in /etc/passwd.
RUN mkdir --mode 1777 /work
# LOGNAME: name of the user in runs and audit entries. PYTHONNOUSERSITE: /work can be a home folder with Python packages.
ENV HOME=/work \
    LOGNAME=eyevsai \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1
USER 1000:1000
WORKDIR /work
VOLUME ["/work"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["python", "/opt/eyevsai/healthcheck.py"]
ENTRYPOINT ["eyevsai"]
CMD ["--help"]

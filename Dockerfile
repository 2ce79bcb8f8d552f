# The service. Two targets: `service`, for those who train elsewhere, and the default, which has the training libraries.
#
# Build arguments: PYTHON_IMAGE; UV_VERSION; PIP_INDEX_URL and UV_DEFAULT_INDEX, for a mirror of PyPI; TORCH_INDEX, for
# torch's small CPU build: https://download.pytorch.org/whl/cpu.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS libraries
ARG UV_VERSION=0.13.8
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
RUN pip install --no-cache-dir --root-user-action=ignore "uv==${UV_VERSION}"
ENV UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /opt/fitserve
COPY requirements/service.txt requirements/
RUN uv venv --python "$(command -v python3)" venv \
    && uv pip sync --python venv/bin/python --compile-bytecode --require-hashes requirements/service.txt

FROM ${PYTHON_IMAGE} AS code
WORKDIR /opt/fitserve
COPY clients/python/fitserve fitserve
COPY service service
COPY training training
COPY predictors predictors
RUN python3 -m compileall -q .

FROM ${PYTHON_IMAGE} AS base
RUN apt-get update && apt-get install --yes --no-install-recommends libnghttp2-14 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin fitserve \
    && install --directory --owner fitserve --group fitserve /models
ENV PATH=/opt/fitserve/venv/bin:$PATH PYTHONPATH=/opt/fitserve PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp ORT_DISABLE_TELEMETRY=1 LISTEN=0.0.0.0:50051 MODEL_DIR=/models
WORKDIR /opt/fitserve
USER fitserve
EXPOSE 50051
CMD ["python", "-m", "service"]

FROM base AS service
ENV TRAINING_CORES=0
COPY --from=libraries /opt/fitserve/venv venv
COPY --from=code /opt/fitserve ./

FROM libraries AS training-libraries
ARG TORCH_INDEX
COPY requirements/training.txt requirements/torch.txt requirements/
# Of what only a GPU needs, `triton` (torch.compile) and xgboost's NCCL are not installed at all.
RUN if [ -n "${TORCH_INDEX}" ]; then locks="service training"; else locks="service training torch"; fi \
    && for lock in $locks; do cat "requirements/$lock.txt"; done \
    | awk '/^[a-z]/ { keep = !/^(triton|nvidia-nccl-cu12)==/ } keep' >wanted.txt \
    && uv pip sync --python venv/bin/python --compile-bytecode --require-hashes wanted.txt \
    && if [ -n "${TORCH_INDEX}" ]; then \
         uv pip install --python venv/bin/python --compile-bytecode --index "${TORCH_INDEX}" \
           --index-strategy unsafe-best-match "$(grep -oE '^torch==[0-9.]+' requirements/torch.txt)"; \
       fi
# Training computes on the processor: headers, tests and GPU libraries that torch opens only when it uses them are left out.
RUN cd venv/lib/python3*/site-packages \
    && rm -rf torch/include torch/bin/protoc* nvidia/*/include nvidia/cudnn/lib/libcudnn_* nvidia/cu13/lib/libcusolverMg* \
    && find . -type d -name tests -prune -exec rm -rf {} + \
    && /opt/fitserve/venv/bin/python -c 'import onnx, onnxruntime, sklearn.ensemble, torch, xgboost, lightgbm, catboost'

FROM base AS service-with-training
COPY --from=training-libraries /opt/fitserve/venv venv
COPY --from=code /opt/fitserve ./

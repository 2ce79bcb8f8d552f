# The service. Two targets: `service`, for those who train elsewhere, and the default, which has the training libraries.
#
# Build arguments: PYTHON_IMAGE; UV_VERSION; PIP_INDEX_URL and UV_DEFAULT_INDEX, for a mirror of PyPI; TORCH_INDEX, for
# torch's small CPU build: https://download.pytorch.org/whl/cpu.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.8
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
RUN pip install --no-cache-dir --root-user-action=ignore "uv==${UV_VERSION}"
ENV UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /opt/fitserve
COPY requirements/service.txt requirements/
RUN uv venv --python "$(command -v python3)" venv \
    && uv pip sync --python venv/bin/python --compile-bytecode --require-hashes requirements/service.txt
COPY clients/python/fitserve fitserve
COPY service service
COPY training training
RUN venv/bin/python -m compileall -q fitserve service training

FROM ${PYTHON_IMAGE} AS service
# One number in all images, since the volume of models belongs to it.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin fitserve \
    && install --directory --owner fitserve --group fitserve /models
ENV PATH=/opt/fitserve/venv/bin:$PATH PYTHONPATH=/opt/fitserve PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp ORT_DISABLE_TELEMETRY=1 LISTEN=0.0.0.0:50051 MODEL_DIR=/models
COPY --from=build /opt/fitserve/venv /opt/fitserve/venv
COPY --from=build /opt/fitserve/fitserve /opt/fitserve/fitserve
COPY --from=build /opt/fitserve/service /opt/fitserve/service
COPY --from=build /opt/fitserve/training /opt/fitserve/training
# A settings file `.env` would be read from here.
WORKDIR /opt/fitserve
USER fitserve
EXPOSE 50051
CMD ["python", "-m", "service"]

FROM build AS build-training
ARG TORCH_INDEX
COPY requirements/training.txt requirements/torch.txt requirements/
# Training computes on the processor: what only a GPU needs is left out as far as the libraries load without it.
RUN if [ -n "${TORCH_INDEX}" ]; then locks="service training"; else locks="service training torch"; fi \
    && for lock in $locks; do cat "requirements/$lock.txt"; done \
    | awk '/^[a-z]/ { keep = !/^(triton|nvidia-nccl-cu12)==/ } keep' >wanted.txt \
    && uv pip sync --python venv/bin/python --compile-bytecode --require-hashes wanted.txt \
    && if [ -n "${TORCH_INDEX}" ]; then \
         uv pip install --python venv/bin/python --compile-bytecode --index "${TORCH_INDEX}" \
           --index-strategy unsafe-best-match "$(grep -oE '^torch==[0-9.]+' requirements/torch.txt)"; \
       fi \
    && cd venv/lib/python3*/site-packages \
    && rm -rf torch/include torch/bin nvidia/*/include nvidia/cudnn/lib/libcudnn_* nvidia/cu13/lib/libcusolverMg* \
    && find . -type d -name tests -prune -exec rm -rf {} +

FROM service AS service-with-training
COPY --from=build-training /opt/fitserve/venv /opt/fitserve/venv

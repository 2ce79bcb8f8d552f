# NVIDIA's image as docker-compose.gpu.yml runs it: with the options that FitServe relies on, and not as root.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.09-py3
FROM ${TRITON_IMAGE}
# What FitServe's own backend reads models with, and the backend itself; the image's backends run all other models.
COPY requirements/triton.txt /tmp/fitserve/
RUN wanted='numpy|catboost|graphviz|pandas|python-dateutil|pytz|six|tzdata|scipy' \
    && wanted="$wanted|scikit-learn|cloudpickle|joblib|narwhals|threadpoolctl|skops|prettytable|wcwidth|packaging" \
    && awk -v names="^($wanted)==" '/^[a-z]/ { keep = $0 ~ names } keep' /tmp/fitserve/triton.txt >/tmp/fitserve/wanted.txt \
    && pip install --no-cache-dir --no-deps --break-system-packages --require-hashes -r /tmp/fitserve/wanted.txt \
    && rm -rf /tmp/fitserve
COPY triton_runtime/backends/fitserve_native /opt/tritonserver/backends/fitserve_native
COPY predictors /opt/tritonserver/backends/predictors
ENV HOME=/tmp
USER 10002:10002
EXPOSE 8001
CMD ["tritonserver", "--model-repository=/models", "--model-control-mode=explicit", "--disable-auto-complete-config", \
     "--strict-readiness=false", "--exit-timeout-secs=10", "--grpc-port=8001", "--http-address=127.0.0.1", \
     "--http-port=8000", "--allow-metrics=false", "--model-load-thread-count=4"]

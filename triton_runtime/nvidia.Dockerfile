# NVIDIA's image as docker-compose.gpu.yml runs it: with the options that FitServe relies on, and not as root.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.09-py3
FROM ${TRITON_IMAGE}
ENV HOME=/tmp
USER 10002:10002
EXPOSE 8001
CMD ["tritonserver", "--model-repository=/models", "--model-control-mode=explicit", "--disable-auto-complete-config", \
     "--strict-readiness=false", "--exit-timeout-secs=10", "--grpc-port=8001", "--http-address=127.0.0.1", \
     "--http-port=8000", "--allow-metrics=false", "--model-load-thread-count=4"]

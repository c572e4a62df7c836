# A small image that serves an exported policy: NumPy, ONNX Runtime and the standard library.
#
#   cp examples/serve.py policy
#   docker build -f examples/serve.Dockerfile -t policy policy
#   docker run --rm -p 8000:8000 policy
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
WORKDIR /policy
COPY requirements.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY card.json policy.onnx serve.py ./
USER 1000
EXPOSE 8000
STOPSIGNAL SIGINT
CMD ["python3", "serve.py", "/policy", "8000"]

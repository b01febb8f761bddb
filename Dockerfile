# One image for all roles: docker compose runs it as `headrace run ROLE`.
FROM python:3.12.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/headrace

# The pinned requirements are a layer of their own: a change of code does not install them again.
COPY .ci/requirements.txt .ci/requirements.txt
RUN pip install --require-hashes -r .ci/requirements.txt

COPY pyproject.toml README.md ./
COPY contract contract
COPY streams streams
COPY trainer trainer
COPY publisher publisher
COPY headrace headrace
COPY examples/kuairand examples/kuairand
RUN pip install --no-deps --no-build-isolation . \
    && useradd --system --uid 10001 --create-home headrace \
    && install --directory --owner headrace --group headrace /var/lib/headrace

USER headrace
ENV HEADRACE_DATA_DIR=/var/lib/headrace
VOLUME /var/lib/headrace
ENTRYPOINT ["headrace"]
CMD ["--help"]

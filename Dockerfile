# The application as an image: `docker compose build`. Nothing in it is secret, and nothing in it
# is written to at run time: state is on a volume at /state.

FROM python:3.13-slim AS build
WORKDIR /build
COPY pyproject.toml requirements-dev.txt README.md LICENSE ./
COPY streamapp streamapp
RUN python -m venv /venv
# The versions that the tests run with, of what it needs to run.
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint requirements-dev.txt .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home streamapp \
    && install --directory --owner streamapp /state
COPY --from=build /venv /venv
WORKDIR /app
COPY agents agents
COPY tables tables
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STREAMAPP_STATE=/state
USER 10001
CMD ["faust", "-A", "streamapp", "-l", "info", "worker"]

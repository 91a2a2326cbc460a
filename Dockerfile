# docker build -t fedloom .       then: docker run fedloom --help
FROM python:3.12-slim
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
COPY experiments /src/experiments
RUN pip install --no-cache-dir "/src[flower]" && useradd --create-home fedloom
USER fedloom
ENTRYPOINT ["fedloom"]

# A recogniser behind HTTP, on processors, from the wheel:
#   pip wheel --no-deps -w dist . && docker build -t rcmstr . && docker run -p 127.0.0.1:8000:8000 rcmstr
FROM python:3.12-slim
COPY constraints.txt dist/rcmstr_jax-*.whl /tmp/
RUN wheel="$(ls /tmp/rcmstr_jax-*.whl)" && pip install --no-cache-dir -c /tmp/constraints.txt "${wheel}[serve]" \
    && rm /tmp/* && useradd --create-home reader
USER reader
WORKDIR /home/reader
EXPOSE 8000
CMD ["rcmstr-serve", "compact", "--host=0.0.0.0", "--port=8000"]

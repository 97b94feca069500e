# The project with its pinned versions, for docs/kuberay.yaml and cluster.yaml (docs/clusters.md): a GPU needs NVIDIA's container toolkit.
# docker build -t registry.example.com/marval_ray:0.1.0 .
FROM rayproject/ray:2.60.0-py311-cu128
USER ray
ENV RAY_USAGE_STATS_ENABLED=0
WORKDIR /home/ray/marval_ray

# What changes rarely comes first: these gigabytes are built again for other versions only.
COPY --chown=ray:users pyproject.toml setup.cfg constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt .

COPY --chown=ray:users LICENSE NOTICE README.md ./
COPY --chown=ray:users marval_ray marval_ray
COPY --chown=ray:users actors actors
COPY --chown=ray:users jobs jobs
RUN pip install --no-cache-dir --no-deps -e .

# Ray's operator and `ray up` put their own command here.
CMD ["python", "jobs/distill.py", "--help"]

"""Workflow of `serve --executor ray`: replicas of a server on a Ray cluster."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.core.extras import missing_extra
from eyevsai.executors.ray import (
    check_reachable,
    connected_to_ray,
    find_other_machines,
    select_environment,
)
from eyevsai.executors.settings import ReplicaSettings
from eyevsai.inference_log.secret import load_secret
from eyevsai.inference_log.settings import OFF, SECRET, LogWriterSettings, log_url
from eyevsai.inference_log.store import LogStore
from eyevsai.serving.http.access import check_exposure
from eyevsai.serving.http.assembly import ServerConfig, parse_served
from eyevsai.serving.ray.proxy import CALLBACK, CALLBACK_VARIABLE

Announce = Callable[[dict[str, str], str], None]


def serve_on_ray(config: ServerConfig, cluster: ReplicaSettings, announce: Announce) -> None:
    """Serve a registered model on a Ray cluster until a signal.

    Args:
        config: all settings of each replica.
        cluster: address of the cluster, number and resources of the replicas.
        announce: called with the version that is served and the URL when all replicas run.

    Raises:
        UserError: the settings, the cluster or the address cannot be used.
        JobError: a replica failed to start.
    """
    _check_installed()
    check_exposure(config.serve.host, config.security)
    name = f"eyevsai-{parse_served(config.serve.name).name}"
    if cluster.ray_address is not None:
        check_reachable(cluster.ray_address)

    from eyevsai.serving.ray import deployment
    from eyevsai.serving.ray.replica import ReplicaContext, Resources, make_application

    resources = Resources(
        cluster.replicas or 1, cluster.cpus_per_replica or 1, cluster.gpus_per_replica
    )
    workers = config.serve.workers or resources.cpus
    config = replace(config, serve=replace(config.serve, workers=workers))
    num_cpus = resources.replicas * resources.cpus
    variables = {CALLBACK_VARIABLE: CALLBACK}
    with connected_to_ray(cluster.ray_address, num_cpus, variables):
        _check_log_is_shared(config.log)
        _check_resources(resources.cpus, resources.gpus)
        context = ReplicaContext(
            select_environment() | {SECRET: _find_secret(config.log)}, str(Path.cwd())
        )
        application = make_application(config, context, resources)
        with deployment.stopping_on_signals() as stop:
            is_temporary = cluster.ray_address is None
            proxies = deployment.start_proxies(config, is_temporary=is_temporary)
            try:
                version = deployment.deploy(name, application, stop)
                if version is not None:
                    announce(version, proxies.url)
                    deployment.supervise(name, stop)
            finally:
                deployment.remove(name, proxies)


def _check_installed() -> None:
    try:
        import ray.serve  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("--executor ray", "ray-serve") from error


def _check_log_is_shared(settings: LogWriterSettings) -> None:
    """Raise UserError if the log is a file of this machine and the cluster has other machines."""
    others = find_other_machines()
    if not others or settings.log == OFF or LogStore(log_url(settings)).path is None:
        return
    raise UserError(
        f"The inference log {log_url(settings)} is a file of this machine, to which the other "
        f"machines of the cluster ({', '.join(others[:3])}) cannot write. Set --log to a database "
        "of PostgreSQL (postgresql://USER@HOST/DATABASE), or to off."
    )


def _find_secret(settings: LogWriterSettings) -> str:
    """Return the secret of ids and of the split of keys, which all replicas share.

    Raises:
        UserError: a log in PostgreSQL has no secret.
    """
    if settings.log == OFF:
        return os.environ.get(SECRET) or secrets.token_hex(32)
    path = LogStore(log_url(settings)).path
    return load_secret(settings.log_secret_file, path).decode()


def _check_resources(cpus: int, gpus: float) -> None:
    """Raise UserError if no machine of the cluster is large enough for a replica."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call,unused-ignore]
    sizes = [node["Resources"] for node in nodes if node["Alive"]]
    if any(size.get("CPU", 0) >= cpus and size.get("GPU", 0) >= gpus for size in sizes):
        return
    largest = max((size.get("CPU", 0) for size in sizes), default=0)
    most_gpus = max((size.get("GPU", 0) for size in sizes), default=0)
    raise UserError(
        f"No machine of the cluster has {cpus} CPU cores and {gpus:g} GPUs for a replica: the "
        f"largest have {largest:g} cores and {most_gpus:g} GPUs. Use smaller values for "
        "--cpus-per-replica and --gpus-per-replica."
    )

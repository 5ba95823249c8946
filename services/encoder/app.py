"""The encoder as a Ray Serve application: what is deployed, and where it listens."""

from collections.abc import Mapping

from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.schema import ApplicationStatus

from services.encoder.deployment import Encoder
from services.runtime.encoder_channel import ENCODER_APPLICATION
from services.runtime.settings import EncoderSettings, InvalidSettings, Settings, load_settings

SERVICER_FUNCTIONS = ("csr.v1.encoder_pb2_grpc.add_EncoderServiceServicer_to_server",)


def build(args: Mapping[str, str]) -> Application:
    """Build the application from this process's settings: the import_path of a Serve config, as in a RayService.

    Raises:
        InvalidSettings: a setting is wrong, or arguments are given: settings come from one place.
    """
    if args:
        raise InvalidSettings(f"args: {', '.join(args)} given, use CSR_CONFIG or CSR_ENCODER__… instead")
    return application(load_settings())


def application(settings: Settings) -> Application:
    """Return the deployment bound to these settings."""
    encoder = settings.encoder
    deployment = serve.deployment(
        Encoder,
        num_replicas=encoder.replicas,
        max_ongoing_requests=encoder.ongoing_requests,
        max_queued_requests=encoder.queued_requests,
        ray_actor_options={"num_cpus": encoder.replica_cpus},
    )
    return deployment.bind(settings)


def start(settings: Settings) -> None:
    """Start Serve on the Ray cluster that this process is connected to, and begin to deploy.

    Returns before replicas run, because nothing could interrupt the wait; `running` and a look at the port tell the
    rest.
    """
    encoder = settings.encoder
    serve.start(http_options=http_options(encoder), grpc_options=grpc_options(encoder))
    # HAProxy leaves out applications without a route, although nobody calls this one over HTTP.
    target = serve.RunTarget(application(settings), name=ENCODER_APPLICATION, route_prefix=f"/{ENCODER_APPLICATION}")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def running() -> bool:
    """Return whether all replicas run.

    Raises:
        RuntimeError: Serve gave up deploying the application; the text says why.
    """
    deployed = serve.status().applications.get(ENCODER_APPLICATION)
    if deployed is None:
        return False
    if deployed.status == ApplicationStatus.DEPLOY_FAILED:
        traces = [deployment.message for deployment in deployed.deployments.values()]
        cause = (" ".join(traces).strip() or deployed.message).splitlines()[-1]  # a traceback ends with its cause
        raise RuntimeError(f"Ray Serve cannot deploy the encoder: {cause}")
    return bool(deployed.status == ApplicationStatus.RUNNING)


def stop() -> None:
    """Take the application down, and Serve with it when nothing else runs there."""
    if ENCODER_APPLICATION in serve.status().applications:
        serve.delete(ENCODER_APPLICATION)
    if not serve.status().applications:
        serve.shutdown()


def http_options(encoder: EncoderSettings) -> HTTPOptions:
    """Return where Serve's HTTP port listens; the gRPC port takes the same interface."""
    return HTTPOptions(host=encoder.host, port=encoder.http_port)


def grpc_options(encoder: EncoderSettings) -> gRPCOptions:
    """Return where Serve's gRPC port listens, for which service and for how long."""
    return gRPCOptions(
        port=encoder.port,
        grpc_servicer_functions=list(SERVICER_FUNCTIONS),
        request_timeout_s=encoder.timeout_seconds,
    )

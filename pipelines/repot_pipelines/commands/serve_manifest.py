"""`repot serve-manifest`: prepare a published version for KServe and print its manifest."""

import click

from repot.settings.integrations import IntegrationSettings
from repot_pipelines.commands.option_types import NAMESPACE, SERVICE_ACCOUNT
from repot_pipelines.commands.options import debug_option

_DEFAULTS = IntegrationSettings()


@click.command("serve-manifest")
@click.argument("model")
@click.option("--name", default="", help="Name of the InferenceService; default: the model's.")
@click.option("--namespace", default="", type=NAMESPACE, help="Namespace of the InferenceService.")
@click.option(
    "--service-account",
    default="",
    type=SERVICE_ACCOUNT,
    help="Service account of KServe's pods, which must be able to read the storage.",
)
@click.option("--cpu", default=_DEFAULTS.kserve_cpu, show_default=True, help="CPUs of a pod.")
@click.option(
    "--memory", default=_DEFAULTS.kserve_memory, show_default=True, help="Memory of a pod."
)
@click.option(
    "--runtime-version",
    default=_DEFAULTS.kserve_runtime_version,
    show_default=True,
    help="Tag of the image tensorflow/serving.",
)
@debug_option
def serve_manifest_command(
    *,
    model: str,
    name: str,
    namespace: str,
    service_account: str,
    cpu: str,
    memory: str,
    runtime_version: str,
) -> None:
    """Print a KServe InferenceService that serves MODEL; `kubectl apply -f -` creates it.

    MODEL is a champion.json or the folder of a version, on gs:// or s3://. The version is copied
    once into the layout that TensorFlow Serving needs, and the manifest is kept beside it.
    """
    from repot import storage
    from repot.evaluator.inference_service import write_inference_service
    from repot.predictor import find_model

    settings = IntegrationSettings(
        kserve_service_account=service_account,
        kserve_cpu=cpu,
        kserve_memory=memory,
        kserve_runtime_version=runtime_version,
    )
    version_uri = find_model(storage.normalise(model))
    text = write_inference_service(version_uri, settings, name=name, namespace=namespace)
    click.echo(text, nl=False)

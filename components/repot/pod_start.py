"""Why a pod has not started, according to its status and its events; pure functions.

The texts continue a sentence that begins "Train is waiting: ".
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from repot.errors import printable
from repot.kubernetes_rules import KubernetesObject

UNSCHEDULABLE = "unschedulable"
"""No node has room, or none is allowed."""
SCALING = "scaling"
"""The same, and an autoscaler is adding a node."""
GATED = "gated"
"""A controller such as Kueue holds the pod back."""
QUOTA = "quota"
"""The pod is not created, because a ResourceQuota of the namespace is used up."""
IMAGE = "image"
"""The container image cannot be pulled."""
CONFIG = "config"
"""The container refers to something missing, or its settings are not allowed."""
CONTAINER = "container"
"""The container runtime cannot create or start the container."""
VOLUME = "volume"
"""A volume cannot be attached or mounted."""
NODE = "node"
"""The node cannot set up the pod, e.g. its network."""
QUEUE = "queue"
"""The Job is suspended, or its pods do not exist yet."""
PULLING = "pulling"
"""The container image is being pulled: large images take minutes."""
STARTING = "starting"
"""Nothing is wrong that could be seen."""
OTHER = "other"
"""A reason that is not in this list; the text quotes it."""

PERMANENT_CAUSES = (IMAGE, CONFIG)
"""The pod waits indefinitely until a person removes the cause."""

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
"""Label of an Indexed Job's pods: the number of the worker."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Label of a Job that Kueue starts when its queue has room."""

_NORMAL_REASONS = ("", "ContainerCreating", "PodInitializing")
_CAUSES = {
    "ErrImageNeverPull": IMAGE,
    "ErrImagePull": IMAGE,
    "ImageInspectError": IMAGE,
    "ImagePullBackOff": IMAGE,
    "InvalidImageName": IMAGE,
    "RegistryUnavailable": IMAGE,
    "SignatureValidationFailed": IMAGE,
    "CreateContainerConfigError": CONFIG,
    "CreateContainerError": CONTAINER,
    "PostStartHookError": CONTAINER,
    "PreCreateHookError": CONTAINER,
    "PreStartHookError": CONTAINER,
    "RunContainerError": CONTAINER,
    "StartError": CONTAINER,
    "SchedulingGated": GATED,
    "Unschedulable": UNSCHEDULABLE,
}
"""Reasons of waiting containers and of the condition PodScheduled.

Source: pkg/kubelet/images/types.go and kuberuntime/kuberuntime_container.go of Kubernetes."""

_STARTING_EVENTS = {
    "FailedAttachVolume": VOLUME,
    "FailedMapVolume": VOLUME,
    "FailedMount": VOLUME,
    "FailedCreatePodContainer": NODE,
    "FailedCreatePodSandBox": NODE,
    "FailedPodSandBoxStatus": NODE,
    "FailedPrepareDynamicResources": NODE,
    "NetworkNotReady": NODE,
    "Pulling": PULLING,
    "Pulled": STARTING,
    "Created": STARTING,
    "Started": STARTING,
}
"""Events of a pod that has a node; the latest tells what it waits for. Source:
pkg/kubelet/events/event.go of Kubernetes."""

_SCALING_EVENTS = ("TriggeredScaleUp", "Nominated")
"""Of the cluster autoscaler and of Karpenter: a node for the pod is on its way."""
_NO_SCALING_EVENT = "NotTriggerScaleUp"

_QUOTA_MESSAGE = re.compile(r"exceeded quota: .*")
_IMAGE_PREFIXES = re.compile(
    r'^(?:Back-off pulling image "[^"]*"|[Ff]ailed to pull(?: and unpack)? image "[^"]*"|'
    r'failed to resolve(?: reference "[^"]*"| image)|ErrImagePull|'
    r"rpc error: code = \w+ desc =|Error response from daemon)(?::\s*|\s+|$)"
)
_MAX_MESSAGE_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacle:
    """What keeps a pod from starting.

    Attributes:
        cause: UNSCHEDULABLE, IMAGE or another of the causes above.
        text: The reason as half a sentence.
        key: Equal for two obstacles that differ only in wording, such as the two reasons between
            which Kubernetes alternates while it retries a pull.
    """

    cause: str
    text: str
    key: tuple[str, str]

    @property
    def is_error(self) -> bool:
        """Return whether something is wrong, or may be; PULLING and STARTING are normal."""
        return self.cause not in (PULLING, STARTING)


def find_obstacle(
    pod: KubernetesObject, events: Iterable[KubernetesObject] = ()
) -> Obstacle | None:
    """Return what keeps a pod from starting; None if all its containers have started, or ended.

    Args:
        pod: The pod.
        events: Its events; without them, volumes and the autoscaler are unknown.
    """
    status = pod.get("status") or {}
    phase = status.get("phase", "Pending")
    if phase in ("Succeeded", "Failed"):
        return None
    events = sorted(events, key=_event_time)
    for container in _waiting_containers(status, is_pending=phase == "Pending"):
        waiting = container["state"]["waiting"]
        image = _image_of(pod, container)
        message = waiting.get("message", "")
        if _CAUSES.get(waiting["reason"]) == IMAGE and not _strip_image_prefixes(message):
            message = _last_message(events, "Failed") or message
        return describe_obstacle(waiting["reason"], message, image=image)
    if phase != "Pending":
        return None
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unscheduled(pod, condition, events)
    return _starting(pod, events)


def find_job_obstacle(
    job: KubernetesObject, pods: Sequence[KubernetesObject], events: Iterable[KubernetesObject] = ()
) -> Obstacle | None:
    """Return why not all workers of a Job are running; None if they are.

    Args:
        job: The Job.
        pods: Its pods that have not ended.
        events: Events of the Job, whose latest warning explains missing pods, or of its pods.
    """
    events, spec = sorted(events, key=_event_time), job["spec"]
    if spec.get("suspend"):
        queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
        text = "the Job is suspended"
        if queue:
            text = f"{text}; queue {queue} starts it when there is room"
        return Obstacle(cause=QUEUE, text=text, key=(QUEUE, "suspended"))
    if len(pods) < spec["parallelism"]:
        return _missing_pods(events)
    found = [(pod, obstacle) for pod in pods if (obstacle := find_obstacle(pod, _of(pod, events)))]
    if not found:
        return None
    # What never ends by itself comes first, what is normal last.
    pod, obstacle = min(
        found,
        key=lambda each: (each[1].cause not in PERMANENT_CAUSES, not each[1].is_error),
    )
    index = (pod["metadata"].get("labels") or {}).get(INDEX_LABEL, "?")
    return replace(obstacle, text=f"worker {index}: {obstacle.text}")


def describe_obstacle(reason: str, message: str, *, image: str = "") -> Obstacle:
    """Return an obstacle from the words of Kubernetes or Argo.

    Args:
        reason: The reason, e.g. ImagePullBackOff; "" if only the message is known.
        message: The message.
        image: Image of the container; "" if it is not known.
    """
    quota = _QUOTA_MESSAGE.search(message)
    if quota:
        return Obstacle(cause=QUOTA, text=_one_line(quota[0]), key=(QUOTA, ""))
    cause = _CAUSES.get(reason, OTHER)
    if reason in _NORMAL_REASONS and not message:
        return Obstacle(cause=STARTING, text="the pod is starting", key=(STARTING, ""))
    if cause == IMAGE:
        image = image or _quoted(message)
        details = _one_line(_strip_image_prefixes(message)) or reason
        name = f"image {image}" if image else "the image"
        return Obstacle(cause=IMAGE, text=f"{name} cannot be pulled: {details}", key=(IMAGE, image))
    message = _one_line(message)
    if cause in (UNSCHEDULABLE, GATED):
        text = _scheduler_text(message) or reason
        # The numbers change as nodes come and go.
        return Obstacle(cause=cause, text=text, key=(cause, re.sub(r"\d+", "", text)))
    intro = {
        CONFIG: "its container cannot be created",
        CONTAINER: "its container cannot be started",
    }
    words = [intro.get(cause, ""), "" if cause == CONFIG else reason, message]
    text = ": ".join(filter(None, words))
    return Obstacle(cause=cause, text=text, key=(cause, text))


def _of(pod: KubernetesObject, events: Iterable[KubernetesObject]) -> list[KubernetesObject]:
    name = pod["metadata"].get("name")
    return [event for event in events if (event.get("involvedObject") or {}).get("name") == name]


def _missing_pods(events: Sequence[KubernetesObject]) -> Obstacle:
    warnings = [event for event in events if event.get("type") == "Warning"]
    text = "not all pods of the Job exist yet"
    if not warnings:
        return Obstacle(cause=QUEUE, text=text, key=(QUEUE, "missing"))
    reason, message = warnings[-1].get("reason", ""), warnings[-1].get("message", "")
    found = describe_obstacle(reason, message)
    return replace(found, text=f"{text}: {found.text}")


def _waiting_containers(
    status: KubernetesObject, *, is_pending: bool
) -> Iterator[KubernetesObject]:
    """Yield the containers that wait for another reason than their turn."""
    for name in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(name) or []:
            waiting = (container.get("state") or {}).get("waiting")
            # In a running pod, a container that has run before is being restarted.
            has_run = bool(container.get("restartCount") or container.get("lastState"))
            if (
                waiting
                and waiting.get("reason", "") not in _NORMAL_REASONS
                and (is_pending or not has_run)
            ):
                yield container


def _unscheduled(
    pod: KubernetesObject, condition: KubernetesObject, events: Sequence[KubernetesObject]
) -> Obstacle:
    found = describe_obstacle(
        condition.get("reason", "Unschedulable"), condition.get("message", "")
    )
    if found.cause != UNSCHEDULABLE:
        return found
    requests = _requests_text(pod)
    text = f"{found.text}; it requests {requests}" if requests else found.text
    scaling = [
        event for event in events if event.get("reason") in (*_SCALING_EVENTS, _NO_SCALING_EVENT)
    ]
    if not scaling:
        return Obstacle(cause=UNSCHEDULABLE, text=text, key=found.key)
    message = _one_line(scaling[-1].get("message", ""))
    if scaling[-1]["reason"] == _NO_SCALING_EVENT:
        details = message.partition(": ")[2] or message
        text = f"{text}; the autoscaler adds no node: {details}"
        return Obstacle(cause=UNSCHEDULABLE, text=text, key=(UNSCHEDULABLE, "not scaling"))
    text = f"the autoscaler is adding a node ({message}); until then {text}"
    return Obstacle(cause=SCALING, text=text, key=(SCALING, ""))


def _starting(pod: KubernetesObject, events: Sequence[KubernetesObject]) -> Obstacle:
    """Return what a pod waits for that has a node, or that the scheduler has not seen yet."""
    known = [event for event in events if event.get("reason") in _STARTING_EVENTS]
    cause = _STARTING_EVENTS[known[-1]["reason"]] if known else STARTING
    message = _one_line(known[-1].get("message", "")) if known else ""
    if cause == VOLUME:
        return Obstacle(
            cause=VOLUME, text=f"a volume cannot be mounted: {message}", key=(VOLUME, "")
        )
    if cause == NODE:
        name = (pod.get("spec") or {}).get("nodeName", "")
        node = f"node {name}" if name else "the node"
        return Obstacle(cause=NODE, text=f"{node} cannot set it up: {message}", key=(NODE, ""))
    if cause == PULLING:
        image = _quoted(message)
        text = f"image {image} is being pulled" if image else "its image is being pulled"
        return Obstacle(cause=PULLING, text=text, key=(PULLING, image))
    return Obstacle(cause=STARTING, text="the pod is starting", key=(STARTING, ""))


def _requests_text(pod: KubernetesObject) -> str:
    """Return what the pod's program requests, e.g. "cpu 4, memory 16Gi, nvidia.com/gpu 1"."""
    containers = (pod.get("spec") or {}).get("containers") or [{}]
    # Argo's own containers, which request next to nothing, are beside it.
    named_main = [each for each in containers if each.get("name") == "main"]
    resources = (named_main or containers)[0].get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    # Accelerators have a limit only; their names have a domain.
    accelerators = {name: amount for name, amount in limits.items() if "/" in name}
    amounts = {**accelerators, **requests}
    return ", ".join(f"{name} {amount}" for name, amount in sorted(amounts.items()))


def _scheduler_text(message: str) -> str:
    """Return the scheduler's message without its remarks on preemption."""
    message = re.split(r",?\.? ?(?:preemption: |no new claims to deallocate)", message)[0]
    return message.strip(" ,.")


def _strip_image_prefixes(message: str) -> str:
    """Return the cause of a failed pull, without the calls through which it was passed."""
    message = message.strip()
    while (stripped := _IMAGE_PREFIXES.sub("", message, count=1)) != message:
        message = stripped
    return message


def _image_of(pod: KubernetesObject, container: KubernetesObject) -> str:
    spec = pod.get("spec") or {}
    for each in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        if each["name"] == container["name"]:
            return str(each.get("image", ""))
    return str(container.get("image", ""))


def _quoted(message: str) -> str:
    match = re.search(r'image (?:name )?"([^"]+)"', message)
    return match[1] if match else ""


def _last_message(events: Sequence[KubernetesObject], reason: str) -> str:
    messages = [str(event.get("message", "")) for event in events if event.get("reason") == reason]
    informative = [message for message in messages if _strip_image_prefixes(message)]
    # Beside the cause Kubernetes also writes "Error: ErrImagePull".
    causes = [message for message in informative if not message.startswith("Error: ")]
    return causes[-1] if causes else ""


def _event_time(event: KubernetesObject) -> str:
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event.get("metadata", {}).get("creationTimestamp")
        or ""
    )


def _one_line(text: str) -> str:
    text = printable(" ".join(text.split()).rstrip("."))
    return text if len(text) <= _MAX_MESSAGE_CHARACTERS else f"{text[:_MAX_MESSAGE_CHARACTERS]}..."

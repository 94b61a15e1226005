"""Check a pod against the Pod Security Standard "restricted", which includes "baseline".

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/, as of Kubernetes 1.36.
"""

from collections.abc import Iterator

from repot.kubernetes_rules import KubernetesObject

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
_PROFILES = ("RuntimeDefault", "Localhost")
_APPARMOR = (None, *_PROFILES)
_SELINUX = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")


def restricted_violations(pod: KubernetesObject) -> list[str]:
    """Return the path of every field in a pod's spec that the standard forbids or misses."""
    return list(_pod_violations(pod))


def _pod_violations(pod: KubernetesObject) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        if not set(volume) - {"name"} <= _VOLUMES:
            yield f"volumes/{volume['name']}"
    context = pod.get("securityContext", {})
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctls/{sysctl['name']}"
    yield from _context_violations("pod", context)
    kinds = ("initContainers", "containers", "ephemeralContainers")
    for container in [each for kind in kinds for each in pod.get(kind, [])]:
        yield from _container_violations(container, context)


def _container_violations(
    container: KubernetesObject, pod_context: KubernetesObject
) -> Iterator[str]:
    name, context = container["name"], container.get("securityContext", {})
    yield from _context_violations(name, context)
    if context.get("privileged"):
        yield f"{name}/privileged"
    if context.get("procMount", "Default") != "Default":
        yield f"{name}/procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name}/hostPort"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}/allowPrivilegeEscalation"
    if context.get("runAsNonRoot", pod_context.get("runAsNonRoot")) is not True:
        yield f"{name}/runAsNonRoot"
    if not context.get("seccompProfile", pod_context.get("seccompProfile")):
        yield f"{name}/seccompProfile"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name}/capabilities/drop"
    if not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
        yield f"{name}/capabilities/add"


def _context_violations(where: str, context: KubernetesObject) -> Iterator[str]:
    """Check the fields that pods and containers share: set, they must have an allowed value."""
    if context.get("runAsUser") == 0:
        yield f"{where}/runAsUser"
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{where}/seccompProfile"
    if context.get("appArmorProfile", {}).get("type") not in _APPARMOR:
        yield f"{where}/appArmorProfile"
    options = context.get("seLinuxOptions", {})
    if options.get("type") not in _SELINUX or options.get("user") or options.get("role"):
        yield f"{where}/seLinuxOptions"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{where}/windowsOptions"

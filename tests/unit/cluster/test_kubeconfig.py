import threading
from pathlib import Path

import pytest
import yaml

from repot_pipelines.cluster.errors import ClusterError
from repot_pipelines.cluster.kubeconfig import ClusterContext, call_with_timeout, find_context


def write(path: Path, *contexts: str, current: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        yaml.safe_dump(
            {"contexts": [{"name": name} for name in contexts], "current-context": current}
        )
    )
    return str(path)


def test_without_kubeconfig_or_current_context_there_is_no_cluster(tmp_path: Path) -> None:
    assert find_context("", {}, tmp_path) is None
    write(tmp_path / ".kube" / "config", "a", "b")
    assert find_context("", {}, tmp_path) is None
    (tmp_path / ".kube" / "config").write_text("")
    assert find_context("", {}, tmp_path) is None
    assert find_context("", {"KUBECONFIG": "/dev/null"}, tmp_path) is None


def test_current_context_is_used_unless_another_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / ".kube" / "config", "a", "b", current="a")

    assert find_context("", {}, tmp_path) == ClusterContext(kubeconfig=path, name="a")
    assert find_context("b", {}, tmp_path) == ClusterContext(kubeconfig=path, name="b")


def test_kubeconfig_may_list_several_files(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", "a"), write(tmp_path / "two", "b", current="b")
    paths = f"{one}:{tmp_path / 'none'}:{two}"
    environment = {"KUBECONFIG": paths}

    assert find_context("", environment, tmp_path) == ClusterContext(kubeconfig=paths, name="b")
    assert find_context("a", environment, tmp_path) == ClusterContext(kubeconfig=paths, name="a")


def test_pod_uses_its_own_cluster_unless_a_context_is_given(tmp_path: Path) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    write(tmp_path / ".kube" / "config", "a", current="a")

    own, selected = find_context("", pod, tmp_path), find_context("a", pod, tmp_path)

    assert own is not None
    assert own.title == "the cluster of this pod"
    assert selected is not None
    assert selected.title == "context a of kubeconfig"


def test_kubeconfig_of_the_environment_wins_over_the_cluster_of_the_pod(tmp_path: Path) -> None:
    # Jobs of some CI systems run in a pod of one cluster with the kubeconfig of another.
    path = write(tmp_path / "of-the-job", "a", current="a")
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBECONFIG": path}

    assert find_context("", pod, tmp_path) == ClusterContext(kubeconfig=path, name="a")
    assert find_context("", {**pod, "KUBECONFIG": "/dev/null"}, tmp_path) is None


def test_proxy_of_the_contexts_cluster_is_found_in_the_first_file_that_has_it(
    tmp_path: Path,
) -> None:
    def content(proxy: str, current: str) -> str:
        clusters = [{"name": "here", "cluster": {"proxy-url": proxy}}, {"name": "there"}]
        contexts = [
            {"name": "a", "context": {"cluster": "here"}},
            {"name": "b", "context": {"cluster": "there"}},
        ]
        return yaml.safe_dump(
            {"clusters": clusters, "contexts": contexts, "current-context": current}
        )

    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text(content("http://first:3128", "a"))
    two.write_text(content("http://second:3128", "b"))
    environment = {"KUBECONFIG": f"{one}:{two}"}

    proxied, direct = (find_context(name, environment, tmp_path) for name in ("", "b"))

    assert proxied is not None
    assert direct is not None
    assert (proxied.name, proxied.proxy_url) == ("a", "http://first:3128")
    assert direct.proxy_url == ""


@pytest.mark.parametrize(
    "text", ["contexts: [", "[]\n- x", "contexts: [{}]", "contexts: 7", "just text"]
)
def test_unreadable_kubeconfig_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken"
    path.write_text(text)

    with pytest.raises(ClusterError, match=r"cannot be read: .*Repair it"):
        find_context("", {"KUBECONFIG": str(path)}, tmp_path)


def test_missing_kubeconfig_or_context_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="There is no kubeconfig"):
        find_context("", {"KUBECONFIG": str(tmp_path / "none")}, tmp_path)
    with pytest.raises(ClusterError, match="There is no kubeconfig"):
        find_context("a", {}, tmp_path)
    path = write(tmp_path / "config", "a", "b", current="c")
    with pytest.raises(ClusterError, match=r"has no context c\. Choose with --context among: a, b"):
        find_context("", {"KUBECONFIG": path}, tmp_path)
    with pytest.raises(ClusterError, match="has no context d"):
        find_context("d", {"KUBECONFIG": path}, tmp_path)


def test_call_with_timeout_returns_the_value() -> None:
    assert call_with_timeout(5, lambda: 7) == 7
    assert call_with_timeout(5, lambda: None) is None


def test_call_with_timeout_raises_the_error_of_the_call() -> None:
    with pytest.raises(ZeroDivisionError):
        call_with_timeout(5, lambda: 1 // 0)


def test_call_with_timeout_abandons_a_call_that_hangs() -> None:
    release = threading.Event()

    with pytest.raises(TimeoutError):
        call_with_timeout(0.05, release.wait)
    release.set()

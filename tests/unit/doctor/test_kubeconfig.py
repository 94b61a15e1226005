from pathlib import Path

import pytest
import yaml

from repot_pipelines.doctor.cluster_errors import ClusterError
from repot_pipelines.doctor.kubeconfig import Place, find_place


def write(path: Path, *contexts: str, current: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        yaml.safe_dump(
            {"contexts": [{"name": name} for name in contexts], "current-context": current}
        )
    )
    return str(path)


def test_nothing_names_a_cluster(tmp_path: Path) -> None:
    assert find_place("", {}, tmp_path) is None
    write(tmp_path / ".kube" / "config", "a", "b")
    assert find_place("", {}, tmp_path) is None
    (tmp_path / ".kube" / "config").write_text("")
    assert find_place("", {}, tmp_path) is None
    assert find_place("", {"KUBECONFIG": "/dev/null"}, tmp_path) is None


def test_the_current_context_is_taken_unless_another_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / ".kube" / "config", "a", "b", current="a")

    assert find_place("", {}, tmp_path) == Place(kubeconfig=path, context="a")
    assert find_place("b", {}, tmp_path) == Place(kubeconfig=path, context="b")


def test_kubeconfig_may_be_several_files(tmp_path: Path) -> None:
    paths = f"{write(tmp_path / 'one', 'a')}:{tmp_path / 'none'}:{write(tmp_path / 'two', 'b', current='b')}"

    assert find_place("", {"KUBECONFIG": paths}, tmp_path) == Place(kubeconfig=paths, context="b")
    assert find_place("a", {"KUBECONFIG": paths}, tmp_path) == Place(kubeconfig=paths, context="a")


def test_a_pod_takes_its_own_cluster_unless_a_context_is_named(tmp_path: Path) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    write(tmp_path / ".kube" / "config", "a", current="a")

    own, named = find_place("", pod, tmp_path), find_place("a", pod, tmp_path)

    assert own is not None
    assert own.title == "the cluster of this pod"
    assert named is not None
    assert named.title == "context a of kubeconfig"


@pytest.mark.parametrize(
    "text", ["contexts: [", "[]\n- x", "contexts: [{}]", "contexts: 7", "just text"]
)
def test_a_kubeconfig_that_cannot_be_read_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken"
    path.write_text(text)

    with pytest.raises(ClusterError, match=r"cannot be read: .*Repair it"):
        find_place("", {"KUBECONFIG": str(path)}, tmp_path)


def test_what_is_named_and_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="There is no kubeconfig"):
        find_place("", {"KUBECONFIG": str(tmp_path / "none")}, tmp_path)
    with pytest.raises(ClusterError, match="There is no kubeconfig"):
        find_place("a", {}, tmp_path)
    path = write(tmp_path / "config", "a", "b", current="c")
    with pytest.raises(ClusterError, match=r"has no context c\. Choose with --context among: a, b"):
        find_place("", {"KUBECONFIG": path}, tmp_path)
    with pytest.raises(ClusterError, match="has no context d"):
        find_place("d", {"KUBECONFIG": path}, tmp_path)

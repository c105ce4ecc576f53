"""Create, list, watch and delete with the stock Python client."""

import threading

from kubernetes import client, config, watch

config.load_kube_config()
apps, core = client.AppsV1Api(), client.CoreV1Api()

deployment = client.V1Deployment(
    metadata=client.V1ObjectMeta(name="py"),
    spec=client.V1DeploymentSpec(
        replicas=2,
        selector=client.V1LabelSelector(match_labels={"app": "py"}),
        template=client.V1PodTemplateSpec(
            metadata=client.V1ObjectMeta(labels={"app": "py"}),
            spec=client.V1PodSpec(containers=[client.V1Container(name="box", image="coxswain/testbox:1")]),
        ),
    ),
)

start = core.list_namespaced_pod("default").metadata.resource_version
apps.create_namespaced_deployment("default", deployment)
running, seen = set(), []
for event in watch.Watch().stream(
    core.list_namespaced_pod, "default", label_selector="app=py", resource_version=start, timeout_seconds=120
):
    pod = event["object"]
    seen.append((event["type"], pod.metadata.name))
    if pod.status.phase == "Running":
        running.add(pod.metadata.name)
    if len(running) == 2:
        break
assert len(running) == 2, seen
assert [kind for kind, _ in seen].count("ADDED") == 2, seen

service = core.create_namespaced_service(
    "default",
    client.V1Service(
        metadata=client.V1ObjectMeta(name="py"),
        spec=client.V1ServiceSpec(selector={"app": "py"}, ports=[client.V1ServicePort(port=80, target_port=8080)]),
    ),
)
assert service.spec.cluster_ip, service
assert {item.metadata.name for item in core.list_namespaced_pod("default", label_selector="app=py").items} == running

scaled = apps.patch_namespaced_deployment_scale("py", "default", {"spec": {"replicas": 1}})
assert scaled.spec.replicas == 1, scaled

deleted = threading.Event()


def wait_for_deletes():
    gone = set()
    version = core.list_namespaced_pod("default").metadata.resource_version
    started.set()
    for event in watch.Watch().stream(
        core.list_namespaced_pod, "default", label_selector="app=py", resource_version=version, timeout_seconds=120
    ):
        if event["type"] == "DELETED":
            gone.add(event["object"].metadata.name)
        if not core.list_namespaced_pod("default", label_selector="app=py").items:
            deleted.set()
            return


started = threading.Event()
waiter = threading.Thread(target=wait_for_deletes)
waiter.start()
started.wait()
apps.delete_namespaced_deployment("py", "default")
core.delete_namespaced_service("py", "default")
waiter.join()
assert deleted.is_set()
try:
    apps.read_namespaced_deployment("py", "default")
    raise AssertionError("the deployment is still there")
except client.ApiException as error:
    assert error.status == 404, error
print("all done")

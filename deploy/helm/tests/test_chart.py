"""What the chart promises, by what it renders."""

import copy
import functools
import hashlib
import http.server
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import unittest

import kubernetes_validate
import yaml

import chart

# Kinds of others, which Kubernetes' schemas do not have.
CUSTOM = {"ServiceMonitor", "PrometheusRule", "Certificate"}
KUBERNETES = ["1.30", "1.34"]
# What values may name and the chart does not make.
GIVEN = {
    "outrider-tls", "draft-tls", "target-tls", "coordinator-tls", "api-keys", "hub-token", "otel-headers", "ingress-tls",
    "models", "hub-cache",
}


@functools.lru_cache(maxsize=None)
def _rendered(name):
    return chart.objects(chart.values(name))


def rendered(name="default"):
    return copy.deepcopy(_rendered(name))


def render(*changes):
    """With values set as `draft.model.source=volume` would."""
    given = {}
    for change in changes:
        path, value = change.split("=", 1)
        at = given
        *folders, last = path.split(".")
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = yaml.safe_load(value)
    return chart.objects(given)


def of_kind(objects, kind):
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def pods(objects):
    """Specs and labels of all pods, by the name of what they are of."""
    found = {}
    for name, deployment in of_kind(objects, "Deployment").items():
        template = deployment["spec"]["template"]
        found[name] = (template["metadata"]["labels"], template["spec"])
    for name, pod in of_kind(objects, "Pod").items():
        found[name] = (pod["metadata"]["labels"], pod["spec"])
    return found


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def container(objects, deployment, name):
    spec = of_kind(objects, "Deployment")[deployment]["spec"]["template"]["spec"]
    return next(found for found in containers(spec) if found["name"] == name)


def selects(selector, labels):
    return selector.items() <= labels.items()


class Valid(unittest.TestCase):
    def test_the_chart_is_without_fault(self):
        found = chart.problems()
        self.assertEqual((found["total_charts_linted"], found["errors"]), (1, []))
        # An icon is recommended: that is information, 1. Warnings are 2.
        self.assertFalse([message for message in found["messages"] if message["severity"] > 1])

    def test_kubernetes_takes_what_every_set_renders_to(self):
        for name in ["default", *chart.SETS]:
            for version in KUBERNETES:
                for found in chart.objects(chart.values(name), f"{version}.0"):
                    if found["kind"] in CUSTOM:
                        continue
                    with self.subTest(values=name, version=version, kind=found["kind"], name=found["metadata"]["name"]):
                        kubernetes_validate.validate(found, version, strict=True)

    def test_what_the_rust_tests_start_is_what_is_rendered(self):
        for name in chart.STARTED:
            written = (chart.HELM / "rendered" / f"{name}.yaml").read_text()
            self.assertEqual(written, chart.text(chart.values(name)), f"{name}: run deploy/helm/tests/run.py --write")

    def test_sets_say_what_they_are_for(self):
        self.assertGreaterEqual(len(chart.SETS), 12)
        for path in chart.SETS.values():
            self.assertRegex(path.read_text().splitlines()[0], r"^# .{20,}\.$", path.name)

    def test_bad_values_are_refused_by_name(self):
        for change, field in [
            ("draft.replicas=-1", "replicas"),
            ("target.replicas=two", "replicas"),
            ("target.device=gpu", "device"),
            ("target.device='cuda:x'", "device"),
            ("common.grace=10", "grace"),
            ("common.grace=ten", "grace"),
            ("coordinator.placement=node", "placement"),
            ("coordinator.gamma=33", "gamma"),
            ("coordinator.anticipate=65", "anticipate"),
            ("coordinator.service.httpPort=70000", "httpPort"),
            ("target.model.source=ftp", "source"),
            ("target.model.download.sha256=abc", "sha256"),
            ("target.model.download.file=../x.gguf", "file"),
            ("target.model.download.file=a b.gguf", "file"),
            ("target.model.hub.repository=no slash", "repository"),
            ("target.model.volume.path=/etc/passwd", "path"),
            ("target.model.volume.path=../x", "path"),
            ("target.maxSesions=3", "maxSesions"),
            ("draft.kvBytes=0", "kvBytes"),
            ("otel.protocol=http", "protocol"),
            ("tls.certManager.issuerRef.kind=Secret", "kind"),
            ("placement.draftNear=far", "draftNear"),
            ("networkPolicy.modelsPorts=[0]", "modelsPorts"),
            ("unknown=1", "unknown"),
        ]:
            with self.subTest(change=change), self.assertRaises(Exception) as refused:
                render(change)
            self.assertIn(field, str(refused.exception), change)

    def test_what_belongs_together_is_asked_for(self):
        for change, words in [
            (["tls.enabled=true"], "tls.secretName"),
            (["target.model.source=volume", "target.model.volume.path=x.gguf"], "volume.source"),
            (["target.model.source=volume", "target.model.volume.source={emptyDir: {}}"], "volume.path"),
            (["target.model.source=download", "target.model.download.url=https://x/y"], "sha256"),
            (["target.model.source=download", f"target.model.download.sha256='{'0' * 64}'"], "url"),
            (["target.model.source=hub"], "repository"),
            (["tls.mutual=true"], "tls.enabled"),
            (["coordinator.tls.mutual=true"], "tls.enabled"),
            (["tls.certManager.enabled=true"], "tls.enabled"),
            (["tls.enabled=true", "tls.certManager.enabled=true"], "issuerRef.name"),
            (["draft.autoscaling={enabled: true, cpuPercent: null}"], "draft.autoscaling"),
            (["target.autoscaling={enabled: true, minReplicas: 9}"], "maxReplicas"),
        ]:
            with self.subTest(change=change), self.assertRaises(Exception) as refused:
                render(*change)
            self.assertIn(words, str(refused.exception), change)


class Everywhere(unittest.TestCase):
    """Of every set of values."""

    def each(self):
        for name in ["default", *chart.SETS]:
            yield name, rendered(name)

    def test_pods_are_restricted(self):
        for name, objects in self.each():
            for pod, (_, spec) in pods(objects).items():
                with self.subTest(values=name, pod=pod):
                    security = spec["securityContext"]
                    self.assertTrue(security["runAsNonRoot"] and security["runAsUser"] > 0)
                    self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"})
                    self.assertIs(spec["automountServiceAccountToken"], False)
                    for key in ["hostNetwork", "hostPID", "hostIPC"]:
                        self.assertNotIn(key, spec)
                    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
                    for volume in spec.get("volumes", []):
                        self.assertTrue(set(volume) - {"name"} <= allowed, volume)
                    for found in containers(spec):
                        self.assertEqual(found["securityContext"], {
                            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
                        })

    def test_containers_are_pinned_and_bounded(self):
        for name, objects in self.each():
            for pod, (_, spec) in pods(objects).items():
                for found in containers(spec):
                    with self.subTest(values=name, pod=pod, container=found["name"]):
                        self.assertRegex(found["image"], r":[0-9][A-Za-z0-9._-]*$")
                        for kind in ["requests", "limits"]:
                            self.assertTrue({"cpu", "memory"} <= set(found["resources"][kind]))

    def test_services_budgets_and_scalers_find_their_pods(self):
        for name, objects in self.each():
            deployments = of_kind(objects, "Deployment")
            labels = {pod: found for pod, (found, _) in pods(objects).items() if pod in deployments}
            for service in of_kind(objects, "Service").values():
                spec = service["spec"]
                chosen = [pod for pod in labels if selects(spec["selector"], labels[pod])]
                with self.subTest(values=name, service=service["metadata"]["name"]):
                    self.assertEqual(len(chosen), 1)
                    of_pod = containers(deployments[chosen[0]]["spec"]["template"]["spec"])
                    ports = {port["name"] for found in of_pod for port in found.get("ports", [])}
                    self.assertTrue({port["targetPort"] for port in spec["ports"]} <= ports)
            for deployment in deployments.values():
                self.assertTrue(selects(deployment["spec"]["selector"]["matchLabels"], labels[deployment["metadata"]["name"]]))
            for kind in ["PodDisruptionBudget", "ServiceMonitor"]:
                for found in of_kind(objects, kind).values():
                    selector = found["spec"]["selector"]["matchLabels"]
                    of = labels.values() if kind == "PodDisruptionBudget" else [s["metadata"]["labels"] for s in of_kind(objects, "Service").values()]
                    self.assertEqual(sum(selects(selector, chosen) for chosen in of), 1, (name, kind))
            for scaler in of_kind(objects, "HorizontalPodAutoscaler").values():
                self.assertIn(scaler["spec"]["scaleTargetRef"]["name"], deployments)

    def test_what_is_referred_to_is_there(self):
        for name, objects in self.each():
            made = {certificate["spec"]["secretName"] for certificate in of_kind(objects, "Certificate").values()}
            accounts = set(of_kind(objects, "ServiceAccount"))
            for pod, (_, spec) in pods(objects).items():
                with self.subTest(values=name, pod=pod):
                    self.assertIn(spec["serviceAccountName"], accounts)
                    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
                    for volume in volumes.values():
                        secret = volume.get("secret", {}).get("secretName")
                        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                        for referred in filter(None, [secret, claim]):
                            self.assertIn(referred, made | GIVEN)
                    for found in containers(spec):
                        for mount in found.get("volumeMounts", []):
                            self.assertIn(mount["name"], volumes)
                        for variable in found.get("env", []):
                            key = variable.get("valueFrom", {}).get("secretKeyRef")
                            self.assertTrue(key is None or key["name"] in GIVEN, variable)
                        for word in found.get("args", []):
                            path = re.search(r"=(/etc/outrider/\S+|/models/\S+)", word)
                            if path:
                                mounts = [mount["mountPath"] for mount in found["volumeMounts"]]
                                self.assertTrue(any(path[1].startswith(f"{mount}/") for mount in mounts), word)

    def test_what_is_referred_to_outside_of_pods_is_there(self):
        for name, objects in self.each():
            made = {certificate["spec"]["secretName"] for certificate in of_kind(objects, "Certificate").values()} | GIVEN
            services = of_kind(objects, "Service")
            for ingress in of_kind(objects, "Ingress").values():
                self.assertTrue({tls["secretName"] for tls in ingress["spec"].get("tls", [])} <= made, name)
                for path in [path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]:
                    backend = path["backend"]["service"]
                    ports = [port["name"] for port in services[backend["name"]]["spec"]["ports"]]
                    self.assertIn(backend["port"]["name"], ports)
            for monitor in of_kind(objects, "ServiceMonitor").values():
                of = [service for service in services.values()
                      if selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])]
                for endpoint in monitor["spec"]["endpoints"]:
                    self.assertIn(endpoint["port"], [port["name"] for service in of for port in service["spec"]["ports"]])

    def test_monitors_show_certificates_where_they_must(self):
        for changes, wanted in [
            ([], {"draft": {"ca"}, "target": {"ca"}, "coordinator": {"ca"}}),
            (["tls.mutual=true"], {"draft": {"ca", "cert"}, "target": {"ca", "cert"}, "coordinator": {"ca"}}),
            (["coordinator.tls.mutual=true"], {"draft": {"ca"}, "target": {"ca"}, "coordinator": {"ca", "cert"}}),
        ]:
            objects = render("tls.enabled=true", "tls.secretName=x", "monitoring.serviceMonitor.enabled=true", *changes)
            for program, kinds in wanted.items():
                [endpoint] = of_kind(objects, "ServiceMonitor")[f"outrider-{program}"]["spec"]["endpoints"]
                self.assertEqual(endpoint["scheme"], "https")
                config = endpoint["tlsConfig"]
                self.assertEqual(config["serverName"], f"outrider-{program}.outrider.svc")
                self.assertEqual({kind for kind in ["ca", "cert"] if kind in config}, kinds)
                self.assertTrue(all(of["secret"]["name"] == "x" for of in [config[kind] for kind in kinds]))

    def test_addresses_are_those_of_services(self):
        for name, objects in self.each():
            services = of_kind(objects, "Service")
            known = {f"{of}.outrider.svc:{port['port']}" for of, service in services.items() for port in service["spec"]["ports"]}
            local = {"127.0.0.1:7102", "localhost:7101", "localhost:7102"}
            for pod, (_, spec) in pods(objects).items():
                for found in containers(spec):
                    said = yaml.dump([found.get("args"), found.get("env"), *(found.get(kind) for kind in PROBES)])
                    for host in re.findall(r"https?://([a-z0-9.-]+:\d+)", said):
                        if host.startswith("otel-collector"):
                            continue
                        self.assertIn(host, known | local, (name, pod))

    def test_a_pod_may_stop_as_long_as_its_programs_may(self):
        for name, objects in self.each():
            for pod, deployment in of_kind(objects, "Deployment").items():
                spec = deployment["spec"]["template"]["spec"]
                for found in spec["containers"]:
                    grace = next(word for word in found["args"] if word.startswith("--grace="))
                    pause = found["lifecycle"]["preStop"]["sleep"]["seconds"]
                    least = pause + int(re.fullmatch(r"--grace=(\d+)s", grace)[1])
                    with self.subTest(values=name, pod=pod):
                        self.assertGreater(spec["terminationGracePeriodSeconds"], least)


PROBES = ["startupProbe", "readinessProbe", "livenessProbe"]


class Placement(unittest.TestCase):
    def test_nothing_set_is_the_embedded_pair(self):
        objects = rendered()
        self.assertEqual(set(of_kind(objects, "Deployment")), {"outrider-draft", "outrider-target", "outrider-coordinator"})
        for program in ["draft", "target"]:
            self.assertIn(f"--model=embedded:{program}", container(objects, f"outrider-{program}", program)["args"])
            self.assertEqual(of_kind(objects, "Service")[f"outrider-{program}"]["spec"]["clusterIP"], "None")
        for kind in ["Ingress", "HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule", "ConfigMap", "Certificate"]:
            self.assertFalse(of_kind(objects, kind), kind)

    def test_a_sidecar_is_in_the_targets_pod(self):
        objects = rendered("sidecar")
        self.assertEqual(set(of_kind(objects, "Deployment")), {"outrider-draft", "outrider-target"})
        coordinator = container(objects, "outrider-target", "coordinator")
        self.assertIn("--target=http://127.0.0.1:7102", coordinator["args"])
        selector = of_kind(objects, "Service")["outrider-coordinator"]["spec"]["selector"]
        self.assertEqual(selector["app.kubernetes.io/component"], "target")

    def test_drafting_ahead_is_asked_for_where_it_is_wanted(self):
        def args(*changes):
            return container(render(*changes), "outrider-coordinator", "coordinator")["args"]

        self.assertFalse([word for word in args() if "anticipate" in word])
        self.assertIn("--anticipate=16", args("coordinator.anticipate=16"))
        self.assertIn("--anticipate=auto", args("coordinator.anticipate=auto"))

    def test_no_volume_is_in_a_pod_twice(self):
        extra = ["common.extraVolumes=[{name: x, emptyDir: {}}]", "common.extraVolumeMounts=[{name: x, mountPath: /x}]"]
        for changes in [[], ["coordinator.placement=sidecar"]]:
            for pod, (_, spec) in pods(render(*extra, *changes)).items():
                names = [volume["name"] for volume in spec.get("volumes", [])]
                self.assertEqual(len(names), len(set(names)), pod)

    def test_a_target_alone_has_no_draft(self):
        objects = rendered("target-alone")
        self.assertNotIn("draft", yaml.dump(objects).replace("draft-deadline", ""))
        args = container(objects, "outrider-coordinator", "coordinator")["args"]
        self.assertIn("--ar", args)
        self.assertFalse([word for word in args if word.startswith("--gamma")])

    def test_device_classes_are_each_workloads_own(self):
        objects = rendered("gpu-pool-edge-draft")
        target, draft = (of_kind(objects, "Deployment")[f"outrider-{name}"]["spec"]["template"]["spec"] for name in ["target", "draft"])
        on_gpu, on_edge = target["containers"][0], draft["containers"][0]
        self.assertIn("--device=cuda", on_gpu["args"])
        self.assertIn("--device=cpu", on_edge["args"])
        self.assertEqual(on_gpu["resources"]["limits"]["nvidia.com/gpu"], 1)
        self.assertNotIn("nvidia.com/gpu", on_edge["resources"]["limits"])
        self.assertTrue(on_gpu["image"].endswith("-cuda") and not on_edge["image"].endswith("-cuda"))
        self.assertEqual((target["runtimeClassName"], target["tolerations"][0]["key"]), ("nvidia", "nvidia.com/gpu"))
        self.assertNotEqual(target["nodeSelector"], draft["nodeSelector"])
        near = draft["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"]
        self.assertEqual(near["labelSelector"]["matchLabels"]["app.kubernetes.io/component"], "coordinator")

    def test_a_draft_that_must_be_near_must_be(self):
        draft = of_kind(rendered("replicas-spread"), "Deployment")["outrider-draft"]["spec"]
        self.assertIn("requiredDuringSchedulingIgnoredDuringExecution", draft["template"]["spec"]["affinity"]["podAffinity"])
        spread = draft["template"]["spec"]["topologySpreadConstraints"][0]
        self.assertEqual((draft["replicas"], spread["topologyKey"]), (3, "topology.kubernetes.io/zone"))
        self.assertTrue(selects(spread["labelSelector"]["matchLabels"], draft["template"]["metadata"]["labels"]))


class Probes(unittest.TestCase):
    def test_model_services_are_asked_by_the_name_of_their_service(self):
        for program, service, port in [("draft", "outrider.v1.DraftService", 7101), ("target", "outrider.v1.TargetService", 7102)]:
            found = container(rendered(), f"outrider-{program}", program)
            for probe in PROBES:
                self.assertEqual(found[probe]["grpc"], {"port": port, "service": service})

    def test_under_tls_they_ask_themselves(self):
        for name, words in [("tls-secrets", []), ("mtls", ["--client-cert=/etc/outrider/tls/tls.crt", "--client-key=/etc/outrider/tls/tls.key"])]:
            found = container(rendered(name), "outrider-target", "target")
            command = ["/usr/local/bin/outrider", "health", "https://localhost:7102", "--ca=/etc/outrider/tls/ca.crt", *words]
            for probe in PROBES:
                self.assertEqual(found[probe]["exec"]["command"], command)

    def test_the_coordinator_is_asked_as_its_clients_ask(self):
        for changes, handler in [
            ([], {"httpGet": {"path": "/readyz", "port": "http", "scheme": "HTTP"}}),
            (["tls.enabled=true", "tls.secretName=x"], {"httpGet": {"path": "/readyz", "port": "http", "scheme": "HTTPS"}}),
            (["tls.enabled=true", "tls.secretName=x", "coordinator.tls.mutual=true"], {"tcpSocket": {"port": "http"}}),
        ]:
            probe = container(render(*changes), "outrider-coordinator", "coordinator")["readinessProbe"]
            self.assertTrue(handler.items() <= probe.items(), probe)
        self.assertEqual(container(rendered(), "outrider-coordinator", "coordinator")["livenessProbe"]["httpGet"]["path"], "/healthz")

    def test_grace_is_added_up(self):
        for grace, pause, seconds in [("10s", 5, 20), ("2m", 5, 130), ("1m30s", 0, 95), ("500ms", 5, 11), ("1h", 10, 3615)]:
            objects = render(f"common.grace={grace}", f"common.preStop.sleepSeconds={pause}")
            spec = of_kind(objects, "Deployment")["outrider-target"]["spec"]["template"]["spec"]
            self.assertEqual(spec["terminationGracePeriodSeconds"], seconds, grace)
            self.assertIn(f"--grace={grace}", spec["containers"][0]["args"])
            self.assertEqual("lifecycle" in spec["containers"][0], pause > 0)

    def test_a_sidecars_pod_waits_for_the_longer_of_both(self):
        for long, short in [("coordinator", "target"), ("target", "coordinator")]:
            objects = render("coordinator.placement=sidecar", f"{long}.grace=1m", f"{short}.grace=10s")
            spec = of_kind(objects, "Deployment")["outrider-target"]["spec"]["template"]["spec"]
            self.assertEqual(spec["terminationGracePeriodSeconds"], 70, long)

    def test_a_new_chart_alone_restarts_nothing(self):
        for deployment in of_kind(rendered(), "Deployment").values():
            labels = deployment["spec"]["template"]["metadata"]["labels"]
            self.assertFalse({"helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"} & set(labels))

    def test_old_kubernetes_has_no_native_sleep(self):
        objects = chart.objects({}, "1.29.0")
        spec = of_kind(objects, "Deployment")["outrider-target"]["spec"]["template"]["spec"]
        self.assertNotIn("lifecycle", spec["containers"][0])
        self.assertEqual(spec["terminationGracePeriodSeconds"], 15)


class Network(unittest.TestCase):
    def reach(self, objects, program, port):
        """The components that may reach a port of a program's pods; None is anybody."""
        labels = {"app.kubernetes.io/component": program}
        reached = set()
        for policy in of_kind(objects, "NetworkPolicy").values():
            if policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] != labels["app.kubernetes.io/component"]:
                continue
            self.assertEqual(policy["spec"]["policyTypes"], ["Ingress", "Egress"])
            for rule in policy["spec"]["ingress"] or []:
                if port not in [allowed["port"] for allowed in rule["ports"]]:
                    continue
                for peer in rule.get("from", [None]):
                    of_pod = peer and peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component")
                    reached.add(of_pod or (str(peer) if peer else None))
        return reached

    def test_only_the_coordinator_reaches_the_models(self):
        for name, coordinator in [("default", "coordinator"), ("sidecar", "target"), ("mtls", "coordinator")]:
            objects = rendered(name)
            for program, port in [("draft", 7101), ("target", 7102)]:
                self.assertEqual(self.reach(objects, program, port), {coordinator, "test"}, (name, program))
                [monitoring] = self.reach(objects, program, port + 2000)
                self.assertIn("monitoring", monitoring)

    def test_every_pod_has_a_policy(self):
        for name in ["default", *chart.SETS]:
            objects = rendered(name)
            policies = [policy["spec"]["podSelector"]["matchLabels"] for policy in of_kind(objects, "NetworkPolicy").values()]
            for pod, (labels, _) in pods(objects).items():
                self.assertEqual(sum(selects(selector, labels) for selector in policies), 1, (name, pod))

    def egress(self, objects, component):
        policy = of_kind(objects, "NetworkPolicy")[f"outrider-{component}"]
        return {allowed["port"] for rule in policy["spec"]["egress"] for allowed in rule["ports"]}

    def test_pods_ask_whom_they_need(self):
        self.assertEqual(self.egress(rendered(), "draft"), {53})
        self.assertEqual(self.egress(rendered(), "target"), {53})
        self.assertEqual(self.egress(rendered(), "coordinator"), {53, 7101, 7102})
        self.assertEqual(self.egress(rendered("sidecar"), "target"), {53, 7101})
        self.assertEqual(self.egress(rendered("model-download"), "target"), {53, 443})
        self.assertEqual(self.egress(rendered("monitoring"), "draft"), {53, 4317})

    def test_who_asks_the_coordinator_can_be_said(self):
        self.assertEqual(self.reach(rendered(), "coordinator", 8080), {None})
        for port in [8080, 8090]:
            test, ingress = sorted(self.reach(rendered("ingress-and-keys"), "coordinator", port), key=len)
            self.assertEqual(test, "test")
            self.assertIn("ingress-nginx", ingress)


class Certificates(unittest.TestCase):
    def test_names_are_all_that_clients_use(self):
        objects = rendered("mtls-cert-manager")
        for program in ["draft", "target", "coordinator"]:
            spec = of_kind(objects, "Certificate")[f"outrider-{program}"]["spec"]
            self.assertTrue({"localhost", f"outrider-{program}.outrider.svc", f"outrider-{program}.outrider.svc.cluster.local"} <= set(spec["dnsNames"]))
            self.assertEqual(spec["ipAddresses"], ["127.0.0.1"])
            self.assertTrue({"server auth", "client auth"} <= set(spec["usages"]))
            self.assertEqual(spec["issuerRef"]["name"], "outrider-ca")
        self.assertIn("outrider.example.org", of_kind(objects, "Certificate")["outrider-coordinator"]["spec"]["dnsNames"])

    def test_every_https_host_is_in_its_certificate(self):
        sets = [{"tls": {"enabled": True, "certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}}]
        for given in [*sets, chart.values("mtls-cert-manager")]:
            objects = chart.objects(given)
            ports = {"7101": "draft", "7102": "target", "8080": "coordinator", "8090": "coordinator"}
            asked = set()
            for _, spec in pods(objects).values():
                for found in containers(spec):
                    said = yaml.dump([found.get("args"), found.get("env"), *(found.get(kind) for kind in PROBES)])
                    self.assertNotIn("http://", said)
                    asked |= set(re.findall(r"https://([a-z0-9.-]+):(\d+)", said))
            self.assertTrue({("localhost", "7101"), ("localhost", "7102")} <= asked)
            for host, port in asked:
                spec = of_kind(objects, "Certificate")[f"outrider-{ports[port]}"]["spec"]
                self.assertIn(host, spec["dnsNames"] + spec["ipAddresses"])

    def test_arguments_are_of_both_sides(self):
        objects = rendered("mtls")
        server = {"--tls-cert=/etc/outrider/tls/tls.crt", "--tls-key=/etc/outrider/tls/tls.key"}
        client = {"--ca=/etc/outrider/tls/ca.crt", "--client-cert=/etc/outrider/tls/tls.crt", "--client-key=/etc/outrider/tls/tls.key"}
        for program in ["draft", "target"]:
            args = set(container(objects, f"outrider-{program}", program)["args"])
            self.assertTrue(server | {"--tls-client-ca=/etc/outrider/tls/ca.crt"} <= args)
        args = set(container(objects, "outrider-coordinator", "coordinator")["args"])
        self.assertTrue(server | client <= args)
        self.assertFalse([word for word in args if "http://" in word])


class Models(unittest.TestCase):
    def test_each_source_is_what_model_names(self):
        for name, model in [
            ("model-volume", "--model=/models/1.5b-q4_k_m.gguf"),
            ("model-download", "--model=/models/model.gguf"),
            ("model-hub", "--model=hf:meta-llama/Llama-3.2-3B-Instruct"),
            ("gpu-pool-edge-draft", "--model=hf:Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF:qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
        ]:
            self.assertIn(model, container(rendered(name), "outrider-target", "target")["args"])

    def test_a_volume_is_only_read(self):
        [mount] = container(rendered("model-volume"), "outrider-target", "target")["volumeMounts"]
        self.assertEqual((mount["mountPath"], mount["readOnly"]), ("/models", True))

    def test_the_hubs_cache_can_be_written(self):
        found = container(rendered("model-hub"), "outrider-target", "target")
        home = next(variable["value"] for variable in found["env"] if variable["name"] == "HF_HOME")
        self.assertEqual([mount["mountPath"] for mount in found["volumeMounts"] if not mount.get("readOnly")], [home])

    def test_values_reach_the_script_as_variables_alone(self):
        url = "https://x/$(id);`id`"
        objects = render("target.model.source=download", f"target.model.download.url='{url}'", f"target.model.download.sha256='{'0' * 64}'")
        found = container(objects, "outrider-target", "download")
        self.assertNotIn("https://x", found["args"][0])
        self.assertIn({"name": "URL", "value": url}, found["env"])


class Scaling(unittest.TestCase):
    def test_metrics_are_the_adapters(self):
        rules = yaml.safe_load((chart.HELM / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
        named = {rule["name"]["as"] for rule in rules}
        used = set()
        for scaler in of_kind(rendered("autoscaling"), "HorizontalPodAutoscaler").values():
            used |= {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"}
        self.assertEqual(used, named)

    def test_the_adapters_series_are_ours(self):
        told = pathlib.Path(chart.HELM.parents[1] / "crates/telemetry/src/names/metric.rs").read_text()
        units = {"By": "_bytes", "s": "_seconds"}
        found = re.findall(r'= "(outrider\.[a-z_.]+)", (?:Gauge|Histogram), "([^"]*)"', told)
        ours = {name.replace(".", "_") + units.get(unit, "") for name, unit in found}
        series = set(re.findall(r"outrider_[a-z_]+(?=\{)", (chart.HELM / "prometheus-adapter.yaml").read_text()))
        self.assertEqual(len(series), 4)
        self.assertLessEqual(series, ours)

    def test_replicas_are_the_scalers(self):
        for deployment in of_kind(rendered("autoscaling"), "Deployment").values():
            self.assertNotIn("replicas", deployment["spec"])
        scalers = of_kind(rendered("autoscaling"), "HorizontalPodAutoscaler")
        self.assertEqual(set(scalers), {"outrider-draft", "outrider-target", "outrider-coordinator"})
        averages = [metric["pods"]["target"]["averageValue"] for metric in scalers["outrider-target"]["spec"]["metrics"] if metric["type"] == "Pods"]
        self.assertEqual(averages, ["4", "800m"])


class Monitoring(unittest.TestCase):
    def test_monitors_have_the_jobs_of_the_rules(self):
        rules = (chart.HELM.parent / "prometheus/rules.yml").read_text()
        for program in ["draft", "target", "coordinator"]:
            [endpoint] = of_kind(rendered("monitoring"), "ServiceMonitor")[f"outrider-{program}"]["spec"]["endpoints"]
            self.assertEqual(endpoint["relabelings"], [{"targetLabel": "job", "replacement": f"outrider-{program}"}])
        self.assertIn("outrider-", rules)

    def test_rules_and_dashboards_are_the_ones_there_are(self):
        objects = rendered("monitoring")
        rules = yaml.safe_load((chart.HELM.parent / "prometheus/rules.yml").read_text())
        self.assertEqual(of_kind(objects, "PrometheusRule")["outrider-rules"]["spec"], rules)
        for name in ["operators", "speculation"]:
            dashboard = of_kind(objects, "ConfigMap")[f"outrider-dashboard-{name}"]
            written = (chart.HELM.parent / f"dashboards/{name}.json").read_text()
            self.assertEqual(dashboard["data"][f"{name}.json"].strip(), written.strip())
            self.assertEqual(dashboard["metadata"]["labels"]["grafana_dashboard"], "1")

    def test_programs_get_the_collector(self):
        for program in ["draft", "target", "coordinator"]:
            env = {variable["name"]: variable.get("value") for variable in container(rendered("monitoring"), f"outrider-{program}", program)["env"]}
            self.assertEqual(env["OTEL_EXPORTER_OTLP_ENDPOINT"], "http://otel-collector.monitoring:4317")
            self.assertEqual((env["OTEL_METRICS_EXPORTER"], env["OTEL_TRACES_SAMPLER_ARG"]), ("none", "0.1"))
            self.assertIn("deployment.environment.name=staging", env["OTEL_RESOURCE_ATTRIBUTES"])
            self.assertNotIn("OTEL_SERVICE_NAME", env)


@unittest.skipIf(shutil.which("curl") is None, "needs curl")
class Download(unittest.TestCase):
    """The script of the init container, against a web server."""

    CONTENT = b"a model" * 1000

    def setUp(self):
        self.sha256 = hashlib.sha256(self.CONTENT).hexdigest()
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        content, requests = self.CONTENT, []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                requests.append(self.path)
                self.send_response(200 if self.path == "/model.gguf" else 404)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.requests = requests
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    def run_script(self, path="/model.gguf", sha256=None):
        script = container(rendered("model-download"), "outrider-target", "download")["args"][0]
        variables = {
            "PATH": os.environ["PATH"], "FOLDER": self.folder.name, "FILE": "model.gguf",
            "URL": f"http://127.0.0.1:{self.server.server_port}{path}", "SHA256": sha256 or self.sha256,
        }
        return subprocess.run(["/bin/sh", "-c", script], env=variables, capture_output=True, text=True, check=False, timeout=60)

    def files(self):
        return sorted(path.name for path in pathlib.Path(self.folder.name).iterdir())

    def test_a_file_with_its_checksum_is_kept_and_not_fetched_again(self):
        for _ in range(2):
            done = self.run_script()
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((self.files(), len(self.requests)), (["model.gguf"], 1))

    def test_a_file_with_another_checksum_is_removed(self):
        done = self.run_script(sha256="0" * 64)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("does not have the checksum", done.stderr)
        self.assertEqual(self.files(), [])

    def test_a_file_that_was_changed_is_fetched_again(self):
        (pathlib.Path(self.folder.name) / "model.gguf").write_bytes(b"half")
        self.assertEqual(self.run_script().returncode, 0)
        self.assertEqual((pathlib.Path(self.folder.name) / "model.gguf").read_bytes(), self.CONTENT)

    def test_a_file_that_is_not_there_fails(self):
        self.assertNotEqual(self.run_script(path="/other").returncode, 0)
        self.assertEqual(self.files(), [])


@unittest.skipIf(shutil.which("curl") is None, "needs curl")
class Ask(unittest.TestCase):
    """The script of the test pod, against a web server."""

    def ask(self, answer, keys=None):
        seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(b"{}")

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(answer)

            def answer(self, body):
                seen.append((self.path, self.headers.get("Authorization")))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        [found] = of_kind(rendered(), "Pod")["outrider-test-ask"]["spec"]["containers"]
        variables = {variable["name"]: variable["value"] for variable in found["env"]}
        variables |= {"PATH": os.environ["PATH"], "URL": f"http://127.0.0.1:{server.server_port}"}
        with tempfile.NamedTemporaryFile("w") as file:
            if keys is not None:
                file.write(keys)
                file.flush()
                variables["KEYS"] = file.name
            command = ["/bin/sh", "-c", found["args"][0]]
            done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
        return done, seen

    def test_a_completion_is_asked_for(self):
        done, seen = self.ask(b'{"choices": [{"finish_reason": "length"}]}')
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(seen, [("/readyz", None), ("/v1/completions", None)])

    def test_the_first_key_is_sent_and_not_shown(self):
        done, seen = self.ask(b'{"choices": [{"finish_reason": "length"}]}', keys="# ours\n\nsecret-1\nsecret-2\n")
        self.assertEqual(seen, [("/readyz", None), ("/v1/completions", "Bearer secret-1")])
        self.assertNotIn("secret-1", done.stdout + done.stderr)

    def test_another_answer_fails(self):
        done, _ = self.ask(b"{}")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no completion", done.stderr)


@unittest.skipUnless(os.environ.get("CHECKOV"), "run.py --checkov")
class Policies(unittest.TestCase):
    def test_checkov_finds_nothing(self):
        for name in ["default", "gpu-pool-edge-draft", "mtls"]:
            tests = [found for found in rendered(name) if found["kind"] == "Pod"]
            rest = [found for found in rendered(name) if found["kind"] != "Pod"]
            self.check(rest)
            # The pods of `helm test` end by themselves, so nobody probes them; their policy is among the rest.
            self.check(tests, "--skip-check", "CKV_K8S_8,CKV_K8S_9,CKV_K8S_15,CKV_K8S_43,CKV2_K8S_6")

    def check(self, objects, *flags):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as manifests:
            yaml.safe_dump_all(objects, manifests)
            manifests.flush()
            config = pathlib.Path(__file__).with_name("checkov.yaml")
            command = [os.environ["CHECKOV"], "--config-file", config, *flags, "--file", manifests.name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()

//! The chart's pods as processes: what `deploy/helm/rendered` would start in a cluster is started here, with its own commands,
//! arguments, variables and files, probed as a kubelet probes, asked, and stopped. Addresses and folders alone are replaced.
//!
//! The files are what the chart renders; `deploy/helm/tests/run.py` fails where they are not.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use outrider_tests::{
    authority::Authority,
    cluster::LONG,
    http,
    processes::{Outrider, command},
};
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Child, time};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const PROMPT: &str = "ROMEO:";

/// How often a probe is tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// A release on this machine.
struct Release {
    objects: Vec<Value>,
    /// From `HOST:PORT`, as pods know each other, to an address of this machine.
    addresses: HashMap<String, String>,
    /// From a pod and its port to a port of this machine.
    ports: BTreeMap<(String, u64), u16>,
    /// What secrets are mounted as.
    folders: HashMap<String, PathBuf>,
    authority: Authority,
    _files: TempDir,
}

/// A container that runs.
struct Running {
    name: String,
    child: Child,
    spec: Value,
    pod: String,
    grace_s: u64,
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("a string, not {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl Release {
    /// Reads what a set of values renders to.
    fn read(name: &str) -> Result<Self> {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/rendered").join(name).with_extension("yaml");
        let file = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let documents = file.split("\n---\n").filter(|document| document.lines().any(|line| line.contains(':')));
        let objects: Vec<Value> = documents.map(serde_saphyr::from_str).collect::<Result<_, _>>()?;
        let files = tempfile::tempdir()?;
        let (ports, addresses, folders) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        let mut release = Self { objects, addresses, ports, folders, authority: Authority::new()?, _files: files };
        release.give_ports()?;
        release.give_secrets()?;
        Ok(release)
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// A free port for each of a pod's, and for each service's the same as for the pod's that it selects.
    fn give_ports(&mut self) -> Result<()> {
        for deployment in self.of_kind("Deployment").cloned().collect::<Vec<_>>() {
            let pod = text(&deployment["metadata"]["name"])?.to_owned();
            for container in list(&deployment["spec"]["template"]["spec"]["containers"]) {
                for port in list(&container["ports"]) {
                    let number = port["containerPort"].as_u64().context("a port")?;
                    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
                    self.ports.insert((pod.clone(), number), free);
                }
            }
            for service in self.of_kind("Service").cloned().collect::<Vec<_>>() {
                let (selector, labels) =
                    (&service["spec"]["selector"], &deployment["spec"]["template"]["metadata"]["labels"]);
                let selector = selector.as_object().context("a selector")?;
                if !selector.iter().all(|(label, value)| &labels[label] == value) {
                    continue;
                }
                let (name, namespace) = (text(&service["metadata"]["name"])?, text(&service["metadata"]["namespace"])?);
                for port in list(&service["spec"]["ports"]) {
                    let target = self.port(&deployment, &port["targetPort"])?;
                    let local = self.ports[&(pod.clone(), target)];
                    for host in [
                        format!("{name}.{namespace}.svc.cluster.local"),
                        format!("{name}.{namespace}.svc"),
                        name.to_owned(),
                    ] {
                        self.addresses.insert(format!("{host}:{}", port["port"]), format!("localhost:{local}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A pod's port by its number or its name.
    fn port(&self, deployment: &Value, port: &Value) -> Result<u64> {
        if let Some(number) = port.as_u64() {
            return Ok(number);
        }
        let containers = list(&deployment["spec"]["template"]["spec"]["containers"]).iter();
        let mut ports = containers.flat_map(|container| list(&container["ports"]));
        let named = ports.find(|named| &named["name"] == port).with_context(|| format!("no port is called {port}"))?;
        named["containerPort"].as_u64().context("a port")
    }

    /// For each secret that pods mount, a certificate of one authority for this machine.
    fn give_secrets(&mut self) -> Result<()> {
        let pods = self.objects.iter().map(|object| match object["kind"].as_str() {
            Some("Deployment") => &object["spec"]["template"]["spec"]["volumes"],
            _ => &object["spec"]["volumes"],
        });
        let secrets: Vec<String> = pods
            .flat_map(list)
            .filter_map(|volume| volume["secret"]["secretName"].as_str().map(str::to_owned))
            .collect();
        for secret in secrets {
            let folder = self._files.path().join(&secret);
            fs::create_dir_all(&folder)?;
            let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
            let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            self.authority.certify_for(&certificate, &key, &usages)?;
            fs::write(folder.join("ca.crt"), self.authority.pem())?;
            self.folders.insert(secret, folder);
        }
        Ok(())
    }

    /// What a pod's container says, for this machine.
    fn here(&self, pod: &str, spec: &Value, container: &Value, said: &str) -> String {
        let mut said = said.to_owned();
        for ((of, port), local) in &self.ports {
            if of == pod {
                for host in ["0.0.0.0", "127.0.0.1", "localhost"] {
                    let name = if host == "0.0.0.0" { "127.0.0.1" } else { "localhost" };
                    said = replaced(&said, &format!("{host}:{port}"), &format!("{name}:{local}"));
                }
            }
        }
        for (there, here) in &self.addresses {
            said = replaced(&said, there, here);
        }
        for mount in list(&container["volumeMounts"]) {
            let volume = list(&spec["volumes"]).iter().find(|volume| volume["name"] == mount["name"]);
            let secret = volume.and_then(|volume| volume["secret"]["secretName"].as_str());
            if let (Some(path), Some(folder)) =
                (mount["mountPath"].as_str(), secret.and_then(|name| self.folders.get(name)))
            {
                said = said.replace(&format!("{path}/"), &format!("{}/", folder.display()));
            }
        }
        said
    }

    /// The program and the arguments of a container's command, or of a probe's.
    fn words(&self, pod: &str, spec: &Value, container: &Value, said: &[&Value]) -> Result<Vec<String>> {
        let words = said.iter().flat_map(|words| list(words));
        words.map(|word| Ok(self.here(pod, spec, container, text(word)?))).collect()
    }

    /// Starts every container of the deployments, all at once, as a cluster does.
    fn start(&self) -> Result<Vec<Running>> {
        let mut running = Vec::new();
        for deployment in self.of_kind("Deployment") {
            let (pod, spec) = (text(&deployment["metadata"]["name"])?, &deployment["spec"]["template"]["spec"]);
            ensure!(spec["initContainers"].is_null(), "{pod}: nothing is prepared here");
            for container in list(&spec["containers"]) {
                let words = self.words(pod, spec, container, &[&container["command"], &container["args"]])?;
                let mut command = program(&words)?;
                for variable in list(&container["env"]) {
                    let name = text(&variable["name"])?;
                    match (&variable["value"], &variable["valueFrom"]["fieldRef"]["fieldPath"]) {
                        (Value::String(value), _) => command.env(name, self.here(pod, spec, container, value)),
                        (_, Value::String(field)) => command.env(name, field),
                        _ => bail!("{name}: a value or a field, not {variable}"),
                    };
                }
                let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
                running.push(Running {
                    name: text(&container["name"])?.to_owned(),
                    child,
                    spec: json!({ "container": container, "pod": spec, "deployment": deployment }),
                    pod: pod.to_owned(),
                    grace_s: spec["terminationGracePeriodSeconds"].as_u64().context("a grace period")?,
                });
            }
        }
        Ok(running)
    }

    /// Whether a probe of a container succeeds.
    async fn probe(&self, running: &Running, probe: &Value) -> Result<bool> {
        let Running { spec, pod, .. } = running;
        let local = |port: &Value| -> Result<String> {
            let number = self.port(&spec["deployment"], port)?;
            Ok(format!("127.0.0.1:{}", self.ports[&(pod.clone(), number)]))
        };
        if let Some(grpc) = probe.get("grpc") {
            let channel = Endpoint::from_shared(format!("http://{}", local(&grpc["port"])?))?.connect_lazy();
            let service = grpc["service"].as_str().unwrap_or_default().to_owned();
            let answer = HealthClient::new(channel).check(HealthCheckRequest { service }).await;
            return Ok(answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving));
        }
        if let Some(get) = probe.get("httpGet") {
            let (address, path) = (local(&get["port"])?, text(&get["path"])?);
            if TcpStream::connect(&address).await.is_err() {
                return Ok(false);
            }
            return Ok(match get["scheme"].as_str() {
                // A kubelet looks at no certificate; this one does.
                Some("HTTPS") => {
                    let answer = http::encrypted(&address, &self.authority.ca(), "GET", path, String::new()).await;
                    answer.is_ok_and(|(status, _)| status == 200)
                }
                _ => http::get(&address, path).await.status == 200,
            });
        }
        if let Some(socket) = probe.get("tcpSocket") {
            return Ok(TcpStream::connect(local(&socket["port"])?).await.is_ok());
        }
        let exec = probe.get("exec").with_context(|| format!("a probe of a known kind, not {probe}"))?;
        let words = self.words(pod, &spec["pod"], &spec["container"], &[&exec["command"]])?;
        let status = program(&words)?.stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
        Ok(status.success())
    }

    /// Waits until each container is started and ready, and checks that it is alive.
    async fn ready(&self, running: &mut [Running]) -> Result<()> {
        for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
            for container in running.iter_mut() {
                let probe = container.spec["container"][kind].clone();
                if probe.is_null() {
                    ensure!(kind == "startupProbe", "{} has no {kind}", container.name);
                    continue;
                }
                let begun = Instant::now();
                while !self.probe(container, &probe).await? {
                    ensure!(container.child.try_wait()?.is_none(), "{} has ended", container.name);
                    ensure!(begun.elapsed() < LONG, "{}: its {kind} fails: {probe}", container.name);
                    time::sleep(PROBE_INTERVAL).await;
                }
            }
        }
        Ok(())
    }

    /// Where the coordinator's service is, by the name of its port.
    fn service(&self, port: &str) -> Result<&str> {
        let mut services = self.of_kind("Service");
        let service = services.find(|service| list(&service["spec"]["ports"]).iter().any(|of| of["name"] == port));
        let service = service.with_context(|| format!("no service has a port {port}"))?;
        let number = &list(&service["spec"]["ports"]).iter().find(|of| of["name"] == port).context("the port")?["port"];
        let address = format!("{}:{number}", text(&service["metadata"]["name"])?);
        self.addresses.get(&address).map(String::as_str).with_context(|| format!("{address} selects no pod"))
    }

    /// What `helm test` would run of our programs, to its end; gives how many there were.
    async fn test(&self) -> Result<usize> {
        let mut ran = 0;
        for pod in self.of_kind("Pod") {
            let spec = &pod["spec"];
            for container in list(&spec["initContainers"]).iter().chain(list(&spec["containers"])) {
                let words = self.words("", spec, container, &[&container["command"], &container["args"]])?;
                if !words.first().is_some_and(|program| program.starts_with("/usr/local/bin/")) {
                    continue;
                }
                let output = time::timeout(LONG, program(&words)?.output()).await??;
                ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
                ran += 1;
            }
        }
        Ok(ran)
    }
}

/// `text` with `there` replaced where it is not the beginning of a longer number.
fn replaced(text: &str, there: &str, here: &str) -> String {
    let mut parts = text.split(there);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += if part.starts_with(|next: char| next.is_ascii_digit()) { there } else { here };
        out += part;
    }
    out
}

/// The image's program of that name, here.
fn program(words: &[String]) -> Result<tokio::process::Command> {
    let (path, args) = words.split_first().context("a command")?;
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).context("a program")?;
    let mut command = command(name);
    command.args(args);
    Ok(command)
}

/// SIGTERM to all, and each ends with 0 within its grace period.
async fn stop(running: Vec<Running>) -> Result<()> {
    for Running { child, .. } in &running {
        let id = child.id().context("it runs")?.to_string();
        ensure!(tokio::process::Command::new("kill").args(["-TERM", &id]).status().await?.success());
    }
    for Running { name, mut child, grace_s, .. } in running {
        let status =
            time::timeout(Duration::from_secs(grace_s), child.wait()).await.context("within the grace period")??;
        ensure!(status.success(), "{name} ended with {status}");
    }
    Ok(())
}

/// What the embedded target writes alone.
async fn alone(max_tokens: &str) -> Result<String> {
    let args =
        ["generate", PROMPT, "--json", "--ar", "--seed", "3", "--temperature", "0.8", "--max-tokens", max_tokens];
    let outcome = Outrider::start(&args)?.finish().await?;
    ensure!(outcome.code == Some(0), "{}", outcome.stderr);
    let report: Value = serde_json::from_str(&outcome.stdout)?;
    Ok(text(&report["text"])?.to_owned())
}

/// Starts a release, asks it over HTTP, runs its tests, and stops it.
async fn serves(name: &str, encrypted: bool) -> Result<()> {
    let release = Release::read(name)?;
    let mut running = release.start()?;
    release.ready(&mut running).await?;
    let body = json!({ "prompt": PROMPT, "seed": 3, "temperature": 0.8, "max_tokens": 120 }).to_string();
    let address = release.service("http")?.replace("localhost", "127.0.0.1");
    let (status, body) = match encrypted {
        true => http::encrypted(&address, &release.authority.ca(), "POST", "/v1/completions", body).await?,
        false => {
            let answer = http::request(&address, "POST", "/v1/completions", body).await;
            (answer.status, answer.text().await)
        }
    };
    ensure!(status == 200, "{status}: {body}");
    let answer: Value = serde_json::from_str(&body)?;
    assert_eq!(text(&answer["choices"][0]["text"])?, alone("120").await?);
    assert!(release.test().await? > 0, "helm test runs something");
    stop(running).await
}

#[tokio::test]
async fn the_chart_without_values_serves() -> Result<()> {
    serves("default", false).await
}

#[tokio::test]
async fn the_coordinator_as_a_sidecar_serves() -> Result<()> {
    serves("sidecar", false).await
}

#[tokio::test]
async fn a_target_without_a_draft_serves() -> Result<()> {
    serves("target-alone", false).await
}

/// Certificates on both sides of the model services' connections, and the API encrypted.
#[tokio::test]
async fn a_release_with_certificates_serves() -> Result<()> {
    serves("mtls", true).await
}

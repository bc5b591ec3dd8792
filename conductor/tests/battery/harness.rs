//! The engines to test on, each with a cluster and an image of its own; all that a test made is removed with its lab.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters as query;
use engine::memory::{MemEngine, Program};
use engine::{
    CreateSpec, DEFAULT_SOCKET, DockerEngine, Engine, EngineError, EngineEvent, LogOptions, Named,
    OLDEST, OutputStream,
};
use futures_util::StreamExt as _;
use manifests::manifest::{HealthcheckChoice, Log, Protocol};
use manifests::{ContainerId, InstanceId};
use model::observed::{ContainerPort, LABEL_CLUSTER, ObservedContainer, Ownership};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Runs each test on every engine.
macro_rules! everywhere {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case(crate::harness::Lab::memory()).await; })+
        }
        mod docker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                super::$case(crate::harness::Lab::docker().await).await;
            })+
        }
        mod docker_oldest_api {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                super::$case(crate::harness::Lab::docker_oldest_api().await).await;
            })+
        }
    };
}
pub(crate) use everywhere;

/// How a process behaves.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    /// Runs until it is asked to stop, and ends with 143.
    Runs,
    /// Ends at once with this code.
    Ends(i64),
    /// Does not end when it is asked to.
    Stays,
    /// Writes `one` and `three` to its output and `two` to its errors between them, and runs on.
    Writes,
    /// Writes the same and ends.
    WritesAndEnds,
    /// Listens on port 80.
    Listens,
    /// Has a program that does not exist.
    Nothing,
}

/// An engine, with a cluster and an image of its own.
pub(crate) struct Lab {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) cluster: Uuid,
    pub(crate) image: String,
    memory: Option<MemEngine>,
    app: String,
    docker: Option<Arc<TestImage>>,
    /// Images that were made of containers.
    committed: Mutex<Vec<String>>,
}

impl Lab {
    pub(crate) fn memory() -> Self {
        let memory = MemEngine::default();
        let cluster = Uuid::new_v4();
        let image = "battery:1".to_owned();
        memory.world(|world, _| {
            world.add_local_image(&image, "sha256:battery");
            world.registry_away = true;
            world.addresses = [IpAddr::from([127, 0, 0, 1]), address(cluster)].into();
        });
        Self {
            engine: Arc::new(memory.clone()),
            cluster,
            image,
            memory: Some(memory),
            app: app(cluster),
            docker: None,
            committed: Mutex::default(),
        }
    }

    pub(crate) async fn docker() -> Self {
        Self::on(DockerEngine::new(Path::new(DEFAULT_SOCKET))).await
    }

    pub(crate) async fn docker_oldest_api() -> Self {
        Self::on(DockerEngine::pinned(Path::new(DEFAULT_SOCKET), OLDEST)).await
    }

    /// On the machine's own Docker, by this way to it.
    pub(crate) async fn on(engine: DockerEngine) -> Self {
        let image = TestImage::shared().await;
        let cluster = Uuid::new_v4();
        Self {
            engine: Arc::new(engine),
            cluster,
            image: image.name.clone(),
            memory: None,
            app: app(cluster),
            docker: Some(image),
            committed: Mutex::default(),
        }
    }

    /// The twin, if it is that.
    pub(crate) fn twin(&self) -> Option<&MemEngine> {
        self.memory.as_ref()
    }

    pub(crate) fn owner(&self, name: &str) -> Ownership {
        let id: ContainerId = format!("{}/{name}", self.app).parse().expect("an id");
        let instance: InstanceId = Uuid::new_v4().to_string().parse().expect("an instance");
        Ownership {
            before: None,
            cluster: self.cluster,
            slot: id.slot(0),
            instance,
            manifest_hash: "1:aa".to_owned(),
            host_hash: "1:bb".to_owned(),
        }
    }

    /// A container that does this.
    pub(crate) fn spec(&self, name: &str, does: Does) -> CreateSpec {
        let owner = self.owner(name);
        CreateSpec {
            name: owner.slot.docker_name(),
            image: self.image.clone(),
            entrypoint: None,
            command: Some(self.command(does)),
            env: BTreeMap::new(),
            labels: owner.labels(),
            user: None,
            workdir: None,
            stop_signal: None,
            stop_timeout: Duration::from_secs(10),
            healthcheck: HealthcheckChoice::Image,
            mounts: Vec::new(),
            ports: BTreeMap::new(),
            network: "bridge".to_owned(),
            hosts: BTreeMap::new(),
            dns: None,
            dns_search: None,
            dns_options: Vec::new(),
            log: Log::default(),
            cpu_millis: None,
            memory: None,
            ulimits: BTreeMap::new(),
        }
    }

    fn command(&self, does: Does) -> Vec<String> {
        // The first process of a container ignores a signal that it has no handler for.
        const READY: &str = "trap 'exit 143' TERM";
        const RUN: &str = "while :; do sleep 0.05; done";
        const WRITE: &str = "echo one; sleep 0.05; echo two >&2; sleep 0.05; echo three";
        let script = match &does {
            Does::Runs => format!("{READY}; echo up; {RUN}"),
            Does::Ends(code) => format!("exit {code}"),
            Does::Stays => "trap '' TERM; while :; do sleep 0.05; done".to_owned(),
            Does::Writes => format!("{READY}; {WRITE}; {RUN}"),
            Does::WritesAndEnds => WRITE.to_owned(),
            Does::Listens => "exec httpd -f -p 80".to_owned(),
            Does::Nothing => return self.known(vec!["/bin/nothing".to_owned()], &does),
        };
        let command = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        self.known(command, &does)
    }

    /// Tells the twin what the command does.
    fn known(&self, command: Vec<String>, does: &Does) -> Vec<String> {
        if let Some(memory) = &self.memory {
            memory.world(|world, _| world.programs.insert(command.clone(), program(does)));
        }
        command
    }

    /// What a command inside answers is ordered beforehand where nothing really runs.
    pub(crate) fn answers(&self, spec: &CreateSpec, code: i64, output: &str, hangs: bool) {
        if let Some(memory) = &self.memory {
            let command = spec.command.clone().expect("a command");
            memory.world(|world, _| {
                let program = world.programs.entry(command).or_default();
                program.exec = (code, output.to_owned());
                program.exec_hangs = hangs;
            });
        }
    }

    /// Makes it, and gives Docker's id.
    pub(crate) async fn create(&self, spec: &CreateSpec) -> String {
        match self.engine.create(spec).await.expect("made") {
            Named::Done(id) => id,
            Named::Taken(holder) => panic!("{} is held by {holder:?}", spec.name),
        }
    }

    /// Somebody makes an image of it, and a container of that; its Docker id.
    pub(crate) async fn copy(&self, id: &str, name: &str) -> String {
        let image = format!("{name}-image");
        if let Some(twin) = self.twin() {
            twin.world(|world, _| world.commit(id, &image))
                .expect("committed");
        } else {
            let options = query::CommitContainerOptions {
                container: Some(id.to_owned()),
                repo: Some(image.clone()),
                ..query::CommitContainerOptions::default()
            };
            let config = bollard::models::ContainerConfig::default();
            let committed = docker().commit_container(options, config).await;
            committed.expect("committed");
            let mut all = self.committed.lock().expect("no panic before");
            all.push(image.clone());
        }
        let command = self.command(Does::Runs);
        let spec = CreateSpec {
            name: name.to_owned(),
            image,
            labels: BTreeMap::new(),
            command: Some(command),
            ..self.spec("copy", Does::Runs)
        };
        self.run(&spec).await
    }

    /// Somebody freezes its process, or lets it go on.
    pub(crate) async fn pause(&self, id: &str, frozen: bool) {
        match (self.twin(), frozen) {
            (Some(twin), true) => twin.world(|world, _| world.pause(id)),
            (Some(twin), false) => twin.world(|world, _| world.unpause(id)),
            (None, true) => docker().pause_container(id).await.expect("paused"),
            (None, false) => docker().unpause_container(id).await.expect("goes on"),
        }
    }

    /// Somebody takes its network away.
    pub(crate) async fn disconnect(&self, id: &str) {
        if let Some(twin) = self.twin() {
            twin.world(|world, _| world.disconnect(id));
        } else {
            let request = bollard::models::NetworkDisconnectRequest {
                container: id.to_owned(),
                force: None,
            };
            let done = docker().disconnect_network("bridge", request).await;
            done.expect("disconnected");
        }
    }

    /// Makes and starts it.
    pub(crate) async fn run(&self, spec: &CreateSpec) -> String {
        let id = self.create(spec).await;
        self.engine.start(&id).await.expect("started");
        id
    }

    /// Waits until it has written something: then it minds the signal that asks it to stop.
    pub(crate) async fn up(&self, id: &str) {
        let one = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let mut log = self.engine.logs(id, one).await.expect("a log");
        let first = tokio::time::timeout(Duration::from_secs(60), log.next()).await;
        first.expect("in time").expect("a line").expect("readable");
    }

    pub(crate) async fn look(&self, id: &str) -> ObservedContainer {
        let seen = self.engine.inspect(id).await.expect("an answer");
        seen.expect("it exists")
    }

    /// Waits until the container is as `wanted` says.
    pub(crate) async fn until(
        &self,
        id: &str,
        wanted: impl Fn(&ObservedContainer) -> bool,
    ) -> ObservedContainer {
        wait_for(|| async {
            let seen = self.look(id).await;
            if wanted(&seen) { Ok(seen) } else { Err(seen) }
        })
        .await
    }

    /// Events, after it is certain that they flow.
    pub(crate) async fn events(&self) -> mpsc::Receiver<EngineEvent> {
        let mut events = self.engine.events();
        let first = next(&mut events).await;
        assert_eq!(first, EngineEvent::Connected);
        events
    }

    /// An address of this machine that no other test uses.
    pub(crate) fn address(&self) -> IpAddr {
        address(self.cluster)
    }

    /// A port that is free there.
    pub(crate) fn free_port(&self) -> SocketAddr {
        let probe = TcpListener::bind((self.address(), 0)).expect("a free port");
        probe.local_addr().expect("bound")
    }
}

impl Drop for Lab {
    /// Removes what carries this cluster's label.
    fn drop(&mut self) {
        if self.docker.is_some() {
            let cluster = self.cluster;
            let images = self.committed.get_mut();
            let images = std::mem::take(images.unwrap_or_else(PoisonError::into_inner));
            apart(move || async move { sweep(cluster, &images).await });
        }
    }
}

pub(crate) fn tcp(port: u16) -> ContainerPort {
    ContainerPort {
        port,
        protocol: Protocol::Tcp,
    }
}

/// A loopback address made of a cluster's random bits.
fn address(cluster: Uuid) -> IpAddr {
    let bytes = cluster.as_bytes();
    Ipv4Addr::new(127, bytes[0] | 1, bytes[1], bytes[2] | 1).into()
}

fn app(cluster: Uuid) -> String {
    format!("b{}", &cluster.simple().to_string()[..12])
}

fn program(does: &Does) -> Program {
    let written = || {
        [
            (OutputStream::Stdout, "one"),
            (OutputStream::Stderr, "two"),
            (OutputStream::Stdout, "three"),
        ]
        .map(|(stream, line)| (stream, line.to_owned()))
        .to_vec()
    };
    let silent = Program {
        listens: None,
        ..Program::default()
    };
    match does {
        Does::Runs => Program {
            output: vec![(OutputStream::Stdout, "up".to_owned())],
            ..silent
        },
        Does::Ends(code) => Program {
            ends: Some((Duration::ZERO, *code)),
            ..silent
        },
        Does::Stays => Program {
            stubborn: true,
            ..silent
        },
        Does::Writes => Program {
            output: written(),
            ..silent
        },
        Does::WritesAndEnds => Program {
            output: written(),
            ends: Some((Duration::ZERO, 0)),
            ..silent
        },
        Does::Listens => Program::default(),
        Does::Nothing => Program {
            start: Some(EngineError::BadRequest(
                "exec: \"/bin/nothing\": no such file or directory".to_owned(),
            )),
            ..silent
        },
    }
}

/// The one way to wait: looks again after a short interval, gives up after a long time, and says what it saw last.
pub(crate) async fn wait_for<T, E: Debug, F: Future<Output = Result<T, E>>>(
    look: impl Fn() -> F,
) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(last) if begun.elapsed() > Duration::from_secs(60) => panic!("still {last:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

pub(crate) async fn next(events: &mut mpsc::Receiver<EngineEvent>) -> EngineEvent {
    let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await;
    event.expect("an event in time").expect("events go on")
}

/// An image of busybox alone on the machine's own Docker, removed with the last test that uses it.
pub(crate) struct TestImage {
    name: String,
}

static IMAGE: Mutex<Weak<TestImage>> = Mutex::new(Weak::new());

impl TestImage {
    async fn shared() -> Arc<Self> {
        let making = tokio::task::spawn_blocking(|| {
            let mut known = IMAGE.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(image) = known.upgrade() {
                return image;
            }
            let image = Arc::new(Self::make());
            *known = Arc::downgrade(&image);
            image
        });
        making.await.expect("an image")
    }

    fn make() -> Self {
        assert!(
            Path::new(DEFAULT_SOCKET).exists(),
            "these tests need a Docker Engine at {DEFAULT_SOCKET}: install with scripts/setup.sh up test"
        );
        let busybox = ["/bin/busybox", "/usr/bin/busybox"];
        let busybox = busybox.iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect(
            "these tests need busybox (Debian's busybox-static): install with scripts/setup.sh up test",
        );
        let folder = tempfile::tempdir().expect("a folder");
        let bin = folder.path().join("bin");
        for inner in ["bin", "etc", "tmp"] {
            std::fs::create_dir(folder.path().join(inner)).expect("a folder");
        }
        std::fs::copy(busybox, bin.join("busybox")).expect("copied");
        for applet in ["sh", "sleep", "httpd", "cat", "env", "id", "pwd"] {
            symlink("busybox", bin.join(applet)).expect("linked");
        }
        std::fs::write(
            folder.path().join("etc/passwd"),
            "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
        )
        .expect("written");
        let tar = Command::new("tar")
            .arg("-C")
            .arg(folder.path())
            .args(["-c", "."])
            .stderr(Stdio::inherit())
            .output()
            .expect("tar");
        assert!(tar.status.success());
        let repository = format!("dokkaa-battery-{}", Uuid::new_v4().simple());
        let name = format!("{repository}:1");
        apart(move || async move {
            let options = query::CreateImageOptions {
                from_src: Some("-".to_owned()),
                repo: Some(repository),
                tag: Some("1".to_owned()),
                ..query::CreateImageOptions::default()
            };
            let body = bollard::body_full(tar.stdout.into());
            let mut steps = docker().create_image(Some(options), Some(body), None);
            while let Some(step) = steps.next().await {
                step.expect("imported");
            }
        });
        Self { name }
    }
}

impl Drop for TestImage {
    fn drop(&mut self) {
        let name = self.name.clone();
        apart(move || async move {
            let none = None::<query::RemoveImageOptions>;
            // Nothing more can be done about an image that stays.
            let _ = docker().remove_image(&name, none, None).await;
        });
    }
}

pub(crate) fn docker() -> Docker {
    Docker::connect_with_unix(DEFAULT_SOCKET, 60, bollard::API_DEFAULT_VERSION).expect("a socket")
}

/// Runs something to its end on a thread of its own: `drop` can't wait otherwise.
pub(crate) fn apart<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(work());
    });
    let done = ended.join().is_ok();
    // A second panic would hide the first.
    assert!(done || std::thread::panicking(), "it could not be done");
}

async fn sweep(cluster: Uuid, images: &[String]) {
    let docker = docker();
    let label = format!("{LABEL_CLUSTER}={cluster}");
    let filters = BTreeMap::from([("label".to_owned(), vec![label])]);
    let filters: std::collections::HashMap<_, _> = filters.into_iter().collect();
    let wanted = query::ListContainersOptions {
        all: true,
        filters: Some(filters.clone()),
        ..query::ListContainersOptions::default()
    };
    let found = docker.list_containers(Some(wanted)).await;
    for container in found.unwrap_or_default() {
        let options = query::RemoveContainerOptions {
            force: true,
            v: true,
            ..query::RemoveContainerOptions::default()
        };
        let id = container.id.unwrap_or_default();
        let _ = docker.remove_container(&id, Some(options)).await;
    }
    for image in images {
        let none = None::<query::RemoveImageOptions>;
        let _ = docker.remove_image(image, none, None).await;
    }
    let wanted = query::ListVolumesOptions {
        filters: Some(filters),
    };
    let found = docker.list_volumes(Some(wanted)).await;
    let volumes = found.ok().and_then(|found| found.volumes);
    for volume in volumes.unwrap_or_default() {
        let none = None::<query::RemoveVolumeOptions>;
        let _ = docker.remove_volume(&volume.name, none).await;
    }
}

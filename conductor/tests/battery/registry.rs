//! Pulls from a registry that wants a login: Debian's docker-registry on this machine, or the twin's own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::models::ContainerConfig;
use bollard::query_parameters as query;
use conductor::images::{Images, PullSettings, RECORD, collect, reference};
use conductor::{Published, Seen};
use engine::memory::Published as InRegistry;
use engine::{CreateSpec, Credentials, EngineError, HostFault};
use futures_util::StreamExt as _;
use manifests::manifest::Pull;
use model::Snapshot;
use model::disk::{DiskLimits, DiskReport, LocalImage, PulledImages};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::harness::{Does, Lab, apart, docker, everywhere, wait_for};

everywhere!(
    a_pull_without_the_login_is_refused_and_with_it_goes_well,
    an_image_that_the_registry_lacks_is_not_found,
    a_tag_becomes_a_digest_and_the_digest_is_enough,
    a_registry_that_has_gone_is_made_do_without,
    an_image_that_this_agent_pulled_and_nobody_needs_makes_room,
    an_image_goes_out_and_comes_in_as_an_archive,
);

const USER: &str = "puller";
const PASSWORD: &str = "open:sesame";

struct Registry<'a> {
    lab: &'a Lab,
    address: SocketAddr,
    process: Option<Child>,
    folder: TempDir,
}

impl<'a> Registry<'a> {
    /// Has an image like the lab's as `team/app:1`.
    async fn start(lab: &'a Lab) -> Self {
        let mut registry = Self {
            lab,
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            process: None,
            folder: tempfile::tempdir().expect("a folder"),
        };
        if let Some(twin) = lab.twin() {
            let server = registry.address.to_string();
            twin.world(|world, _| {
                world.registry_away = false;
                let published = InRegistry {
                    id: "sha256:pulled".to_owned(),
                    digest: format!("sha256:{}", "a".repeat(64)),
                    needs: Some(login(&server)),
                    ..InRegistry::default()
                };
                world.registry.insert(registry.image(), published);
            });
        } else {
            registry.serve().await;
            registry.push().await;
        }
        registry
    }

    async fn serve(&mut self) {
        let folder = self.folder.path();
        let passwords = Command::new("htpasswd")
            .args(["-Bbn", USER, PASSWORD])
            .output()
            .expect("these tests need htpasswd: install with scripts/setup.sh up test");
        std::fs::write(folder.join("htpasswd"), passwords.stdout).expect("written");
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: '{folder}/data'}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n\
             auth: {{htpasswd: {{realm: battery, path: '{folder}/htpasswd'}}}}\n",
            folder = folder.display()
        );
        std::fs::write(folder.join("config.yml"), config).expect("written");
        let log = folder.join("log");
        let file = std::fs::File::create(&log).expect("a log");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            .spawn()
            .expect("these tests need docker-registry: install with scripts/setup.sh up test");
        self.process = Some(process);
        self.address = wait_for(|| async {
            let log = std::fs::read_to_string(&log).expect("a log");
            let address = log
                .split_once("listening on ")
                .and_then(|(_, rest)| rest.split(['"', ' ', '\n', ',']).next()?.parse().ok());
            address.ok_or(log)
        })
        .await;
    }

    async fn push(&self) {
        let docker = docker();
        let container = self.lab.create(&self.lab.spec("app", Does::Runs)).await;
        let commit = query::CommitContainerOptions {
            container: Some(container.clone()),
            repo: Some(format!("{}/team/app", self.address)),
            tag: Some("1".to_owned()),
            ..query::CommitContainerOptions::default()
        };
        let image = docker.commit_container(commit, ContainerConfig::default());
        image.await.expect("an image of its own");
        let removed = self.lab.engine.remove(&container, false).await;
        removed.expect("removed");
        let credentials = DockerCredentials {
            username: Some(USER.to_owned()),
            password: Some(PASSWORD.to_owned()),
            serveraddress: Some(self.address.to_string()),
            ..DockerCredentials::default()
        };
        let options = query::PushImageOptions {
            tag: Some("1".to_owned()),
            ..query::PushImageOptions::default()
        };
        let repository = format!("{}/team/app", self.address);
        let mut steps = docker.push_image(&repository, Some(options), Some(credentials));
        while let Some(step) = steps.next().await {
            step.expect("pushed");
        }
        let registry = self.address.to_string();
        wait_for(|| forget(&registry)).await;
    }

    fn image(&self) -> String {
        format!("{}/team/app:1", self.address)
    }

    /// A configuration as `docker login` leaves it.
    fn config(&self, logged_in: bool) -> PathBuf {
        use base64::Engine as _;
        let path = self.folder.path().join(format!("config-{logged_in}.json"));
        let auth = format!("{USER}:{PASSWORD}");
        let auth = base64::engine::general_purpose::STANDARD.encode(auth);
        let auths = if logged_in {
            serde_json::json!({self.address.to_string(): {"auth": auth}})
        } else {
            serde_json::json!({})
        };
        let json = serde_json::json!({"auths": auths});
        std::fs::write(&path, json.to_string()).expect("written");
        path
    }

    fn images(&self, logged_in: bool) -> Images {
        self.images_noted_in(logged_in, self.record())
    }

    fn images_noted_in(&self, logged_in: bool, record: PathBuf) -> Images {
        Images::new(
            self.lab.engine.clone(),
            PullSettings {
                docker_config: self.config(logged_in),
                at_once: 2,
                jitter: Duration::ZERO,
                record: Some(record),
                spool: None,
            },
        )
    }

    /// Where the images write down what they pulled.
    fn record(&self) -> PathBuf {
        self.folder.path().join(RECORD)
    }

    /// It is gone, and answers nobody any more.
    fn end(&mut self) {
        match self.lab.twin() {
            Some(twin) => twin.world(|world, _| world.registry_away = true),
            None => self.stop(),
        }
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It is this test's own; one that has ended already is as good.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        self.stop();
        if self.lab.twin().is_none() {
            let address = self.address.to_string();
            apart(move || async move {
                // What is left the next registry at this address takes off.
                let _ = forget(&address).await;
            });
        }
    }
}

/// Takes every name in this registry off the engine's images. An error: it had some, or can't be asked, as containerd's
/// store for a moment while another image goes.
async fn forget(registry: &str) -> Result<(), String> {
    let docker = docker();
    let all = docker.list_images(None::<query::ListImagesOptions>).await;
    let all = all.map_err(|error| error.to_string())?;
    let names = all
        .into_iter()
        .flat_map(|image| image.repo_tags.into_iter().chain(image.repo_digests));
    let ours = format!("{registry}/");
    let names: Vec<String> = names.filter(|name| name.starts_with(&ours)).collect();
    for name in &names {
        let none = None::<query::RemoveImageOptions>;
        // With its last tag go the digests of a repository too.
        let _ = docker.remove_image(name, none, None).await;
    }
    if names.is_empty() {
        Ok(())
    } else {
        Err(format!("{names:?}"))
    }
}

fn login(server: &str) -> Credentials {
    Credentials::Password {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        server: server.to_owned(),
    }
}

async fn a_pull_without_the_login_is_refused_and_with_it_goes_well(lab: Lab) {
    let registry = Registry::start(&lab).await;
    let image = registry.image();
    assert_eq!(lab.engine.image(&image).await, Ok(None));
    let wrong = Credentials::Password {
        username: USER.to_owned(),
        password: "wrong".to_owned(),
        server: registry.address.to_string(),
    };
    for credentials in [None, Some(&wrong)] {
        let refused = lab.engine.pull(&image, credentials, &|_| {}).await;
        assert!(matches!(refused, Err(EngineError::Auth(_))), "{refused:?}");
    }
    let right = login(&registry.address.to_string());
    let pulled = lab.engine.pull(&image, Some(&right), &|_| {}).await;
    pulled.expect("pulled");
    assert!(lab.engine.image(&image).await.expect("an answer").is_some());
}

async fn an_image_that_the_registry_lacks_is_not_found(lab: Lab) {
    let registry = Registry::start(&lab).await;
    let right = login(&registry.address.to_string());
    for missing in ["team/app:2", "team/nothing:1"] {
        let missing = format!("{}/{missing}", registry.address);
        let lacking = lab.engine.pull(&missing, Some(&right), &|_| {}).await;
        assert!(
            matches!(lacking, Err(EngineError::NotFound(_))),
            "{lacking:?}"
        );
    }
}

async fn a_tag_becomes_a_digest_and_the_digest_is_enough(lab: Lab) {
    let registry = Registry::start(&lab).await;
    let image = registry.image();
    let stranger = registry.images(false);
    let refused = stranger.decide(&image, Pull::Missing).await;
    assert!(matches!(refused, Err(EngineError::Auth(_))), "{refused:?}");

    let images = registry.images(true);
    let decided = images.decide(&image, Pull::Missing).await.expect("decided");
    assert!(decided.image.starts_with("sha256:"), "{decided:?}");
    let login = login(&registry.address.to_string());
    let pulled = lab.engine.pull(&image, Some(&login), &|_| {}).await;
    assert_eq!(pulled, Ok(Some(decided.image.clone())));
    let always = images.decide(&image, Pull::Always).await.expect("decided");
    assert_eq!(always, decided);
    // What is here is used without a login.
    let here = stranger.decide(&image, Pull::Missing).await;
    let here = here.expect("decided").image;
    // With containerd's image store who did not pull it has no proof that it is the registry's.
    assert_eq!(here.trim_start_matches("local:"), decided.image);

    // On a host that has never heard of the tag.
    if let Some(twin) = lab.twin() {
        twin.world(|world, _| world.images.remove(&image));
    } else {
        let address = registry.address.to_string();
        wait_for(|| forget(&address)).await;
    }
    assert_eq!(lab.engine.image(&image).await, Ok(None));
    let source = images
        .ensure(&image, &decided.image, None, Pull::Missing)
        .await;
    let source = source.expect("pulled");
    assert_eq!(
        source.reference,
        format!("{}/team/app@{}", registry.address, decided.image)
    );
    let found = lab.engine.image(&source.reference).await;
    assert!(found.expect("an answer").is_some());
    assert_eq!(lab.engine.image(&image).await, Ok(None));
}

async fn a_registry_that_has_gone_is_made_do_without(lab: Lab) {
    let mut registry = Registry::start(&lab).await;
    let image = registry.image();
    let images = registry.images(true);
    let decided = images.decide(&image, Pull::Missing).await.expect("decided");
    registry.end();
    let always = images.decide(&image, Pull::Always).await.expect("decided");
    assert_eq!(always.image, decided.image);
    assert!(always.note.is_some());
    let other = format!("{}/team/other:1", registry.address);
    let away = images.decide(&other, Pull::Always).await;
    assert!(
        matches!(
            away,
            Err(EngineError::HostFault {
                fault: HostFault::RegistryUnreachable,
                ..
            })
        ),
        "{away:?}"
    );
}

async fn an_image_that_this_agent_pulled_and_nobody_needs_makes_room(lab: Lab) {
    let registry = Registry::start(&lab).await;
    let image = registry.image();
    let decided = registry.images(true).decide(&image, Pull::Missing).await;
    let reference = reference(&image, &decided.expect("decided").image).expect("a reference");
    // With containerd's image store a list fails while an image of it is removed.
    let all = || wait_for(|| lab.engine.images());
    let named = |all: Vec<LocalImage>, name: &str| {
        let mut found = all.into_iter();
        found.find(|image| image.names.iter().any(|n| n == name))
    };
    let pulled = named(all().await, &image).expect("it is here");
    assert!(pulled.names.contains(&reference), "{pulled:?}");

    // The record, as it will be when the image has not been used for a while; a copy, since who pulled may still write.
    let record = registry.record();
    let mut written: PulledImages = wait_for(|| async {
        let written = std::fs::read(&record).map_err(|e| e.to_string())?;
        serde_json::from_slice(&written).map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(written.keys().collect::<Vec<_>>(), [&pulled.id]);
    for image in written.values_mut() {
        image.used = 0;
    }
    let later = record.with_extension("later");
    std::fs::write(&later, serde_json::to_vec(&written).expect("JSON")).expect("written");

    let spec = CreateSpec {
        image: reference,
        ..lab.spec("web", Does::Runs)
    };
    let container = lab.create(&spec).await;
    let seen = named(all().await, &image).expect("it is here");
    assert!(seen.used);
    // Nobody looked before it was made.
    assert_eq!(lab.engine.remove_image(&pulled).await, Ok(false));
    assert!(named(all().await, &image).is_some());
    lab.engine.remove(&container, false).await.expect("removed");

    let published = Arc::new(Published::default());
    published.seen.store(Arc::new(Some(Seen {
        snapshot: Snapshot::default(),
        stale: false,
        distrust: None,
    })));
    let limits = DiskLimits {
        collect: 0,
        full: 100,
    };
    let stop = CancellationToken::new();
    let collecting = collect::run(
        registry.images_noted_in(true, later),
        published,
        limits,
        DiskReport::default(),
        |report| assert!(report.percent.is_some(), "the disk is this machine's"),
        stop.clone(),
    );
    let gone = async {
        wait_for(|| async {
            match named(all().await, &image) {
                None => Ok(()),
                Some(image) => Err(image),
            }
        })
        .await;
        stop.cancel();
    };
    tokio::join!(collecting, gone);
    let left = all().await;
    assert!(left.iter().all(|image| image.id != pulled.id));
    // Nobody pulled the lab's own.
    assert!(named(left, &lab.image).is_some());
    assert_eq!(lab.engine.remove_image(&pulled).await, Ok(true));
}

async fn an_image_goes_out_and_comes_in_as_an_archive(lab: Lab) {
    let engine = &lab.engine;
    let image = engine.image(&lab.image).await.expect("an answer");
    let image = image.expect("it is here");
    let archive = engine.save(&image.id).await.expect("an archive");
    let id = engine.load(archive).await.expect("loaded");
    assert_eq!(id, image.id);
    let name = format!("{}-copy:1", lab.cluster.simple());
    engine.tag(&id, &name).await.expect("named");
    let named = engine.image(&name).await.expect("an answer");
    let named = named.expect("it has the name");
    assert_eq!((&named.id, &named.content), (&image.id, &image.content));
    assert!(named.names.contains(&name), "{named:?}");
    let names = LocalImage {
        id,
        names: vec![name],
        used: false,
    };
    assert_eq!(engine.remove_image(&names).await, Ok(true));

    // What breaks off is no image.
    let lost = [
        Ok(bytes::Bytes::from_static(b"half")),
        Err(std::io::Error::other("lost")),
    ];
    let broken = engine
        .load(Box::pin(futures_util::stream::iter(lost)))
        .await;
    assert!(broken.is_err(), "{broken:?}");
}

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is missing"
)]

use manifests::manifest::Healthcheck;

use super::*;

fn labels() -> BTreeMap<String, String> {
    Ownership {
        before: None,
        cluster: Uuid::from_u128(7),
        slot: "shop/web"
            .parse::<manifests::ContainerId>()
            .unwrap()
            .slot(0),
        instance: "i-1".parse().unwrap(),
        manifest_hash: "1:aa".to_owned(),
        host_hash: "1:bb".to_owned(),
    }
    .labels()
}

/// As engines answer, with what differs between them left to `change`.
fn shown(change: impl FnOnce(&mut serde_json::Value)) -> models::ContainerInspectResponse {
    let mut json = serde_json::json!({
        "Id": "d1", "Name": "/shop---web", "Image": "sha256:1",
        "Created": "2026-11-21T08:26:08.260454663Z",
        "State": {
            "Status": "running", "Running": true, "Paused": false, "OOMKilled": false, "Dead": false, "Pid": 4711,
            "ExitCode": 0, "Error": "", "StartedAt": "2026-11-21T08:26:09.5Z", "FinishedAt": "0001-01-01T00:00:00Z"
        },
        "Config": { "Labels": labels(), "Healthcheck": null },
        "HostConfig": { "PortBindings": {
            "80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "20000"}], "53/udp": null, "9/sctp": null
        } },
        "NetworkSettings": { "Networks": { "bridge": { "IPAddress": "172.17.0.2" } } }
    });
    change(&mut json);
    serde_json::from_value(json).unwrap()
}

#[test]
fn a_running_container_is_read_in_full() {
    let read = observed(shown(|_| {})).unwrap();
    assert_eq!(read.docker_id, "d1");
    assert!(read.has_final_name());
    assert_eq!(read.created_at, 1_795_249_568_260);
    let running = read.running().unwrap();
    assert_eq!((running.pid, running.started_at), (4711, 1_795_249_569_500));
    assert_eq!(running.health, None);
    assert_eq!(read.addr, Some(IpAddr::from([172, 17, 0, 2])));
    let port = ContainerPort {
        port: 80,
        protocol: Protocol::Tcp,
    };
    let at = SocketAddr::from(([10, 0, 0, 1], 20_000));
    assert_eq!(read.ports, [(port, at)].into());
    assert_eq!(read.check, None);
}

#[test]
fn its_address_is_the_one_in_the_network_that_it_was_made_for() {
    let addr = |mode: &str, networks: serde_json::Value| {
        let shown = shown(|json| {
            json["HostConfig"]["NetworkMode"] = mode.into();
            json["NetworkSettings"]["Networks"] = networks;
        });
        observed(shown).unwrap().addr
    };
    let at = |address: &str| serde_json::json!({"IPAddress": address});
    let v4 = Some(IpAddr::from([10, 1, 0, 2]));
    let other = serde_json::json!({"aaa": at("10.2.0.2"), "mine": at("10.1.0.2")});
    assert_eq!(addr("mine", other.clone()), v4);
    assert_eq!(addr("bridge", other), None, "somebody has disconnected it");
    assert_eq!(addr("bridge", serde_json::json!({})), None);
    assert_eq!(
        addr("default", serde_json::json!({"bridge": at("10.1.0.2")})),
        v4
    );
    let v6 = serde_json::json!({"mine": {"IPAddress": "", "GlobalIPv6Address": "fd00::2"}});
    assert_eq!(addr("mine", v6), "fd00::2".parse().ok());
}

#[test]
fn each_state_is_told_from_the_others() {
    let state = |change: serde_json::Value| {
        let read = observed(shown(|json| {
            for (name, value) in change.as_object().unwrap() {
                json["State"][name] = value.clone();
            }
        }));
        read.unwrap().state
    };
    let created =
        state(serde_json::json!({"Status": "created", "Running": false, "Error": "no such file"}));
    assert_eq!(
        created,
        ContainerState::Created {
            error: "no such file".to_owned()
        }
    );
    let exited = state(serde_json::json!({
        "Status": "exited", "Running": false, "ExitCode": 137, "OOMKilled": true, "FinishedAt": "1970-01-01T00:00:02Z"
    }));
    let exit = Exit {
        code: 137,
        out_of_memory: true,
        error: String::new(),
        at: 2_000,
    };
    assert_eq!(exited, ContainerState::Exited(exit));
    assert!(matches!(
        state(serde_json::json!({"Status": "paused", "Paused": true})),
        ContainerState::Paused(_)
    ));
    for gone in ["removing", "dead"] {
        let removing = state(serde_json::json!({"Status": gone, "Running": false}));
        assert_eq!(removing, ContainerState::Removing);
    }
    for (text, health) in [
        ("starting", Some(Health::Starting)),
        ("healthy", Some(Health::Healthy)),
        ("unhealthy", Some(Health::Unhealthy)),
        ("none", None),
    ] {
        let read = state(serde_json::json!({"Health": {"Status": text}}));
        let ContainerState::Running(running) = read else {
            panic!("it runs");
        };
        assert_eq!(running.health, health);
    }
}

#[test]
fn a_container_without_our_labels_is_not_read() {
    let foreign = shown(|json| json["Config"]["Labels"] = serde_json::json!({"a": "b"}));
    assert_eq!(observed(foreign), None);
    let bare = shown(|json| json["Config"]["Labels"] = serde_json::Value::Null);
    assert_eq!(observed(bare), None);
}

#[test]
fn a_healthcheck_is_a_command_that_exec_takes() {
    let check = |test: serde_json::Value, shell: serde_json::Value| {
        let read = observed(shown(|json| {
            json["Config"]["Healthcheck"] =
                serde_json::json!({"Test": test, "Timeout": 2_000_000_000_i64});
            json["Config"]["Shell"] = shell;
        }));
        read.unwrap().check
    };
    let none = serde_json::Value::Null;
    let direct = check(serde_json::json!(["CMD", "a", "b"]), none.clone()).unwrap();
    assert_eq!(direct.command, ["a", "b"]);
    assert_eq!(direct.timeout, Duration::from_secs(2));
    let by_shell = check(serde_json::json!(["CMD-SHELL", "a b"]), none.clone()).unwrap();
    assert_eq!(by_shell.command, ["/bin/sh", "-c", "a b"]);
    let by_own = check(
        serde_json::json!(["CMD-SHELL", "a"]),
        serde_json::json!(["/bin/bash", "-c"]),
    );
    assert_eq!(by_own.unwrap().command, ["/bin/bash", "-c", "a"]);
    for off in [serde_json::json!(["NONE"]), serde_json::json!([])] {
        assert_eq!(check(off, none.clone()), None);
    }
}

#[test]
fn what_is_asked_for_is_what_the_engine_is_told() {
    let port = ContainerPort {
        port: 80,
        protocol: Protocol::Udp,
    };
    let spec = CreateSpec {
        name: "n".to_owned(),
        image: "i".to_owned(),
        entrypoint: None,
        command: Some(vec!["c".to_owned()]),
        env: [("A".to_owned(), "b=c".to_owned())].into(),
        labels: labels(),
        user: None,
        workdir: None,
        stop_signal: Some("SIGINT".to_owned()),
        stop_timeout: Duration::from_millis(1_500),
        healthcheck: HealthcheckChoice::Own(Healthcheck {
            command: vec!["true".to_owned()],
            interval: Some(Duration::from_secs(1)),
            timeout: None,
            retries: Some(2),
            start_period: None,
        }),
        mounts: vec![Mount {
            source: MountSource::Path("/srv".to_owned()),
            target: "/x".to_owned(),
            read_only: true,
        }],
        ports: [(port, SocketAddr::from(([10, 0, 0, 1], 20_000)))].into(),
        network: "bridge".to_owned(),
        hosts: [("backends".to_owned(), IpAddr::from([172, 17, 0, 1]))].into(),
        dns: Some(IpAddr::from([172, 17, 0, 1])),
        dns_search: Some("shop.skydns.local".to_owned()),
        dns_options: vec!["ndots:2".to_owned()],
        log: Log::default(),
        cpu_millis: Some(1_500),
        memory: Some(64 << 20),
        ulimits: [(UlimitName::Nofile, Ulimit::NOFILE)].into(),
    };
    let json = serde_json::to_value(create_body(&spec, i64::MAX)).unwrap();
    let sent = |healthcheck, max_file| {
        let log = Log {
            max_file,
            ..Log::default()
        };
        let spec = CreateSpec {
            healthcheck,
            log,
            ..spec.clone()
        };
        let json = serde_json::to_value(create_body(&spec, i64::MAX)).unwrap();
        let compress = json["HostConfig"]["LogConfig"]["Config"]["compress"].clone();
        (json["Healthcheck"]["Test"].clone(), compress)
    };
    let null = serde_json::Value::Null;
    assert_eq!(
        sent(HealthcheckChoice::Off, 1),
        (serde_json::json!(["NONE"]), serde_json::json!("false"))
    );
    assert_eq!(sent(HealthcheckChoice::Image, 2), (null.clone(), null));
    assert_eq!(json["Env"], serde_json::json!(["A=b=c"]));
    assert_eq!(json["StopTimeout"], 2);
    let host = &json["HostConfig"];
    assert_eq!(host["NanoCpus"], 1_500_000_000_i64);
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["MemorySwap"], host["Memory"]);
    assert_eq!(
        host["Ulimits"],
        serde_json::json!([{"Name": "nofile", "Soft": 1 << 20, "Hard": 1 << 20}])
    );
    assert_eq!(json["ExposedPorts"], serde_json::json!({"80/udp": {}}));
    assert_eq!(
        json["Healthcheck"]["Test"],
        serde_json::json!(["CMD", "true"])
    );
    assert_eq!(json["Healthcheck"]["Interval"], 1_000_000_000_i64);
    let host = &json["HostConfig"];
    assert_eq!(
        host["PortBindings"],
        serde_json::json!({"80/udp": [{"HostIp": "10.0.0.1", "HostPort": "20000"}]})
    );
    assert_eq!(host["RestartPolicy"]["Name"], "no");
    assert_eq!(host["LogConfig"]["Config"]["max-size"], "10485760");
    assert_eq!(
        host["ExtraHosts"],
        serde_json::json!(["backends:172.17.0.1"])
    );
    assert_eq!(host["DnsOptions"], serde_json::json!(["ndots:2"]));
    assert_eq!(host["Mounts"][0]["Type"], "bind");
    // Binds would make Docker create the path.
    assert_eq!(host.get("Binds"), None);
    assert_eq!(json.get("Entrypoint"), None);
}

#[test]
fn an_engine_says_what_it_works_with() {
    let says = |json| {
        let info = serde_json::from_value(json).unwrap();
        docker(&info, super::super::NEWEST)
    };
    let old = says(serde_json::json!({
        "ServerVersion": "20.10.24", "Driver": "overlay2", "CgroupVersion": "1",
        "DriverStatus": [["Backing Filesystem", "extfs"]]
    }));
    assert_eq!(
        (old.store.to_string().as_str(), old.cgroup),
        ("overlay2", 1)
    );
    assert_eq!(
        (old.firewall.as_str(), old.userland_proxy),
        ("iptables", None)
    );
    let new = says(serde_json::json!({
        "ServerVersion": "29.10.0", "Driver": "overlayfs", "CgroupVersion": "2",
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "FirewallBackend": {"Driver": "nftables", "Info": [
            ["EnableUserlandProxy", "false"], ["UserlandProxyPath", "/usr/bin/docker-proxy"]
        ]}
    }));
    let expected = Docker {
        version: "29.10.0".to_owned(),
        api: "1.53".to_owned(),
        store: ImageStore {
            driver: "overlayfs".to_owned(),
            containerd: true,
        },
        firewall: "nftables".to_owned(),
        cgroup: 2,
        userland_proxy: Some(false),
    };
    assert_eq!(new, expected);
    assert_eq!(new.store.to_string(), "overlayfs (containerd)");
}

#[test]
fn only_the_default_of_open_files_gives_way_to_the_machine() {
    let on_small = |name, limit| {
        let sent = ulimits(&[(name, limit)].into(), 4096);
        let sent = sent.first().unwrap();
        (sent.soft.unwrap(), sent.hard.unwrap())
    };
    let larger = Ulimit {
        soft: 1024,
        hard: 1 << 21,
    };
    let (files, threads) = (UlimitName::Nofile, UlimitName::Nproc);
    assert_eq!(on_small(files, Ulimit::NOFILE), (4096, 4096));
    assert_eq!(on_small(files, larger), (1024, 1 << 21));
    assert_eq!(on_small(threads, Ulimit::NOFILE), (1 << 20, 1 << 20));
    assert_eq!(on_small(threads, Ulimit::both(-1)), (-1, -1));
}

#[test]
fn events_say_what_happened_to_which_instance() {
    let message = |action: &str| {
        let mut attributes: HashMap<String, String> = labels().into_iter().collect();
        attributes.insert("exitCode".to_owned(), "3".to_owned());
        event(models::EventMessage {
            action: Some(action.to_owned()),
            actor: Some(models::EventActor {
                id: Some("d1".to_owned()),
                attributes: Some(attributes),
            }),
            ..models::EventMessage::default()
        })
    };
    for (action, expected) in [
        ("create", Change::Created),
        ("die", Change::Died(Some(3))),
        ("health_status: healthy", Change::Health),
        ("destroy", Change::Removed),
    ] {
        let Some(EngineEvent::Container {
            docker_id,
            owner,
            change,
        }) = message(action)
        else {
            panic!("{action} is an event");
        };
        assert_eq!(docker_id, "d1");
        assert_eq!(owner, Some((Uuid::from_u128(7), "i-1".parse().unwrap())));
        assert_eq!(change, expected);
    }
    assert_eq!(message("exec_start: true"), None);
}

#[test]
fn a_line_of_a_log_begins_with_its_time() {
    let line = b"1970-01-01T00:00:01.000000002Z hello world\n";
    let (at, rest) = stamped(line).unwrap();
    assert_eq!((at, rest), (1_000_000_002, &b"hello world\n"[..]));
    assert_eq!(stamped(b"hello"), None);
    assert_eq!(millis("0001-01-01T00:00:00Z"), 0);
}

#[test]
fn an_image_of_which_only_the_list_tells_is_like_none_but_itself() {
    // As Docker 28 shows one whose layers containerd has from another.
    let bare = serde_json::json!({"Id": "sha256:a", "RootFS": {}, "Config": {"Cmd": null}});
    assert!(serde_json::from_value::<models::ImageInspect>(bare).is_err());
    let listed = |id: &str| {
        listed_image(models::ImageSummary {
            id: id.to_owned(),
            repo_digests: vec![format!("shop/web@{id}")],
            ..models::ImageSummary::default()
        })
    };
    let (one, other) = (listed("sha256:a"), listed("sha256:b"));
    assert_ne!(one.content, other.content);
    assert_eq!(one.repo_digests, ["shop/web@sha256:a"]);
}

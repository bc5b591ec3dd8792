//! What holds for any text and any manifest.

use std::time::Duration;

use manifests::image_policy::ImagePolicy;
use manifests::manifest::{
    Constraint, Healthcheck, HealthcheckChoice, Link, Log, Placement, Protocol, Pull, Ready, Scale,
    Service, Ulimit, UlimitName, Volume, VolumeSource,
};
use manifests::parse::{self, MAX_PROBLEMS, Problem};
use manifests::update::{Before, OnFailure, Order, Parallelism, Rebalance, Update};
use manifests::{Manifest, canonical, env};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::Value;

use super::schema;

fn name<N: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug>() -> impl Strategy<Value = N>
{
    "[a-z0-9]{1,3}(-{1,2}[a-z0-9]{1,3}){0,2}".prop_map(|text| text.parse().expect("a name"))
}

/// Any text without NUL.
fn text() -> impl Strategy<Value = String> {
    "[^\u{0}]{0,12}"
}

fn millis(from: u64) -> impl Strategy<Value = Duration> {
    (from..720 * 3_600_000).prop_map(Duration::from_millis)
}

prop_compose! {
    fn service()(
        port in 1..=u16::MAX,
        udp: bool,
        role in option::of(text()),
        started: bool,
        bind in option::of(any::<std::net::IpAddr>()),
    ) -> Service {
        // On every address no port of the agent's.
        let is_agents = port == 53 || (10_000..=10_255).contains(&port);
        let bind = bind.filter(|bind| !(is_agents && bind.is_unspecified()));
        Service {
            port,
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            role,
            ready: if started { Ready::Started } else { Ready::Listening },
            // A port of its own for each service, so that no two have the same.
            host_port: bind.map(|_| port),
            bind,
        }
    }
}

prop_compose! {
    fn link()(app in option::of(name()), service in name(), alias in option::of(name())) -> Link {
        let alias = alias.filter(|alias| *alias != service);
        Link { app, service, alias }
    }
}

prop_compose! {
    fn volume()(
        source in prop_oneof![
            "/[^\u{0}]{0,8}".prop_map(VolumeSource::HostPath),
            "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,8}".prop_map(VolumeSource::Named),
            "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,8}".prop_map(VolumeSource::External),
        ],
        target in "/[a-z: ]{1,8}",
        read_only: bool,
    ) -> Volume {
        Volume { source, target, read_only }
    }
}

prop_compose! {
    fn healthcheck()(
        mut command in vec(text(), 0..3),
        program in "[a-z/]{1,8}",
        interval in option::of(millis(1)),
        timeout in option::of(millis(1)),
        retries in option::of(1..=1000_u32),
        start_period in option::of(millis(0)),
    ) -> Healthcheck {
        command.insert(0, program);
        Healthcheck { command, interval, timeout, retries, start_period }
    }
}

prop_compose! {
    fn constraint()(
        label in "[a-zA-Z0-9]([a-z0-9._/-]{0,4}[a-z0-9])?",
        equal: bool,
        value in "[a-zß!:.]([a-z =!:.]{0,4}[a-z])?",
    ) -> Constraint {
        Constraint { label, equal, value }
    }
}

prop_compose! {
    fn placement()(
        wanted in vec(constraint(), 0..4),
        max_per_host in option::of(1..=1000_u32),
        spread in option::of("[a-z]([a-z0-9._/-]{0,4}[a-z])?"),
    ) -> Placement {
        let mut constraints: Vec<Constraint> = Vec::new();
        for constraint in wanted {
            if constraints.iter().all(|other| other.label != constraint.label) {
                constraints.push(constraint);
            }
        }
        Placement { constraints, max_per_host, spread }
    }
}

fn ulimit_name() -> impl Strategy<Value = UlimitName> {
    use UlimitName::{Core, Memlock, Nofile};
    prop_oneof![Just(Core), Just(Memlock), Just(Nofile)]
}

fn ulimit() -> impl Strategy<Value = Ulimit> {
    let most = 1_i64 << 50;
    prop_oneof![
        (-1..=most).prop_map(Ulimit::both),
        (0..=most).prop_flat_map(move |soft| {
            (soft..=most).prop_map(move |hard| Ulimit { soft, hard })
        }),
        (-1..=most).prop_map(|soft| Ulimit { soft, hard: -1 }),
    ]
}

prop_compose! {
    fn outside()(
        services in btree_map(name(), service(), 0..4),
        links in vec(link(), 0..4),
        volumes in vec(volume(), 0..4),
        variables in btree_map("[a-zA-Z_.-][a-zA-Z0-9_.-]{0,6}", text(), 0..4),
        labels in btree_map("[a-z.]{1,6}", text(), 0..3),
        ulimits in btree_map(ulimit_name(), ulimit(), 0..3),
    ) -> Manifest {
        let mut manifest = Manifest::of_image("x");
        for link in links {
            let name = env::link_variable_name(&link);
            if manifest.links.iter().all(|other| env::link_variable_name(other) != name) {
                manifest.links.push(link);
            }
        }
        for volume in volumes {
            if manifest.volumes.iter().all(|other| other.target != volume.target) {
                manifest.volumes.push(volume);
            }
        }
        for (name, service) in services {
            let taken = |other: &Service| other.port == service.port;
            if !manifest.services.values().any(taken) {
                manifest.services.insert(name, service);
            }
        }
        manifest.env = variables;
        manifest.labels = labels;
        manifest.ulimits.extend(ulimits);
        manifest
    }
}

prop_compose! {
    fn update()(
        parallelism in prop_oneof![
            (1..=1000_u32).prop_map(Parallelism::Slots),
            (1..=100_u32).prop_map(Parallelism::Percent),
        ],
        order in option::of(prop_oneof![Just(Order::StartFirst), Just(Order::StopFirst)]),
        times in (millis(0), millis(0)),
        max_failures in 0..=1000_u32,
        on_failure in prop_oneof![
            Just(OnFailure::Pause), Just(OnFailure::Rollback), Just(OnFailure::Continue)
        ],
    ) -> Update {
        let goes_on = on_failure == OnFailure::Continue;
        Update {
            parallelism,
            order,
            monitor: times.0,
            delay: times.1,
            max_failures: if goes_on { 0 } else { max_failures },
            on_failure,
        }
    }
}

prop_compose! {
    fn before()(
        command in vec(text(), 1..4),
        image in option::of("[a-z]{1,5}"),
        timeout in 1_000..=86_400_000_u64,
    ) -> Before {
        Before { command, image, timeout: Duration::from_millis(timeout) }
    }
}

prop_compose! {
    fn manifest()(
        image in "([a-z]{1,5}\\.io/)?[a-z0-9]{1,6}(/[a-z]{1,4})?(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,5})?",
        scale in option::weighted(0.9, 0..=1000_u32),
        command in option::of(vec(text(), 1..4)),
        entrypoint in option::of(vec(text(), 0..4)),
        user in option::of("[^\u{0}]{1,8}"),
        workdir in option::of("/[^\u{0}]{0,8}"),
        stop_signal in option::of(prop_oneof![
            Just("SIGINT".to_owned()), Just("SIGRTMIN+3".to_owned()), Just("9".to_owned())
        ]),
        timeouts in (millis(0), millis(1)),
        pull in prop_oneof![Just(Pull::Missing), Just(Pull::Always), Just(Pull::Never)],
        healthcheck in prop_oneof![
            Just(HealthcheckChoice::Image),
            Just(HealthcheckChoice::Off),
            healthcheck().prop_map(HealthcheckChoice::Own),
        ],
        log in (1024..1_u64 << 40, 1..=1000_u32),
        resources in (option::of(10..=1_024_000_u32), option::of(6_u64 << 20..=16 << 40), placement()),
        policy in (update(), (0..=3_600_000_u64), (any::<bool>(), any::<bool>()), option::of("[^\u{0}]{1,8}")),
        image_policy in option::of((millis(10_000), any::<bool>())),
        outside in outside(),
        before in option::of(before()),
    ) -> Manifest {
        let mut manifest = Manifest {
            before,
            update: policy.0,
            drain_timeout: Duration::from_millis(policy.1),
            stopped: policy.2.0,
            rebalance: if policy.2.1 { Rebalance::Off } else { Rebalance::Auto },
            restarted_at: policy.3,
            image,
            scale: scale.map_or(Scale::Global, Scale::Count),
            command,
            entrypoint,
            user,
            workdir,
            stop_signal,
            stop_timeout: timeouts.0,
            start_timeout: timeouts.1,
            pull,
            healthcheck,
            log: Log { max_size: log.0, max_file: log.1 },
            cpu_millis: resources.0,
            memory: resources.1,
            placement: resources.2,
            ..outside
        };
        if scale.is_none() {
            manifest.placement.max_per_host = None;
            manifest.placement.spread = None;
        }
        let follows = image_policy.filter(|_| pull != Pull::Never);
        manifest.image_policy = follows.map(|(check, by_tag)| ImagePolicy {
            check,
            tags: by_tag.then(|| "1.*".parse().expect("a pattern")),
        });
        if follows.is_some_and(|(_, by_tag)| by_tag) {
            "a:1.2".clone_into(&mut manifest.image);
        }
        if manifest.why_stop_first().is_some() {
            manifest.update.order = manifest.update.order.map(|_| Order::StopFirst);
        }
        manifest
    }
}

/// Any JSON value.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3..70_000_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        "[a-z/:=0-9]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let field = prop_oneof![
            proptest::sample::select(field_names()).prop_map(str::to_owned),
            ".{0,4}",
        ];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(field, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn field_names() -> Vec<&'static str> {
    use manifests::fields::{
        BEFORE, HEALTHCHECK, IMAGE_POLICY, LOG, MANIFEST, PLACEMENT, SERVICE, ULIMIT, UPDATE,
        VOLUME,
    };
    [
        MANIFEST,
        SERVICE,
        VOLUME,
        ULIMIT,
        HEALTHCHECK,
        LOG,
        PLACEMENT,
        UPDATE,
        IMAGE_POLICY,
        BEFORE,
    ]
    .into_iter()
    .flatten()
    .map(|field| field.name)
    .collect()
}

/// Every place of a value, and what is put there.
fn replace_at(value: &mut Value, place: &mut usize, new: &Value) {
    if *place == 0 {
        *value = new.clone();
    }
    *place = place.wrapping_sub(1);
    match value {
        Value::Array(elements) => {
            for element in elements {
                replace_at(element, place, new);
            }
        }
        Value::Object(properties) => {
            for (_, element) in properties.iter_mut() {
                replace_at(element, place, new);
            }
        }
        _ => {}
    }
}

/// What holds for the answer to any bytes.
fn check_answers(bytes: &[u8]) {
    let strict = parse::strict(bytes);
    let lenient = parse::lenient(bytes);
    for answer in [&strict, &lenient] {
        match answer {
            Ok(parsed) => check_positions(bytes, &parsed.warnings),
            Err(problems) => {
                assert!(!problems.is_empty());
                check_positions(bytes, problems);
            }
        }
    }
    match (&strict, &lenient) {
        (Ok(strict), Ok(lenient)) => assert_eq!(strict, lenient),
        (Ok(_), Err(problems)) => panic!("only the agent refuses: {problems:?}"),
        _ => {}
    }
    if let Ok(parsed) = &strict {
        check_manifest(&parsed.manifest);
        assert!(schema().is_valid(&parsed.json), "{}", parsed.json);
        let again = parse::from_json(&parsed.json).expect("valid as a version");
        assert_eq!(again.manifest, parsed.manifest);
        assert_eq!(again.json, parsed.json);
    }
}

fn check_positions(bytes: &[u8], problems: &[Problem]) {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.split('\n').collect();
    assert!(problems.len() <= MAX_PROBLEMS);
    for problem in problems {
        let line = lines[problem.line - 1];
        assert!(
            (1..=line.chars().count() + 1).contains(&problem.column),
            "{problem}"
        );
        assert!(!problem.to_string().contains('\n'), "{problem}");
        assert!(problem.what.contains("; "), "{problem}");
    }
    assert!(problems.is_sorted_by_key(|problem| (problem.line, problem.column)));
}

/// What is printed is the same manifest, for parser and schema.
fn check_manifest(manifest: &Manifest) {
    let json = canonical::to_json(manifest);
    let parsed = parse::strict(json.to_string().as_bytes());
    let parsed = parsed.unwrap_or_else(|problems| panic!("{json}\n{problems:?}"));
    assert_eq!(&parsed.manifest, manifest, "{json}");
    assert_eq!(canonical::to_json(&parsed.manifest), json);
    assert_eq!(
        canonical::hash(&parsed.manifest, "x"),
        canonical::hash(manifest, "x")
    );
}

/// Large texts in shapes that tempt to quadratic work, which would take minutes here.
#[test]
fn large_texts_get_an_answer() {
    const SIZE: usize = 1 << 18;
    let filled = |begin: &str, piece: &str, end: &str| {
        format!("{begin}{}{end}", piece.repeat(SIZE / piece.len()))
    };
    let numbered = |begin: &str, piece: &str, end: &str| {
        let pieces: Vec<String> = (0..SIZE / 16)
            .map(|n| piece.replace('N', &n.to_string()))
            .collect();
        format!("{begin}{}{end}", pieces.join(","))
    };
    for text in [
        filled("{\"image\": \"", "a", "\"}"),
        filled("{\"", "a", "\": 1}"),
        filled("{\"image\": \"a\", \"env\": {\"", "é", "\": 1}}"),
        filled("", "[", ""),
        filled("", "{\"a\":", ""),
        filled("", "\n", "x"),
        filled("{\"command\": \"", "'a' ", "\"}"),
        filled("{\"links\": [", "\"a\",", "1]}"),
        numbered("{", "\"xN\": 1", "}"),
        numbered("{\"image\": \"a\", \"env\": {", "\"N\": N", "}}"),
        numbered("{\"image\": \"a\", \"env\": [", "\"AN=N\"", "]}"),
        numbered("{\"image\": \"a\", \"services\": {", "\"N\": N", "}}"),
        numbered(
            "{\"image\": \"a\", \"placement\": {\"constraints\": [",
            "\"a==N\"",
            "]}}",
        ),
        numbered("{\"image\": \"a\", \"volumes\": [", "\"vN:/N\"", "]}"),
    ] {
        check_answers(text.as_bytes());
    }
}

proptest! {
    #[test]
    fn a_printed_manifest_reads_back(manifest in manifest()) {
        check_manifest(&manifest);
        check_answers(canonical::to_json(&manifest).to_string().as_bytes());
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in vec(any::<u8>(), 0..64)) {
        check_answers(&bytes);
    }

    #[test]
    fn any_text_gets_an_answer(text in "[\\[\\]{}\",:\\\\ a-zà-ü0-9.\n\t+-]{0,40}") {
        check_answers(text.as_bytes());
    }

    #[test]
    fn any_json_gets_an_answer(json in json()) {
        let text = serde_json::to_string_pretty(&json).expect("JSON");
        check_answers(text.as_bytes());
        if let Err(problems) = parse::strict(text.as_bytes()) {
            prop_assert!(!problems[0].what.contains("invalid JSON"), "{}", problems[0]);
        }
    }

    #[test]
    fn a_damaged_manifest_gets_an_answer(
        manifest in manifest(),
        at: prop::sample::Index,
        remove in 0..4_usize,
        insert in "[\\[\\]{}\",:\\\\ a0.\n-]{0,2}",
    ) {
        let json = canonical::to_json(&manifest);
        let mut text = serde_json::to_vec_pretty(&json).expect("JSON");
        let start = at.index(text.len());
        let end = (start + remove).min(text.len());
        text.splice(start..end, insert.bytes());
        check_answers(&text);
    }

    #[test]
    fn a_changed_manifest_gets_an_answer(
        manifest in manifest(),
        place in 1..40_usize,
        new in json(),
    ) {
        let mut json = canonical::to_json(&manifest);
        replace_at(&mut json, &mut { place }, &new);
        check_answers(json.to_string().as_bytes());
    }

    #[test]
    fn a_text_that_is_cut_says_so(manifest in manifest(), at: prop::sample::Index) {
        let json = canonical::to_json(&manifest);
        let text = json.to_string();
        let mut end = at.index(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let cut = &text.as_bytes()[..end];
        check_answers(cut);
        if !cut.is_empty() {
            let problems = parse::strict(cut).expect_err("cut");
            prop_assert!(problems[0].what.starts_with("unexpected end of JSON"), "{}", problems[0]);
        }
    }
}

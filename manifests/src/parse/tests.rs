use super::*;

fn problems(text: &str) -> Vec<String> {
    strict(text.as_bytes())
        .expect_err(text)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_tutorials_manifests() {
    let nginx = strict(br#"{"image": "dockerfile/nginx", "scale": 1, "services": {"nginx": 80}}"#)
        .expect("valid");
    assert_eq!(nginx.manifest.services.len(), 1);
    assert_eq!(nginx.json["services"]["nginx"], 80);
    let crawler = strict(
        br#"{"image": "dockerfile/ubuntu", "scale": 1,
             "command": ["/bin/bash", "-c", "while true; do curl http://$SERVICE_NGINX_ADDR:$SERVICE_NGINX_PORT; sleep 2; done"],
             "links": ["nginx"]}"#,
    )
    .expect("valid");
    assert_eq!(crawler.manifest.links.len(), 1);
    assert!(crawler.warnings.is_empty());
}

#[test]
fn all_problems_at_once_in_the_order_of_the_text() {
    assert_eq!(
        problems("{\"scale\": -1,\n \"link\": [],\n  \"services\": {\"ä\": 0}}"),
        [
            "1:1 image: is required; expected the image to run, such as \"nginx\"",
            "1:11 scale: -1 is negative; expected a whole number from 0 to 1000, or \"global\"",
            "2:2 link: unknown field `link`; did you mean `links`?",
            "3:16 services.\"ä\": `ä` is not a DNS label; expected lower-case letters, digits and inner hyphens, such as `web-1`",
            "3:21 services.\"ä\": 0 is out of range; expected a whole number from 1 to 65535",
        ]
    );
}

#[test]
fn at_most_twenty() {
    let many: Vec<String> = (0..50).map(|n| format!("\"x{n}\": 1")).collect();
    let found = problems(&format!("{{{}}}", many.join(",")));
    assert_eq!(found.len(), MAX_PROBLEMS);
    // The image is missing, too.
    assert!(found[MAX_PROBLEMS - 1].ends_with("; and 31 more"));
    assert!(!found[MAX_PROBLEMS - 2].contains("more"));
}

#[test]
fn columns_are_counted_in_characters() {
    assert_eq!(
        problems("{\"image\": \"a\", \"env\": {\"ÄÖÜ€\": 1}}"),
        [
            "1:24 env.\"ÄÖÜ€\": `ÄÖÜ€` is not a valid variable name; expected letters, digits, `_`, `.` and `-`, not starting with a digit"
        ]
    );
    assert_eq!(
        problems("{\"ÄÖÜ€\": ]"),
        [
            "1:10 manifest: invalid JSON; expected a value: an object, a list, a \"string\", a number, true, false or null"
        ]
    );
}

#[test]
fn bytes_that_are_no_text() {
    let at = |bytes: &[u8]| strict(bytes).expect_err("invalid")[0].to_string();
    assert_eq!(
        at(b"{\"image\":\n \"\xff\"}"),
        "2:3 manifest: invalid UTF-8 byte 0xff; expected JSON in UTF-8"
    );
    assert_eq!(
        at(b"\xef\xbb\xbf{}"),
        "1:1 manifest: starts with a byte order mark; expected UTF-8 without one"
    );
    assert!(at(b"").starts_with("1:1 manifest: is empty"));
    assert!(at(b" \n\t").starts_with("1:1 manifest: is empty"));
}

#[test]
fn a_text_that_was_cut_short() {
    assert_eq!(
        problems("{\"image\":\"a\""),
        ["1:13 manifest: unexpected end of JSON input; expected a closing bracket or quote"]
    );
}

#[test]
fn the_agent_only_warns_of_unknown_fields() {
    let parsed =
        lenient(br#"{"image": "a", "link": [], "services": {"web": {"port": 80, "prot": 1}}}"#)
            .expect("valid");
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "1:16 link: unknown field `link`; did you mean `links`?",
            "1:61 services.web.prot: unknown field `prot`; did you mean `port`?",
        ]
    );
    let late = lenient(br#"{"image": "a", "devices": 1}"#).expect_err("invalid");
    assert_eq!(
        late[0].to_string(),
        "1:16 devices: is not supported yet; remove it"
    );
}

#[test]
fn a_json_value_has_no_positions() {
    let error = from_json(&serde_json::json!({"image": 1})).expect_err("invalid");
    assert_eq!((error[0].line, error[0].column), (0, 0));
    let parsed = from_json(&serde_json::json!({"image": "a", "x": 1})).expect("valid");
    assert_eq!((parsed.warnings[0].line, parsed.warnings[0].column), (0, 0));
}

#[test]
fn a_port_of_the_agent_at_the_bridge_is_no_host_port_on_every_address() {
    let errors = |port: u16, bind: &str| {
        let text = format!(
            r#"{{"image": "x", "services": {{"s": {{"port": 80, "host_port": {port}, "bind": "{bind}"}}}}}}"#
        );
        crate::parse::lenient(text.as_bytes())
            .err()
            .map_or(0, |errors| errors.len())
    };
    for port in [53, 10_000, 10_255] {
        assert_eq!(errors(port, "0.0.0.0"), 1, "{port}");
        assert_eq!(errors(port, "::"), 1, "{port}");
        assert_eq!(errors(port, "10.0.0.1"), 0, "{port}");
    }
    for port in [54, 9_999, 10_256] {
        assert_eq!(errors(port, "0.0.0.0"), 0, "{port}");
    }
}
